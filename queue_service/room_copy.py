"""This replica's copy of a room: read from the store once, then kept up to date by its log."""

import asyncio
import contextlib
from array import array
from collections.abc import AsyncIterator, Iterator, Sequence

from protos.frontrow.queue.v1 import queue_pb2
from queue_service.change_log import STEP_PLACES
from queue_service.domain import Limits, RoomMemory
from queue_service.ports import MAX_BLOCK_MS, QueueStore
from queue_service.recent_changes import RecentChanges
from room_view.view import Admission, Gap, RoomView
from servicekit import logs
from servicekit.errors import is_transient
from servicekit.retries import Outage

log = logs.get(__name__)

# Reads of the log are that far apart under load: each costs about half a millisecond, however much
# it returns. Watchers get one message for each.
_READ_EVERY_SECONDS = 0.015
# The log has a change before the caller of its script has the answer. If it does not come for this
# long, the connection leads to another server, or the log was lost.
_PATIENCE_SECONDS = 1.0
_PATIENCE_MS = 1_000
_RETRY_SECONDS = 0.2
# Without watchers, the copy is kept for those that come back.
_KEEP_SECONDS = 60.0
# A snapshot of a million places takes about half a second. Half of what a heartbeat waits for its
# changes (see `Watch`): it gets them also if the store loses the room just after a load.
_LOAD_EVERY_SECONDS = 0.5
# While a replica of the version before changes the room, each of its changes makes a new snapshot
# necessary. Nobody uses a copy then: see RoomFields.unrecorded_at_ms.
_LOAD_EVERY_SECONDS_UNRECORDED = 10.0

PART_PLACES = 65_536
"""Waiting places in one part of a snapshot: half a megabyte."""
PART_ADMISSIONS = 5_000
"""Admitted places in one part of a snapshot: a quarter of a megabyte at most."""


