"""The waiting room in Redis: every step is one Lua script (see lua/prelude.lua for the keys)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from queue_service.domain import Limits, Place, PlaceState, Refusal, Room, Rules, Standing
from servicekit.redis_client import translated_errors

_KEYS = ("state", "waiting", "admitted", "unclaimed", "users", "places", "known", "ended")
_FULL, _PAUSED = 4, 5
_LUA = Path(__file__).parent / "lua"


@dataclass(frozen=True, slots=True)
class _Memory:
    """What this replica last saw of a room, for a Redis that remembers nothing."""

    limits: Limits
    last: int


class RedisWaitingRoom:
    """Rooms in Redis, shared by all replicas.

    Every method is idempotent, takes one round trip, and raises Unavailable if Redis is away,
    still loading, read-only, full or cannot write.
    """

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

    def _load(self, name: str) -> AsyncScript:
        prelude, script = ((_LUA / f"{part}.lua").read_text() for part in ("prelude", name))
        return self._redis.register_script(prelude + script)

    async def enter(
        self, room: str, user_ids: Sequence[int]
    ) -> tuple[Room, list[tuple[Place, Standing] | Refusal]]:
        """Gives each user a place, or the one it has; at most MAX_ITEMS positive ids."""
        seen, items = await self._run(self._enter, room, user_ids)
        results: list[tuple[Place, Standing] | Refusal] = []
        for user_id, at in zip(user_ids, range(0, len(items), 4), strict=True):
            state, value, number, epoch = items[at : at + 4]
            if state == _FULL:
                results.append(Refusal.QUEUE_FULL)
            elif state == _PAUSED:
                results.append(Refusal.QUEUE_PAUSED)
            else:
                results.append((Place(room, number, user_id, epoch), _standing(state, value)))
        return seen, results

    async def positions(self, room: str, places: Sequence[Place]) -> tuple[Room, list[Standing]]:
        """Where each place stands; at most MAX_ITEMS `possible` places of this room. Claims what
        was just admitted, brings back what was lost."""
        arguments = [
            part for place in places for part in (place.number, place.user_id, place.epoch)
        ]
        seen, items = await self._run(self._positions, room, arguments)
        return seen, [_standing(*items[at : at + 2]) for at in range(0, len(items), 2)]

    async def leave(self, room: str, number: int, user_id: int) -> Room:
        """Ends a `possible` place if it is this user's and has not ended."""
        return (await self._run(self._leave, room, (number, user_id)))[0]

    async def update(
        self, room: str, *, capacity: int | None, max_waiting: int | None, paused: bool | None
    ) -> Room:
        """Changes the limits that are given."""
        changes = {"capacity": capacity, "max_waiting": max_waiting, "paused": paused}
        arguments = [
            part
            for name, value in changes.items()
            if value is not None
            for part in (name, int(value))
        ]
        return (await self._run(self._update, room, arguments))[0]

    async def tick(self, room: str) -> Room:
        """Ends what lapsed, admits who can be, and tells how the room is."""
        return (await self._run(self._tick, room, ()))[0]

    async def _run(
        self, script: AsyncScript, room: str, arguments: Sequence[int | str]
    ) -> tuple[Room, list[int]]:
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
            header, items = await script(
                # The hash tag keeps a room on one node of a cluster, and lets rooms spread.
                keys=[f"{{queue:{room}}}:{key}" for key in _KEYS],
                args=[*common, *arguments],
            )
        now, epoch, last, capacity, max_waiting, paused = header[:6]
        grace_until, settled_at, pace_at, pace_now, pace_before = header[6:11]
        waiting, admitted, admissions = header[11:]
        limits = Limits(capacity, max_waiting, bool(paused))
        self._memories[room] = _Memory(limits, last)
        return Room(
            limits=limits,
            waiting=waiting,
            admitted=admitted,
            epoch=epoch,
            now=now,
            grace_until=grace_until,
            settled_at=settled_at,
            pace_at=pace_at,
            pace_now=pace_now,
            pace_before=pace_before,
            admissions=admissions,
        ), items


def _standing(state: int, value: int) -> Standing:
    match PlaceState(state):
        case PlaceState.WAITING:
            return Standing(PlaceState.WAITING, order=value)
        case PlaceState.ADMITTED:
            return Standing(PlaceState.ADMITTED, admitted_until_ms=value)
        case PlaceState.ENDED:
            return Standing(PlaceState.ENDED)
