"""The log of changes."""

import asyncio
import contextlib

from protos.frontrow.queue.v1 import queue_pb2
from queue_service.domain import (
    Rules,
)
from tests.fakes.queue.handing_back import HandingBack
from tests.fakes.queue.state import (
    Appends,
    LogEntry,
    Shown,
    State,
)


class Changes(HandingBack):
    """Writes and shows the log of each room. Every read raises `unavailable`, if set."""

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules)
        self.unavailable: Exception | None = None
        self._rooms: dict[str, State] = {}
        self._appends = Appends()

    def _raise_if_unavailable(self) -> None:
        if self.unavailable is not None:
            raise self.unavailable

    def _record(self, state: State, fields: queue_pb2.RoomFields) -> None:
        """Appends to the log what has changed since the last call."""
        admitted = {
            number: queue_pb2.AdmittedPlace(
                number=number,
                user_id=state.live[number].user_id,
                admitted_until_ms=until,
                claimed=number not in state.unclaimed,
            )
            for number, until in state.admitted.items()
        }
        shown, now = state.shown, Shown(set(state.waiting), admitted, set(state.ended), fields)
        ended = {*shown.waiting, *shown.admitted} - {*now.waiting, *now.admitted}
        kinds = queue_pb2.RoomChange
        changes = [
            *(
                kinds(kind=kinds.KIND_ENDED, number=number)
                for number in ended | now.ended - shown.ended
            ),
            *(
                kinds(kind=kinds.KIND_WAITING, number=number)
                for number in now.waiting - shown.waiting
            ),
            *(
                kinds(
                    kind=kinds.KIND_CLAIMED if place.claimed else kinds.KIND_ADMITTED,
                    number=number,
                    user_id=place.user_id,
                    admitted_until_ms=place.admitted_until_ms,
                )
                for number, place in admitted.items()
                if shown.admitted.get(number) != place
            ),
        ]
        if fields != shown.fields or state.seq == 0:
            changes.append(kinds(kind=kinds.KIND_FIELDS, fields=fields))
        state.shown = now
        if changes:
            state.seq += 1
            self._appends.count += 1
            entry = queue_pb2.RoomChanges(
                epoch=state.epoch, seq=state.seq, now_ms=self.now, changes=changes
            )
            entry_id = self._appends.count
            state.log.append(LogEntry(entry_id, self.now, entry.SerializeToString()))
            self._appends.next.set()
            self._appends.next = asyncio.Event()

    def _trim(self, state: State) -> None:
        """The newest entry stays."""
        if not state.log:
            return
        *older, newest = state.log
        kept = [entry for entry in older if entry.at >= self.now - self._rules.log_ms]
        while kept and sum(64 + len(entry.changes) for entry in kept) > self._rules.log_bytes:
            del kept[: (len(kept) + 1) // 2]
        state.log = [*kept, newest]

    async def changes(
        self, room: str, after_id: str, block_ms: int
    ) -> list[tuple[str, queue_pb2.RoomChanges]]:
        """Waits in real time."""
        appended = self._appends.next
        if not (found := self._entries_after(room, int(after_id))) and block_ms > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(block_ms / 1000):
                    await appended.wait()
            found = self._entries_after(room, int(after_id))
        return found

    def _entries_after(self, room: str, after_id: int) -> list[tuple[str, queue_pb2.RoomChanges]]:
        self._raise_if_unavailable()
        log = self._rooms[room].log if room in self._rooms else []
        return [
            (str(entry.id), queue_pb2.RoomChanges.FromString(entry.changes))
            for entry in log
            if entry.id > after_id
        ]

    def _shown(self, room: str) -> Shown:
        self._raise_if_unavailable()
        return self._rooms[room].shown if room in self._rooms else Shown()
