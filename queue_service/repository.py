"""Every Redis call of queue_service (lua/keys.lua lists the keys): one Lua script each, but for
reads of the log and of a snapshot."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from protos.frontrow.queue.v1 import queue_pb2
from queue_service import change_log
from queue_service.definition import Defined, Definition
from queue_service.domain import (
    Entry,
    HandBack,
    HandBackReply,
    Limits,
    Place,
    Refusal,
    Room,
    RoomMemory,
    Rules,
)
from queue_service.errors import RoomIsDefined
from queue_service.place_reads import admitted_parts, waiting_parts
from queue_service.ports import MAX_BLOCK_MS, Snapshot
from room_view.draw import FIRST_NUMBER, Draw, score
from room_view.position import PlaceState, Standing
from servicekit.errors import Unavailable
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
    "changes",
)
_STATES = {
    b"waiting": PlaceState.WAITING,
    b"undrawn": PlaceState.WAITING,
    b"admitted": PlaceState.ADMITTED,
    b"ended": PlaceState.ENDED,
}
_REFUSALS = {
    b"full": Refusal.QUEUE_FULL,
    b"paused": Refusal.QUEUE_PAUSED,
    b"not_open": Refusal.QUEUE_NOT_OPEN,
    b"limited": Refusal.TOO_MANY_REQUESTS,
    b"unsolved": Refusal.CHALLENGE_REQUIRED,
    b"foreign": Refusal.NOT_YOURS,
}
# Sources whose allowance is remembered, about 35 MB. A flood from more of them makes the room
# forget those that have used the least.
_MAX_SOURCES = 250_000
# Entries of the log that are read at once: at most some megabytes.
_MAX_ENTRIES = 256
# Places of a snapshot that are read at once. Redis takes 0.3 ms, in which it serves no other call.
_CHUNK = 8_192
# Keys that Redis looks at in one step when it lists rooms.
_SCAN = 1_000
_LUA = Path(__file__).parent / "lua"
_UNAVAILABLE = "The waiting room is unavailable."


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
    is_defined: int = 0

    def standing(self, n: int) -> Standing:
        state = self.state[n]
        return Standing(
            _STATES[state],
            self.order[n],
            self.admitted_until[n],
            is_drawn=state != b"undrawn",
        )


class QueueRepository:
    """Implements `ports.QueueStore` in Redis. Every method but `snapshot` takes one round trip. All
    raise Unavailable if Redis cannot be reached, is loading, is read-only, is full or cannot write.

    `blocking` is a client that waits for MAX_BLOCK_MS; by default `redis`, if it does.
    """

    def __init__(
        self,
        redis: Redis,
        rules: Rules,
        defaults: Limits,
        blocking: Redis | None = None,
        chunk: int = _CHUNK,
    ) -> None:
        self._redis = redis
        self._blocking = blocking or redis
        self._rules = rules
        self._defaults = defaults
        self._chunk = chunk
        self._memories: dict[str, RoomMemory] = {}
        self._definitions: dict[str, str] = {}
        self._draws: dict[str, Draw] = {}
        # The epoch of a room that was opened by a guess, and the memory of a caller who knew it.
        self._guesses: dict[str, int] = {}
        self._corrections: dict[str, RoomMemory] = {}
        self._enter = self._load("enter")
        self._positions = self._load("positions")
        self._leave = self._load("leave")
        self._update = self._load("update")
        self._tick = self._load("tick")
        self._hand_back = self._load("hand_back")
        self._seen = self._load("seen")
        self._draw = self._load("draw")
        self._end_room = self._load("end_room", prelude=())

    def _load(self, name: str, prelude: Sequence[str] = ("prelude",)) -> AsyncScript:
        parts = ("keys", "definition", "log", *prelude, name)
        texts = [(_LUA / f"{part}.lua").read_text() for part in parts]
        # In a function each: when a function captures a local variable of the one around it, Lua
        # 5.1 looks through all that are captured there. Those further out cost nothing.
        ends = "end)()\n" * (len(parts) - 1)
        return self._redis.register_script("return (function()\n".join(texts) + ends)

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
        numbers = [place.number for place in places]
        seen, items = await self._run(self._positions, room, _polls(places), returning=numbers)
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
        seen, items = await self._run(self._update, room, arguments)
        if items.is_defined:
            raise RoomIsDefined("The catalogue defines this room: change it there.")
        return seen

    async def tick(self, room: str) -> Room:
        arguments = (self._rules.log_ms, self._rules.log_bytes)
        return (await self._run(self._tick, room, arguments))[0]

    async def heartbeat(self, room: str, seen: Sequence[Place], *, polled: bool = False) -> Room:
        arguments = [int(polled or len(seen) > 0), *_polls(seen)]
        numbers = [place.number for place in seen]
        # A lost place whose rank is not known here yet returns when its owner asks.
        return (await self._run(self._seen, room, arguments, returning=numbers, needs_ranks=False))[
            0
        ]

    async def give_ranks(self, room: str, first: int, numbers: Sequence[int]) -> Room:
        arguments = [first]
        for rank, number in enumerate(numbers, first):
            arguments += (score(rank), number)
        return (await self._run(self._draw, room, arguments))[0]

    async def lease(self, room: str, holder: str, lease_ms: int) -> bool:
        key = _key(room, "draw")
        async with translated_errors(self._redis, _UNAVAILABLE):
            if await self._redis.set(key, holder, nx=True, px=lease_ms):
                return True
            is_mine = await self._redis.get(key) == holder.encode()
            return is_mine and bool(await self._redis.pexpire(key, lease_ms))

    async def gathered(self, room: str, above: int, last: int) -> Sequence[int]:
        async with translated_errors(self._redis, _UNAVAILABLE):
            members: Any = await self._redis.zrange(
                _key(room, "waiting"),
                f"({max(above, FIRST_NUMBER)}",
                last,
                byscore=True,
                offset=0,
                num=self._chunk,
            )
        return [int(member) for member in members]

    def use_draw(self, room: str, draw: Draw | None) -> None:
        if draw is None:
            self._draws.pop(room, None)
        else:
            self._draws[room] = draw

    async def snapshot(self, room: str) -> Snapshot:
        # Before everything that is read. So no change is missed; those that it has already are
        # ignored.
        async with translated_errors(self._redis, _UNAVAILABLE):
            newest: Any = await self._redis.xrevrange(_key(room, "changes"), count=1)
        after_id = newest[0][0].decode() if newest else "0-0"
        return Snapshot(after_id, self._parts(room, await self.heartbeat(room, ())))

    async def _parts(self, room: str, begin: Room) -> AsyncIterator[queue_pb2.RoomSnapshot]:
        yield queue_pb2.RoomSnapshot(
            epoch=begin.epoch, seq=begin.seq, fields=begin.fields(), last=begin.last, is_first=True
        )
        async with translated_errors(self._redis, _UNAVAILABLE):
            async for waiting in waiting_parts(self._redis, _key(room, "waiting"), self._chunk):
                yield queue_pb2.RoomSnapshot(waiting=waiting)
            async for admitted in admitted_parts(
                self._redis,
                _key(room, "admitted"),
                _key(room, "places"),
                _key(room, "unclaimed"),
                self._chunk,
            ):
                yield queue_pb2.RoomSnapshot(admitted=admitted)
        end = await self.heartbeat(room, ())
        if end.epoch != begin.epoch:
            raise Unavailable("The waiting room began a new epoch while it was copied.")
        yield queue_pb2.RoomSnapshot(complete_at_seq=end.seq, last=end.last, is_last=True)

    async def changes(
        self, room: str, after_id: str, block_ms: int
    ) -> list[tuple[str, queue_pb2.RoomChanges]]:
        async with translated_errors(self._blocking, _UNAVAILABLE):
            found: Any = await self._blocking.xread(
                {_key(room, "changes"): after_id},
                count=_MAX_ENTRIES,
                block=min(block_ms, MAX_BLOCK_MS) or None,  # Redis takes 0 for ever
            )
        return [
            (entry_id.decode(), changes)
            for _, entries in found
            async for entry_id, changes in change_log.decode_all(entries)
        ]

    def define(self, room: str, definition: Definition) -> None:
        self._definitions[room] = definition.text()

    def undefine(self, room: str) -> None:
        stores: tuple[dict[str, Any], ...] = (
            self._definitions, self._draws, self._memories, self._guesses, self._corrections
        )  # fmt: skip
        for known in stores:
            known.pop(room, None)

    async def definitions(self) -> dict[str, Definition]:
        found: dict[str, Definition] = {}
        async with translated_errors(self._redis, _UNAVAILABLE):
            async for key in self._redis.scan_iter(_key("*", "state"), count=_SCAN):
                text: Any = await self._redis.hget(key, "definition")
                if text is not None and b"," in text:
                    room = key.decode().removeprefix("{queue:").removesuffix("}:state")
                    found[room] = Defined.from_text(text.decode()).definition
        return found

    async def has(self, room: str) -> bool:
        async with translated_errors(self._redis, _UNAVAILABLE):
            return bool(await self._redis.exists(_key(room, "state")))

    async def end_room(self, room: str, version: int, limits: Limits | None) -> None:
        keep_ms = 0 if limits else self._rules.heal_within_ms
        limits = limits or Limits(0, 0)
        arguments = (version, keep_ms, limits.capacity, limits.max_waiting)
        async with translated_errors(self._redis, _UNAVAILABLE):
            await self._end_room(
                keys=[_key(room, name) for name in _KEYS],
                args=[*self._common(room, RoomMemory(0, 0, 0, limits), ""), *arguments],
            )

    def remember(self, room: str, memory: RoomMemory) -> None:
        known = self._memories.get(room)
        if known is None:
            self._memories[room] = memory
        elif not known.is_after(memory):
            self._memories[room] = replace(memory, last=max(memory.last, known.last))
        elif memory.last < self._guesses.get(room, 0):
            self._corrections[room] = memory

    async def hand_back(self, room: str, hand_back: HandBack) -> tuple[Room, HandBackReply]:
        arguments: list[int | str] = [
            self._rules.bidding_ms,
            self._rules.lease_ms,
            hand_back.bidder,
            hand_back.epoch,
            hand_back.seq,
            hand_back.last,
            int(hand_back.done),
            int(hand_back.settled),
            len(hand_back.ended),
            len(hand_back.admitted),
        ]
        for place in hand_back.ended:
            arguments += (place.number, place.user_id, place.epoch)
        for lost in hand_back.admitted:
            arguments += (lost.number, lost.user_id, lost.until_ms, int(lost.claimed))
        lives = [lost.number for lost in hand_back.admitted] + list(hand_back.waiting)
        seen, items = await self._run(
            self._hand_back, room, [*arguments, *hand_back.waiting], returning=lives
        )
        reply = HandBackReply(bool(items.granted), bool(items.done), items.retry_after)
        return seen, reply

    async def _run(
        self,
        script: AsyncScript,
        room: str,
        arguments: Sequence[int | str],
        returning: Sequence[int] = (),
        *,
        needs_ranks: bool = True,
    ) -> tuple[Room, _Items]:
        """Runs a script. `returning`: the places that it may restore. `needs_ranks`: raises
        Unavailable if one of them was not restored, because its rank is not known here yet."""
        correction = self._corrections.get(room)
        memory = correction or self._memories.get(room) or RoomMemory(0, 0, 0, self._defaults)
        async with translated_errors(self._redis, _UNAVAILABLE):
            reply = await script(
                keys=[_key(room, name) for name in _KEYS],
                args=[*self._common(room, memory, self._ranks(room, returning)), *arguments],
            )
        fields = _by_name(reply)
        state = Room(
            limits=Limits(fields["capacity"], fields["max_waiting"], bool(fields["paused"])),
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
            due_in=fields["due_in"],
            seq=fields["seq"],
            last=fields["last"],
            unrecorded_at=fields["unrecorded_at"],
            defined=_defined(fields.get("definition", b"")),
        )
        if correction is not None and self._corrections.get(room) is correction:
            del self._corrections[room]
        self._guesses[room] = fields["blind"]
        self.remember(room, state.memory)
        if fields["unranked"] and needs_ranks:
            raise Unavailable("The draw of the waiting room is not known here yet.")
        return state, _Items(**_by_name(fields["items"]))

    def _ranks(self, room: str, numbers: Sequence[int]) -> str:
        """Returns what the scripts need to know of the draw: see lua/keys.lua."""
        draw = self._draws.get(room)
        if draw is None:
            return ""
        ranks = ((number, draw.rank(number)) for number in numbers)
        known = (f",{number}={rank}" for number, rank in ranks if rank is not None)
        return f"{len(draw)}{''.join(known)}"

    def _common(self, room: str, memory: RoomMemory, ranks: str) -> tuple[int | str, ...]:
        """The first arguments of each script."""
        return (
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
            memory.epoch,
            memory.seq,
            self._definitions.get(room, ""),
            ranks,
        )


def _key(room: str, name: str) -> str:
    # The hash tag keeps a room on one node of a cluster, and lets rooms spread.
    return f"{{queue:{room}}}:{name}"


@lru_cache(maxsize=1_000)
def _defined(text: bytes) -> Defined | None:
    return Defined.from_text(text.decode()) if text else None


def _polls(places: Sequence[Place]) -> list[int]:
    return [
        part
        for place in places
        for part in (place.number, place.user_id, place.epoch, place.issued_at * 1000)
    ]


def _by_name(reply: Sequence[Any]) -> dict[str, Any]:
    """The values of a list of names and values."""
    return {name.decode(): value for name, value in zip(reply[::2], reply[1::2], strict=True)}
