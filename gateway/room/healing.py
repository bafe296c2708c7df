"""Gives back to the room what this process knows of an epoch that was lost.

Views of one epoch are prefixes of one history. So the process that has come furthest gives back the
lives, and any process the ends that it was acknowledged; the store decides who (hand_back.lua).
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

from prometheus_client import Counter, Gauge

from gateway.room.copy import RoomCopy
from gateway.room.signs import SignsOfLife
from protos.frontrow.queue.v1 import queue_pb2
from protos.limits import MAX_ITEMS
from room_view.view import Admission, RoomView
from servicekit import logs
from servicekit.errors import ServiceError
from servicekit.retries import Outage

log = logs.get(__name__)

LOSSES = Counter("room_view_losses", "Losses in the store that this process has noticed.")
HEALING = Gauge(
    "room_view_healing",
    "Views of lost epochs from which processes answer, until the room has them back.",
    multiprocess_mode="livesum",
)

# Takes this process 1 ms.
_STEP = 512
# Shorter than a grace, which lasts 75 s. Signs of life and tokens restore places meanwhile.
_LONGEST_SECONDS = 60.0
# For how long a process that may not bid answers for those who shopped, until others have given
# back.
_OTHERS_SECONDS = 5.0
_RETRY_SECONDS = 0.5
# A hand-back takes about 2 s. What holds it up for longer is logged.
_USUAL_SECONDS = 3.0
# Until the first snapshot of the new epoch is here.
_SNAPSHOT_SECONDS = 0.05
# Until every change that the store made before the end of the hand-back has arrived here.
_LAST_LOOK_SECONDS = 1.0
_ASK_SECONDS = 0.02
# Places may return by their tokens during a hand-back, although they had ended. Each round finds
# those of the round before.
_ROUNDS = 5

Item = TypeVar("Item")
HandBack = Callable[[queue_pb2.HandBackRequest], Awaitable[queue_pb2.HandBackResponse]]


class Healing:
    """Bids after each loss, and gives back what was lost if this process is granted that."""

    def __init__(self, copy: RoomCopy, signs: SignsOfLife, hand_back: HandBack, room: str) -> None:
        self._copy = copy
        self._send = hand_back
        self._room = room
        self._name = secrets.token_hex(8)
        self._noticed = asyncio.Event()
        self._outage = Outage(
            log, "room_hand_back_unavailable", "room_hand_back_available", room=room
        )
        self._held_up_by = ""
        self._signs = signs
        copy.on_loss = self._notice

    async def run(self) -> None:
        """Heals after each loss, until cancelled."""
        while True:
            await self._noticed.wait()
            self._noticed.clear()
            LOSSES.inc()
            started = time.monotonic()
            with HEALING.track_inprogress():
                is_done = await self._heal()
            if self._noticed.is_set():
                continue  # another loss
            self._copy.healed()
            seconds = round(time.monotonic() - started, 3)
            if is_done:
                log.info("room_healed", room=self._room, seconds=seconds)
            else:
                log.warning("room_not_healed", room=self._room, seconds=seconds)

    def _notice(self) -> None:
        self._signs.report_again()
        self._noticed.set()

    async def _heal(self) -> bool:
        """Returns whether all was given back, by this process or one that has come as far."""
        lost, started = self._copy.lost, time.monotonic()
        deadline, warn_at = started + _LONGEST_SECONDS, started + _USUAL_SECONDS
        newest = lost.views[0]
        log.warning(
            "room_lost",
            room=self._room,
            epoch=newest.epoch,
            seq=newest.seq,
            waiting=len(newest.line),
            admitted=len(newest.admitted),
            whole=lost.is_whole,
        )
        ends = list(lost.ends)
        is_done = False
        while not is_done and not self._noticed.is_set() and time.monotonic() < deadline:
            try:
                if ends:
                    await self._send(self._request(ended=ends[:MAX_ITEMS]))
                    del ends[:MAX_ITEMS]
                elif lost.is_whole:
                    is_done = await self._bid()
                    if not is_done and time.monotonic() >= warn_at:
                        log.warning("room_hand_back_held_up", room=self._room, by=self._held_up_by)
                        warn_at = deadline
                else:
                    # Others may know more; the tokens restore what this one knows.
                    return lost.is_recorded and await self._is_given_back()
                self._outage.succeeded()
            except ServiceError as error:
                self._outage.failed(error)
                await asyncio.sleep(_RETRY_SECONDS)
        return is_done

    async def _is_given_back(self) -> bool:
        """Waits until the grace of the room is over, as it is after a hand-back; returns whether
        that is so in time."""
        deadline = time.monotonic() + _OTHERS_SECONDS
        while not self._noticed.is_set() and time.monotonic() < deadline:
            room = self._copy.view
            if room is not None and room.fields.grace_until_ms <= self._copy.freshness.now_ms():
                return True
            await asyncio.sleep(_SNAPSHOT_SECONDS)
        return False

    async def _bid(self) -> bool:
        """Bids once, and gives back if that is granted. Returns whether all was given back."""
        reply = await self._send(self._request())
        room = self._copy.view
        if reply.done:
            # Until then, somebody who was handed back as admitted may wait in the view.
            await self._see_everything(time.monotonic())
            return True
        if not reply.granted:
            is_mixed = room is not None and room.misses_changes(self._copy.freshness.now_ms())
            self._held_up_by = "version_before" if is_mixed else "another_copy"
            await asyncio.sleep(reply.retry_after_ms / 1000)
            return False
        self._copy.lost.granted()
        if room is None:
            self._held_up_by = "no_snapshot"
            await asyncio.sleep(_SNAPSHOT_SECONDS)
            return False
        self._held_up_by = "another_copy"  # if that takes the grant meanwhile
        return await self._give_back(room)

    async def _give_back(self, room: RoomView) -> bool:
        """Returns whether all was given back; False if another process is granted that meanwhile,
        or something was lost again."""
        lost = self._copy.lost
        views = list(lost.views)
        started = time.monotonic()
        counts = dict.fromkeys(("ended", "admitted", "waiting"), 0)

        async def send(what: str, requests: Iterable[queue_pb2.HandBackRequest | None]) -> bool:
            for request in requests:
                if request is None:
                    await asyncio.sleep(0)
                    continue
                if self._noticed.is_set() or not (await self._send(request)).granted:
                    return False
                lost.granted()
                counts[what] += len(request.ended) + len(request.admitted) + len(request.waiting)
            return True

        def current() -> RoomView:
            # A new stream may have brought a new snapshot; `room` does not change any more then.
            return self._copy.view or room

        if not (
            await send("ended", self._ended(views, current()))
            and await send("admitted", self._admitted(views, current()))
            and await send("waiting", self._waiting(views, current()))
        ):
            return False
        for _ in range(_ROUNDS):
            before = counts["ended"]
            if not await send("ended", self._ended(views, current())):
                return False
            if counts["ended"] == before:
                break
        if self._noticed.is_set() or not (await self._send(self._request(done=True))).done:
            return False
        log.info(
            "room_handed_back",
            room=self._room,
            seconds=round(time.monotonic() - started, 3),
            **counts,
        )
        # Since the end of the hand-back, no place returns that has ended.
        await self._see_everything(time.monotonic())
        await send("ended", self._ended(views, current()))
        return True

    async def _see_everything(self, since: float) -> None:
        """Waits until the view has all changes that were made before `since`, at most a second."""
        freshness = self._copy.freshness
        while freshness.as_of < since and time.monotonic() < since + _LAST_LOOK_SECONDS:
            if not freshness.is_asking:
                freshness.ask()
            await asyncio.sleep(_ASK_SECONDS)

    def _ended(
        self, views: list[RoomView], room: RoomView
    ) -> Iterator[queue_pb2.HandBackRequest | None]:
        """What lives in the room although its end is known: a view knows all numbers up to its
        last one."""
        last, lives = views[0].last, self._copy.lost.lives

        def steps() -> Iterator[list[int]]:
            for step in room.line.difference(views[0].line):
                yield [number for number in step if number <= last and not lives(number)]
                if step and step[-1] > last:
                    break
            for some in _in_steps(list(room.admitted)):
                yield [number for number in some if number <= last and not lives(number)]

        for numbers in _in_chunks(steps()):
            places = [queue_pb2.Place(room=self._room, number=number) for number in numbers]
            yield self._request(ended=places) if places else None

    def _admitted(
        self, views: list[RoomView], room: RoomView
    ) -> Iterator[queue_pb2.HandBackRequest | None]:
        """Who shopped, newest knowledge first, unless the room knows as much of them."""

        def steps() -> Iterator[list[queue_pb2.AdmittedPlace]]:
            for n, view in enumerate(views):
                for some in _in_steps(list(view.admitted)):
                    yield [
                        _admitted_place(number, view.admitted[number])
                        for number in some
                        if not _knows(room, number, view.admitted[number])
                        and not self._copy.lost.has_ended(number)
                        and not _lives_in(views[:n], number)
                    ]

        for places in _in_chunks(steps()):
            yield self._request(admitted=places) if places else None

    def _waiting(
        self, views: list[RoomView], room: RoomView
    ) -> Iterator[queue_pb2.HandBackRequest | None]:
        """Who waited and does not live in the room, newest knowledge first."""

        def steps() -> Iterator[list[int]]:
            for n, view in enumerate(views):
                for step in view.line.difference(room.line):
                    yield [
                        number
                        for number in step
                        if number not in room.admitted
                        and not self._copy.lost.has_ended(number)
                        and not _lives_in(views[:n], number)
                    ]

        for numbers in _in_chunks(steps()):
            yield self._request(waiting=numbers) if numbers else None

    def _request(
        self,
        ended: Iterable[queue_pb2.Place] = (),
        admitted: Iterable[queue_pb2.AdmittedPlace] = (),
        waiting: Iterable[int] = (),
        *,
        done: bool = False,
    ) -> queue_pb2.HandBackRequest:
        newest = self._copy.lost.views[0]
        return queue_pb2.HandBackRequest(
            room=self._room,
            bidder=self._name,
            lost_epoch=newest.epoch,
            lost_seq=newest.seq,
            last=newest.last,
            ended=ended,
            admitted=admitted,
            waiting=waiting,
            done=done,
            settled=self._copy.lost.is_settled,
        )


def _lives_in(views: list[RoomView], number: int) -> bool:
    return any(number in view.line or number in view.admitted for view in views)


def _knows(room: RoomView, number: int, admission: Admission) -> bool:
    known = room.admitted.get(number)
    return known is not None and (known.claimed or not admission.claimed)


def _admitted_place(number: int, admission: Admission) -> queue_pb2.AdmittedPlace:
    return queue_pb2.AdmittedPlace(
        number=number,
        user_id=admission.user_id,
        admitted_until_ms=admission.until_ms,
        claimed=admission.claimed,
    )


def _in_steps(numbers: list[int]) -> Iterator[list[int]]:
    """Returns the numbers in steps of about a millisecond."""
    for start in range(0, len(numbers), _STEP):
        yield numbers[start : start + _STEP]


def _in_chunks(steps: Iterator[list[Item]]) -> Iterator[list[Item]]:
    """Returns the items of all steps in full chunks, and an empty one between two steps."""
    chunk: list[Item] = []
    for step in steps:
        chunk += step
        while len(chunk) >= MAX_ITEMS:
            yield chunk[:MAX_ITEMS]
            del chunk[:MAX_ITEMS]
        yield []
    if chunk:
        yield chunk