class RoomCopy:
    """A copy of one room, while somebody watches it, and its newest changes.

    `view` and `recent` are replaced together by each new snapshot of the store: after a loss, or
    after a gap in the log. Both are None until the first one.
    """

    def __init__(self, store: QueueStore, room: str, rules: queue_pb2.RoomRules) -> None:
        self.view: RoomView | None = None
        self.recent: RecentChanges | None = None
        self._store = store
        self._room = room
        self._rules = rules
        self._after_id: str | None = None  # None: the view has to be loaded
        self._wakes: set[asyncio.Event] = set()
        self._wanted = asyncio.Event()
        self._unwatched_at = 0.0
        self._load_at = 0.0
        self._hurry = asyncio.Event()
        self._patience: asyncio.Timeout | None = None
        self._outage = Outage(log, "room_copy_unavailable", "room_copy_available", room=room)

    @contextlib.contextmanager
    def watched(self, wake: asyncio.Event) -> Iterator[None]:
        """Keeps the copy up to date, and sets `wake` after each change, for as long as the block
        runs."""
        self._wakes.add(wake)
        self._wanted.set()
        try:
            yield
        finally:
            self._wakes.discard(wake)
            self._unwatched_at = asyncio.get_running_loop().time()

    def has(self, epoch: int, seq: int) -> bool:
        """Whether the copy has this change, or is of a later epoch."""
        return self.view is not None and (self.view.epoch, self.view.seq) >= (epoch, seq)

    def expect(self, epoch: int, seq: int) -> None:
        """Makes the copy read this change, which a script has made, without a pause. If the log
        does not have it soon, the copy is loaded anew."""
        if self.has(epoch, seq):
            return
        self._hurry.set()
        if self._patience is not None and self._patience.when() is None:
            self._patience.reschedule(asyncio.get_running_loop().time() + _PATIENCE_SECONDS)

    def snapshot(self) -> Iterator[queue_pb2.RoomSnapshot]:
        """Returns the parts of a snapshot. It is exact as of this call, however long the parts
        take. Needs a view."""
        view = self.view
        assert view is not None
        # 8 bytes a place: a copy of a million takes 2 ms, and the parts may then be made one by
        # one while the line changes.
        waiting = array("q")
        for block in view.line.blocks():
            waiting.extend(block)
        first = queue_pb2.RoomSnapshot(
            epoch=view.epoch,
            seq=view.seq,
            fields=view.fields,
            rules=self._rules,
            last=view.last,
            is_first=True,
        )
        return _parts(first, waiting, list(view.admitted.items()))

    async def run(self) -> None:
        """Follows the room while it is watched; otherwise makes no call."""
        while True:
            await self._wanted.wait()
            while self._is_wanted():
                await self._follow()
            self._wanted.clear()
            self.view = self.recent = self._after_id = None

    def _is_wanted(self) -> bool:
        now = asyncio.get_running_loop().time()
        return bool(self._wakes) or now < self._unwatched_at + _KEEP_SECONDS

    async def _follow(self) -> None:
        """Takes one step: loads the copy, or reads the next changes."""
        try:
            if self._after_id is None:
                await self._load()
            else:
                await self._read(self._after_id)
        except Gap:
            self._after_id = None
        except Exception as error:
            if not is_transient(error):
                raise
            self._outage.failed(error)
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            self._outage.succeeded()

    async def _load(self) -> None:
        """Reads the room from the store. Raises Gap if the log does not continue the snapshot."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._load_at - loop.time())
        self._load_at = loop.time() + _LOAD_EVERY_SECONDS
        snapshot = await self._store.snapshot(self._room)
        view, complete_at = await _read_parts(snapshot.parts, self._rules)
        recent, after_id = RecentChanges(view.epoch, view.seq), snapshot.after_id
        while view.seq < complete_at:
            found = await self._store.changes(self._room, after_id, _PATIENCE_MS)
            if not found:
                raise Gap
            after_id = found[-1][0]
            for step in _steps(found):
                _apply(step, view, recent, loop.time())
                await asyncio.sleep(0)
        if self.view and view.fields.unrecorded_at_ms > self.view.fields.unrecorded_at_ms:
            self._load_at = loop.time() + _LOAD_EVERY_SECONDS_UNRECORDED
        self.view, self.recent, self._after_id = view, recent, after_id
        self._changed(view)

    async def _read(self, after_id: str) -> None:
        """Waits for the next changes and applies them. Raises Gap."""
        view, recent = self.view, self.recent
        assert view is not None
        assert recent is not None
        self._hurry.clear()
        try:
            async with asyncio.timeout(None) as self._patience:
                found = await self._store.changes(self._room, after_id, MAX_BLOCK_MS)
        except TimeoutError:
            raise Gap from None
        finally:
            self._patience = None
        for step in _steps(found):
            try:
                _apply(step, view, recent, asyncio.get_running_loop().time())
            finally:
                self._after_id = step[-1][0]
                self._changed(view)
            await asyncio.sleep(0)
        if found:
            await self._pause()

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READ_EVERY_SECONDS):
                await self._hurry.wait()

    def _changed(self, view: RoomView) -> None:
        # Its callers may have seen more of the room than the last script of this replica, and a
        # store that loses that must not go on as if nothing had happened.
        fields = view.fields
        limits = Limits(fields.capacity, fields.max_waiting, fields.paused)
        self._store.remember(self._room, RoomMemory(view.epoch, view.seq, view.last, limits))
        for wake in self._wakes:
            wake.set()


async def _read_parts(
    parts: AsyncIterator[queue_pb2.RoomSnapshot], rules: queue_pb2.RoomRules
) -> tuple[RoomView, int]:
    """Returns the view that these parts make, and the change at which it is exact."""
    first = await anext(parts)
    view = RoomView.begin(first, rules)
    part = first
    while True:
        view.add(part)
        if part.is_last:
            return view, part.complete_at_seq
        part = await anext(parts)


def _steps(
    found: Sequence[tuple[str, queue_pb2.RoomChanges]],
) -> Iterator[Sequence[tuple[str, queue_pb2.RoomChanges]]]:
    """Returns these changes in parts of some thousand places, so that others may run between."""
    first = places = 0
    for n, (_, changes) in enumerate(found, 1):
        places += len(changes.changes)
        if places >= STEP_PLACES or n == len(found):
            yield found[first:n]
            first, places = n, 0


def _apply(
    found: Sequence[tuple[str, queue_pb2.RoomChanges]],
    view: RoomView,
    recent: RecentChanges,
    now: float,
) -> None:
    for _, changes in found:
        if view.apply(changes):
            recent.append(changes, now)


def _parts(
    first: queue_pb2.RoomSnapshot,
    waiting: "array[int]",
    admitted: Sequence[tuple[int, Admission]],
) -> Iterator[queue_pb2.RoomSnapshot]:
    """Returns the parts of a snapshot, of which `first` has no places yet."""
    part = first
    for n in range(0, len(waiting), PART_PLACES):
        if part.waiting:
            yield part
            part = queue_pb2.RoomSnapshot()
        part.waiting.extend(waiting[n : n + PART_PLACES])
    for n in range(0, len(admitted), PART_ADMISSIONS):
        if part.admitted:
            yield part
            part = queue_pb2.RoomSnapshot()
        part.admitted.extend(
            queue_pb2.AdmittedPlace(
                number=number,
                user_id=admission.user_id,
                admitted_until_ms=admission.until_ms,
                claimed=admission.claimed,
            )
            for number, admission in admitted[n : n + PART_ADMISSIONS]
        )
    part.last, part.is_last, part.complete_at_seq = first.last, True, first.seq
    yield part
