"""Every Redis call of queue_service: one Lua script each (lua/prelude.lua lists the keys)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from queue_service.domain import (
    Entry,
    HandBack,
    HandBackReply,
    Limits,
    Place,
    Refusal,
    Room,
    Rules,
)
from room_view.position import PlaceState, Standing
from servicekit.redis_client import translated_errors

_KEYS = (
    "state",
    "waiting",
    "admitted",
    "unclaimed",
    "users",
    "places",
    "known",
    "ended",
    "sources",
    "solutions",
    "restored",
    "attempts",
)
_STATES = {
    b"waiting": PlaceState.WAITING,
    b"admitted": PlaceState.ADMITTED,
    b"ended": PlaceState.ENDED,
}
_REFUSALS = {
    b"full": Refusal.QUEUE_FULL,
    b"paused": Refusal.QUEUE_PAUSED,
    b"limited": Refusal.TOO_MANY_REQUESTS,
    b"unsolved": Refusal.CHALLENGE_REQUIRED,
    b"foreign": Refusal.NOT_YOURS,
}
# Sources whose allowance is remembered, about 35 MB. A flood from more of them makes the room
# forget those that have used the least.
_MAX_SOURCES = 250_000
_LUA = Path(__file__).parent / "lua"


@dataclass(frozen=True, slots=True)
class _Memory:
    """What this replica last saw of a room, in case Redis loses it."""

    limits: Limits
    last: int


@dataclass(frozen=True, slots=True)
class _Items:
    """What a script replied about each place, a list per field; empty if it was not asked."""

    state: Sequence[bytes] = ()
    order: Sequence[int] = ()
    admitted_until: Sequence[int] = ()
    place: Sequence[int] = ()
    epoch: Sequence[int] = ()
    granted: int = 0
    done: int = 0
    retry_after: int = 0

    def standing(self, n: int) -> Standing:
        return Standing(_STATES[self.state[n]], self.order[n], self.admitted_until[n])


class QueueRepository:
    """Implements `ports.QueueStore` in Redis. Every method takes one round trip, and raises
    Unavailable if Redis cannot be reached, is loading, is read-only, is full or cannot write."""

    def __init__(self, redis: Redis, rules: Rules, defaults: Limits) -> None:
        self._redis = redis
        self._rules = rules
        self._defaults = defaults
        self._memories: dict[str, _Memory] = {}
        self._enter = self._load("enter")
        self._positions = self._load("positions")
        self._leave = self._load("leave")
        self._update = self._load("update")
        self._tick = self._load("tick")
        self._hand_back = self._load("hand_back")

    def _load(self, name: str) -> AsyncScript:
        prelude, script = ((_LUA / f"{part}.lua").read_text() for part in ("prelude", name))
        return self._redis.register_script(prelude + script)

    async def enter(
        self, room: str, entries: Sequence[Entry]
    ) -> tuple[Room, list[tuple[Place, Standing] | Refusal]]:
        arguments: list[int | str] = [
            self._rules.source_interval_ms,
            self._rules.source_window_ms,
            _MAX_SOURCES,
        ]
        for entry in entries:
            arguments += (
                entry.user_id,
                entry.source,
                entry.solution,
                entry.solution_expires_ms,
                int(entry.only_live_place),
                f"{entry.proven_place}:{entry.attempt}" if entry.needs_proof else "",
            )
        seen, items = await self._run(self._enter, room, arguments)
        results: list[tuple[Place, Standing] | Refusal] = []
        for n, entry in enumerate(entries):
            if refusal := _REFUSALS.get(items.state[n]):
                results.append(refusal)
            else:
                place = Place(room, items.place[n], entry.user_id, items.epoch[n])
                results.append((place, items.standing(n)))
        return seen, results

    async def positions(self, room: str, places: Sequence[Place]) -> tuple[Room, list[Standing]]:
        arguments = [
            part
            for place in places
            for part in (place.number, place.user_id, place.epoch, place.issued_at * 1000)
        ]
        seen, items = await self._run(self._positions, room, arguments)
        return seen, [items.standing(n) for n in range(len(items.state))]

    async def leave(self, room: str, number: int, user_id: int, epoch: int) -> Room:
        return await self.leave_all(room, [Place(room, number, user_id, epoch)])

    async def leave_all(self, room: str, places: Sequence[Place]) -> Room:
        arguments = [
            part for place in places for part in (place.number, place.user_id, place.epoch)
        ]
        return (await self._run(self._leave, room, arguments))[0]

    async def update(
        self, room: str, *, capacity: int | None, max_waiting: int | None, paused: bool | None
    ) -> Room:
        changes = {"capacity": capacity, "max_waiting": max_waiting, "paused": paused}
        arguments = [
            part
            for name, value in changes.items()
            if value is not None
            for part in (name, int(value))
        ]
        return (await self._run(self._update, room, arguments))[0]

    async def tick(self, room: str) -> Room:
        return (await self._run(self._tick, room, ()))[0]

    async def hand_back(self, room: str, hand_back: HandBack) -> tuple[Room, HandBackReply]:
        arguments: list[int | str] = [
            self._rules.bidding_ms,
            self._rules.lease_ms,
            hand_back.bidder,
            hand_back.epoch,
            hand_back.seq,
            hand_back.last,
            int(hand_back.done),
            len(hand_back.ended),
            len(hand_back.admitted),
        ]
        for place in hand_back.ended:
            arguments += (place.number, place.user_id, place.epoch)
        for lost in hand_back.admitted:
            arguments += (lost.number, lost.user_id, lost.until_ms, int(lost.claimed))
        seen, items = await self._run(self._hand_back, room, [*arguments, *hand_back.waiting])
        reply = HandBackReply(bool(items.granted), bool(items.done), items.retry_after)
        return seen, reply

    async def _run(
        self, script: AsyncScript, room: str, arguments: Sequence[int | str]
    ) -> tuple[Room, _Items]:
        memory = self._memories.get(room, _Memory(self._defaults, last=0))
        common = (
            self._rules.grace_ms,
            self._rules.claim_window_ms,
            self._rules.admission_ttl_ms,
            self._rules.absent_after_ms,
            self._rules.seen_resolution_ms,
            self._rules.heal_within_ms,
            memory.limits.capacity,
            memory.limits.max_waiting,
            int(memory.limits.paused),
            memory.last,
        )
        async with translated_errors(self._redis, "The waiting room is unavailable."):
            reply = await script(
                # The hash tag keeps a room on one node of a cluster, and lets rooms spread.
                keys=[f"{{queue:{room}}}:{key}" for key in _KEYS],
                args=[*common, *arguments],
            )
        fields = _by_name(reply)
        limits = Limits(fields["capacity"], fields["max_waiting"], bool(fields["paused"]))
        self._memories[room] = _Memory(limits, fields["last"])
        return Room(
            limits=limits,
            waiting=fields["waiting"],
            admitted=fields["admitted"],
            epoch=fields["epoch"],
            now=fields["now"],
            grace_until=fields["grace_until"],
            settled_at=fields["settled_at"],
            pace_at=fields["pace_at"],
            pace_now=fields["pace_now"],
            pace_before=fields["pace_before"],
            admissions=fields["admissions"],
        ), _Items(**_by_name(fields["items"]))


def _by_name(reply: Sequence[Any]) -> dict[str, Any]:
    """The values of a list of names and values."""
    return {name.decode(): value for name, value in zip(reply[::2], reply[1::2], strict=True)}
