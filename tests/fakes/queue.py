"""A waiting room in memory: what `QueueRepository` promises, without Redis.

Runs the same contract tests (tests/queue_service/test_waiting_room.py). Its clock moves
only when a test advances it.
"""

import asyncio
import contextlib
import copy
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from protos.frontrow.queue.v1 import queue_pb2
from queue_service.definition import Defined, Definition, Mode
from queue_service.domain import (
    Entry,
    HandBack,
    HandBackReply,
    Limits,
    LostAdmission,
    Place,
    Refusal,
    Room,
    RoomMemory,
    Rules,
)
from queue_service.errors import RoomIsDefined
from queue_service.ports import Snapshot
from room_view import phase as phases
from room_view.position import ENDED, PlaceState, Standing, given_at_ms
from servicekit.errors import Unavailable

_YEAR_2026 = 1_767_225_600_000
_MINUTE = 60_000

CHUNK = 1_000
"""Places of a part of a snapshot."""


def number_at(ms: int) -> int:
    """The first place number of a millisecond."""
    return (ms - _YEAR_2026) * 4096


_ASK_AGAIN_MS = 500  # as in hand_back.lua
_UNKNOWN_OWNER = 0


@dataclass
class _Healing:
    """Who hands back in this epoch. Copies are compared by (epoch, seq)."""

    bids_until: int
    bid: tuple[int, int] = (0, 0)
    bidder: str = ""
    bid_at: int = 0
    handed: tuple[int, int] = (0, 0)


@dataclass
class _Shown:
    """What a copy of a room shows."""

    waiting: set[int] = field(default_factory=set)
    admitted: dict[int, queue_pb2.AdmittedPlace] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    fields: queue_pb2.RoomFields = field(default_factory=queue_pb2.RoomFields)


@dataclass(frozen=True)
class _Entry:
    id: int
    at: int
    changes: bytes


@dataclass
class _State:
    limits: Limits
    epoch: int
    last: int
    grace_until: int
    settled_at: int
    resumed_at: int
    heard_at: int
    blind: int
    defined: Defined | None = None
    next_at: float = 0.0  # when the next admission is allowed, ms
    changed_limits: set[str] = field(default_factory=set)
    live: dict[int, Place] = field(default_factory=dict)
    seen: dict[int, int] = field(default_factory=dict)
    waiting: set[int] = field(default_factory=set)
    admitted: dict[int, int] = field(default_factory=dict)
    unclaimed: set[int] = field(default_factory=set)
    sources: dict[str, int] = field(default_factory=dict)
    solutions: set[str] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)
    known: list[range] = field(default_factory=list)
    restored_in: dict[int, float] = field(default_factory=dict)
    safe: int = 0
    cut: bool = False
    attempts: set[tuple[int, str]] = field(default_factory=set)
    pace_at: int = 0
    pace_now: int = 0
    certain: int = 0
    healed: bool = False
    healing: _Healing | None = None
    seq: int = 0
    shown: _Shown = field(default_factory=_Shown)
    log: list[_Entry] = field(default_factory=list)


@dataclass
class _Clock:
    now: int


@dataclass
class _Appends:
    """To all logs of the store."""

    count: int = 0
    next: asyncio.Event = field(default_factory=asyncio.Event)


class FakeQueueStore:
    """Implements ports.QueueStore, as one replica sees it. Every call raises `unavailable`, if
    set."""

    def __init__(self, rules: Rules, defaults: Limits) -> None:
        self._clock = _Clock(_YEAR_2026 + 3_600_000_000)
        self.unavailable: Exception | None = None
        # When a replica of the version before was last noticed.
        self.unrecorded_at = 0
        self._rules = rules
        self._defaults = defaults
        self._rooms: dict[str, _State] = {}
        self._memories: dict[str, RoomMemory] = {}
        self._corrections: dict[str, RoomMemory] = {}
        self._definitions: dict[str, Definition] = {}
        self._admissions = 0
        self._appends = _Appends()

    @property
    def now(self) -> int:
        """Unix time in milliseconds."""
        return self._clock.now

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self._clock.now += round(seconds * 1000)

    def forget(self) -> None:
        """The store loses everything; its callers remember the limits. Takes 10 ms."""
        self._rooms.clear()
        self.advance(0.01)

    def copy_rooms(self) -> dict[str, _State]:
        """A copy of all rooms, for `cut_back`."""
        return copy.deepcopy(self._rooms)

    def cut_back(self, rooms: dict[str, _State], *, unnoticed: bool = False) -> None:
        """The store restarts with the rooms as they were, or goes back to them unnoticed. Takes
        10 ms."""
        self._rooms.clear()
        self._rooms.update(copy.deepcopy(rooms))
        for state in self._rooms.values():
            state.cut = not unnoticed
        self.advance(0.01)

    def new_replica(self) -> "FakeQueueStore":
        """The same rooms and clock for a replica that has just started: it remembers nothing."""
        replica = copy.copy(self)
        replica._memories, replica._corrections, replica._definitions = {}, {}, {}
        return replica

    async def enter(
        self, room: str, entries: Sequence[Entry]
    ) -> tuple[Room, list[tuple[Place, Standing] | Refusal]]:
        state = self._open(room)
        self._hear(state)
        for entry in entries:
            place = self._place_of(state, entry.user_id)
            if place is not None and self._is_proved(state, place, entry):
                state.seen[place.number] = self.now
        self._step(state)
        results: list[tuple[Place, Standing] | Refusal] = []
        for entry in entries:
            place = self._place_of(state, entry.user_id)
            if place is None:
                answer = self._take(state, room, entry)
                if isinstance(answer, Refusal):
                    results.append(answer)
                    continue
                place = answer
                state.attempts.add((place.number, entry.attempt))
            elif not self._is_proved(state, place, entry):
                results.append(Refusal.NOT_YOURS)
                continue
            self._claim(state, place.number)
            results.append((place, self._standing(state, place.number)))
        return self._room(state, room), results

    def _is_proved(self, state: _State, place: Place, entry: Entry) -> bool:
        if not entry.needs_proof or place.number == entry.proven_place:
            return True
        return bool(entry.attempt) and (place.number, entry.attempt) in state.attempts

    async def positions(self, room: str, places: Sequence[Place]) -> tuple[Room, list[Standing]]:
        state = self._open(room)
        self._hear(state)
        theirs = [self._poll(state, place) for place in places]
        self._step(state)
        standings = []
        for place, is_theirs in zip(places, theirs, strict=True):
            if is_theirs:
                self._claim(state, place.number)
            standings.append(self._standing(state, place.number) if is_theirs else ENDED)
        return self._room(state, room), standings

    def _poll(self, state: _State, place: Place) -> bool:
        live = state.live.get(place.number)
        if live is None:
            if self._is_lost(state, place.number, place.issued_at):
                self._restore(state, place)
        elif live.user_id == _UNKNOWN_OWNER:
            self._adopt(state, place)
        elif live.user_id == place.user_id:
            state.seen[place.number] = self.now
        return live is None or live.user_id in (place.user_id, _UNKNOWN_OWNER)

    async def leave(self, room: str, number: int, user_id: int, epoch: int) -> Room:
        return await self.leave_all(room, [Place(room, number, user_id, epoch)])

    def _leave(self, state: _State, place: Place) -> None:
        live = state.live.get(place.number)
        owner_unknown = live is not None and live.user_id == _UNKNOWN_OWNER
        if owner_unknown or (live is None and self._is_unknown(state, place.number)):
            other = self._place_of(state, place.user_id)
            older = other is not None and other.number < place.number
            if (
                other is not None
                and older
                and self._live_had_ended(state, other.number, place.epoch)
            ):
                self._end(state, other.number)
        if live is None or owner_unknown or live.user_id == place.user_id:
            self._end(state, place.number)

    async def leave_all(self, room: str, places: Sequence[Place]) -> Room:
        state = self._open(room)
        for place in places:
            self._leave(state, place)
        self._step(state)
        return self._room(state, room)

    async def update(
        self, room: str, *, capacity: int | None, max_waiting: int | None, paused: bool | None
    ) -> Room:
        state = self._open(room)
        if state.defined is not None:
            raise RoomIsDefined("The catalogue defines this room.")
        old = state.limits
        state.limits = Limits(
            old.capacity if capacity is None else capacity,
            old.max_waiting if max_waiting is None else max_waiting,
            old.paused if paused is None else paused,
        )
        named = {"capacity": capacity, "max_waiting": max_waiting, "paused": paused}
        state.changed_limits |= {name for name, value in named.items() if value is not None}
        self._step(state)
        return self._room(state, room)

    async def tick(self, room: str) -> Room:
        state = self._open(room)
        self._step(state)
        self._trim(state)
        seen = self._room(state, room)
        ends_at = min(state.admitted.values(), default=self.now + _MINUTE)
        due_in = min(seen.due_in, max(0, ends_at - self.now))
        if self._is_graced(state):
            due_in = min(due_in, state.grace_until - self.now)
        opens_in = seen.fields().opens_at_ms - self.now
        if opens_in > 0 and state.waiting:
            due_in = min(due_in, opens_in)
        elif self._has_room_for_line(state):
            due_in = min(due_in, self._wait_for_allowance(state))
        return replace(seen, due_in=due_in)

    async def hand_back(self, room: str, hand_back: HandBack) -> tuple[Room, HandBackReply]:
        state = self._open(room)
        for place in hand_back.ended:
            if place.user_id:
                self._leave(state, place)
            else:
                self._end_by_rules(state, place.number, hand_back)
        reply = HandBackReply(granted=False, done=False, retry_after_ms=_ASK_AGAIN_MS)
        if hand_back.epoch < state.epoch and hand_back.last <= state.epoch:
            healing = state.healing = state.healing or _Healing(self.now + self._rules.bidding_ms)
            reply = self._bid(state, healing, hand_back)
        if reply.granted:
            for lost in hand_back.admitted:
                self._give_back_admission(state, room, lost, hand_back.epoch)
            for number in hand_back.waiting:
                if number not in state.live and self._is_unknown(state, number):
                    state.live[number] = Place(room, number, _UNKNOWN_OWNER, 0)
                    state.seen[number] = self.now
                    state.waiting.add(number)
            if hand_back.done:
                state.healing = replace(healing, handed=(hand_back.epoch, hand_back.seq))
                state.known.append(range(hand_back.epoch + 1, hand_back.last + 1))
                if hand_back.settled:
                    state.certain = max(state.certain, hand_back.last)
                state.healed = True
                state.grace_until = min(state.grace_until, self.now)
                reply = replace(reply, done=True)
        self._step(state)
        return self._room(state, room), reply

    def _bid(self, state: _State, healing: _Healing, hand_back: HandBack) -> HandBackReply:
        own = (hand_back.epoch, hand_back.seq)
        if own <= healing.handed:
            return HandBackReply(granted=False, done=True, retry_after_ms=0)
        if own > healing.bid or self.now - healing.bid_at > self._rules.lease_ms:
            healing.bid, healing.bidder = own, hand_back.bidder
        bidding_ms = max(0, healing.bids_until - self.now)
        if healing.bidder != hand_back.bidder:
            return HandBackReply(False, False, bidding_ms or _ASK_AGAIN_MS)
        healing.bid_at = self.now
        young = state.epoch > number_at(self.now - self._rules.grace_ms)
        if not state.healed and state.grace_until <= self.now and young:
            if state.blind == state.epoch:
                state.safe = 0
            state.grace_until = state.settled_at = self.now + self._rules.grace_ms
        return HandBackReply(not bidding_ms, False, bidding_ms)

    def _end_by_rules(self, state: _State, number: int, hand_back: HandBack) -> None:
        live = state.live.get(number)
        owned = live is not None and live.user_id != _UNKNOWN_OWNER
        returned = state.restored_in.get(number) == state.epoch
        missing = not hand_back.settled and number <= hand_back.epoch
        if not (missing and owned and returned):
            self._end(state, number)

    def _give_back_admission(
        self, state: _State, room: str, lost: LostAdmission, lost_epoch: int
    ) -> None:
        live = state.live.get(lost.number)
        if live is None and not self._is_unknown(state, lost.number):
            return
        if lost.user_id == _UNKNOWN_OWNER and live is None:
            state.live[lost.number] = Place(room, lost.number, _UNKNOWN_OWNER, 0)
            state.seen[lost.number] = self.now
        elif lost.user_id != _UNKNOWN_OWNER and (live is None or live.user_id == _UNKNOWN_OWNER):
            epoch = lost_epoch if lost.number > lost_epoch else 0
            self._adopt(state, Place(room, lost.number, lost.user_id, epoch))
            if lost.number not in state.live:
                return
        if lost.number in state.admitted:
            if lost.claimed and lost.number in state.unclaimed:
                state.unclaimed.remove(lost.number)
                state.admitted[lost.number] = lost.until_ms
            return
        until = lost.until_ms
        if not lost.claimed:
            until = max(until, state.resumed_at + self._rules.claim_window_ms)
        if until <= self.now:
            self._end(state, lost.number)
        elif self._free_slots(state) > 0:
            state.waiting.discard(lost.number)
            state.admitted[lost.number] = until
            if not lost.claimed:
                state.unclaimed.add(lost.number)
        else:
            state.waiting.add(lost.number)

    async def heartbeat(self, room: str, seen: Sequence[Place], *, polled: bool = False) -> Room:
        state = self._open(room)
        if polled or seen:
            self._hear(state)
        for place in seen:
            self._poll(state, place)
        self._step(state)
        return self._room(state, room)

    async def snapshot(self, room: str) -> Snapshot:
        after_id = str(self._appends.count)
        return Snapshot(after_id, self._parts(room, await self.heartbeat(room, ())))

    async def _parts(self, room: str, begin: Room) -> AsyncIterator[queue_pb2.RoomSnapshot]:
        yield queue_pb2.RoomSnapshot(
            epoch=begin.epoch, seq=begin.seq, fields=begin.fields(), last=begin.last, is_first=True
        )
        last = 0
        while chunk := sorted(n for n in self._shown(room).waiting if n > last)[:CHUNK]:
            yield queue_pb2.RoomSnapshot(waiting=chunk)
            last = chunk[-1]
        yield queue_pb2.RoomSnapshot(admitted=self._shown(room).admitted.values())
        end = await self.heartbeat(room, ())
        if end.epoch != begin.epoch:
            raise Unavailable("The waiting room began a new epoch while it was copied.")
        yield queue_pb2.RoomSnapshot(complete_at_seq=end.seq, last=end.last, is_last=True)

    def _shown(self, room: str) -> _Shown:
        if self.unavailable is not None:
            raise self.unavailable
        return self._rooms[room].shown if room in self._rooms else _Shown()

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
        if self.unavailable is not None:
            raise self.unavailable
        log = self._rooms[room].log if room in self._rooms else []
        return [
            (str(entry.id), queue_pb2.RoomChanges.FromString(entry.changes))
            for entry in log
            if entry.id > after_id
        ]

    def define(self, room: str, definition: Definition) -> None:
        self._definitions[room] = definition

    def remember(self, room: str, memory: RoomMemory) -> None:
        known = self._memories.get(room)
        if known is None:
            self._memories[room] = memory
        elif not known.is_after(memory):
            self._memories[room] = replace(memory, last=max(memory.last, known.last))
        elif room in self._rooms and memory.last < self._rooms[room].blind:
            self._corrections[room] = memory

    def _open(self, room: str) -> _State:
        if self.unavailable is not None:
            raise self.unavailable
        self._admissions = 0
        memory = self._corrections.pop(room, None) or self._memories.get(room)
        memory = memory or RoomMemory(0, 0, 0, self._defaults)
        limits, last = memory.limits, memory.last
        if room not in self._rooms:
            epoch = max(number_at(self.now + 1), last + 1, memory.epoch + 1)
            grace_until = self.now + self._rules.grace_ms if last else 0
            self._rooms[room] = _State(
                limits,
                epoch,
                last=epoch,
                grace_until=grace_until,
                settled_at=grace_until,
                resumed_at=self.now,
                heard_at=self.now,
                blind=0 if last else epoch,
            )
        state = self._rooms[room]
        is_behind = (memory.epoch, memory.seq) > (state.epoch, state.seq) or last > state.last
        if state.cut or (is_behind and state.seq):
            self._begin_epoch(state, memory)
        known, stored = self._definitions.get(room), state.defined
        if known and (stored is None or known.version > stored.definition.version):
            state.defined = replace(stored or Defined(known), definition=known)
            paused = known.mode is Mode.PAUSED
            state.limits = Limits(known.capacity, known.max_waiting, paused)
        if 0 < last < state.blind:
            if state.defined is None:
                changed = {name: getattr(state.limits, name) for name in state.changed_limits}
                state.limits = replace(limits, **changed)
            state.blind = 0
            if not state.healed:
                state.safe = 0
                state.grace_until = state.settled_at = self.now + self._rules.grace_ms
        return state

    def _begin_epoch(self, state: _State, memory: RoomMemory) -> None:
        in_grace = state.grace_until > state.heard_at
        if state.last > state.epoch:
            state.known.append(range(state.epoch + 1, state.last + 1))
        if not in_grace:
            state.safe = state.last
        state.epoch = 1 + max(
            number_at(self.now + 1) - 1, state.epoch, state.last, memory.epoch, memory.last
        )
        state.last = state.epoch
        state.seq = 0
        state.resumed_at = state.heard_at = self.now
        inside = sum(1 for until in state.admitted.values() if until > self.now)
        crowded = bool(state.waiting) or inside >= state.limits.capacity
        recovers = memory.last > 0 or in_grace or crowded
        state.grace_until = state.settled_at = self.now + self._rules.grace_ms if recovers else 0
        state.cut = state.healed = False
        state.healing = None

    def _hear(self, state: _State) -> None:
        if self.now - state.heard_at > self._rules.grace_ms:
            state.resumed_at = self.now
        state.heard_at = self.now

    def _step(self, state: _State) -> None:
        silent = self.now - state.heard_at > self._rules.grace_ms
        back = self.now if silent else state.resumed_at
        for number, until in list(state.admitted.items()):
            if until > self.now:
                continue
            if back + self._rules.claim_window_ms > self.now and number in state.unclaimed:
                state.admitted[number] = back + self._rules.claim_window_ms
            else:
                self._end(state, number)
        if not phases.admits(self._phase(state)) or silent:
            return
        while state.waiting and self._free_slots(state) > 0 and not self._wait_for_allowance(state):
            number = min(state.waiting)
            if self._is_graced(state) and number > state.safe:
                return
            last_sign = max(state.seen[number], state.resumed_at)
            if self.now - last_sign > self._rules.absent_after_ms:
                self._end(state, number)
                continue
            state.waiting.remove(number)
            state.unclaimed.add(number)
            state.admitted[number] = self.now + self._rules.claim_window_ms
            self._count_admission(state, given_at_ms(number))
            state.pace_at = state.pace_at or self.now
            state.pace_now += 1

    def _has_room_for_line(self, state: _State) -> bool:
        return (
            phases.admits(self._phase(state))
            and not self._is_graced(state)
            and bool(state.waiting)
            and self._free_slots(state) > 0
        )

    def _phase(self, state: _State) -> phases.Phase:
        return phases.phase_of(self._fields(state), self.now)

    def _fields(self, state: _State) -> queue_pb2.RoomFields:
        fields = queue_pb2.RoomFields(paused=state.limits.paused)
        if state.defined:
            state.defined.fill(fields)
        return fields

    def _is_bypassed(self, state: _State) -> bool:
        return self._phase(state) == queue_pb2.ROOM_PHASE_BYPASSED

    def _is_graced(self, state: _State) -> bool:
        return self.now < state.grace_until and not self._is_bypassed(state)

    def _free_slots(self, state: _State) -> float:
        if self._is_bypassed(state):
            return math.inf
        return state.limits.capacity - len(state.admitted)

    def _interval(self, state: _State) -> float:
        """0: no limit."""
        if state.defined is None or self._is_bypassed(state):
            return 0.0
        per_minute = state.defined.definition.admissions_per_minute
        return math.ceil(60_000_000 / per_minute) / 1000 if per_minute else 0.0

    def _wait_for_allowance(self, state: _State) -> int:
        interval = self._interval(state)
        return (
            max(0, math.ceil(min(state.next_at, self.now + interval) - self.now)) if interval else 0
        )

    def _count_admission(self, state: _State, since: int) -> None:
        self._admissions += 1
        if interval := self._interval(state):
            assert state.defined
            begins = max(since, state.defined.definition.opens_at_ms, self.now - 250)
            state.next_at = max(min(state.next_at, self.now + interval), begins) + interval

    def _take(self, state: _State, room: str, entry: Entry) -> Place | Refusal:
        phase = self._phase(state)
        if phase == queue_pb2.ROOM_PHASE_NOT_OPEN:
            return Refusal.QUEUE_NOT_OPEN
        if not phases.gives_places(phase):
            return Refusal.QUEUE_PAUSED
        at_once = (
            phases.admits(phase)
            and self._free_slots(state) > 0
            and not self._is_graced(state)
            and not (state.waiting and not self._is_bypassed(state))
            and not self._wait_for_allowance(state)
        )
        if not at_once and len(state.waiting) >= state.limits.max_waiting:
            return Refusal.QUEUE_FULL
        if entry.only_live_place or entry.solution in state.solutions:
            return Refusal.CHALLENGE_REQUIRED
        if not self._spend_allowance(state, entry.source):
            return Refusal.TOO_MANY_REQUESTS
        if entry.solution:
            state.solutions.add(entry.solution)
        state.last = max(state.last + 1, number_at(self.now))
        place = Place(room, state.last, entry.user_id, state.epoch)
        state.live[place.number] = place
        state.seen[place.number] = self.now
        if at_once:
            state.admitted[place.number] = self.now + self._rules.admission_ttl_ms
            self._count_admission(state, self.now)
        else:
            state.waiting.add(place.number)
        return place

    def _spend_allowance(self, state: _State, source: str) -> bool:
        interval = self._rules.source_interval_ms
        if not interval or not source:
            return True
        restored = max(state.sources.get(source, 0), self.now) + interval
        if restored > self.now + self._rules.source_window_ms:
            return False
        state.sources[source] = restored
        return True

    def _claim(self, state: _State, number: int) -> None:
        if number in state.unclaimed:
            state.unclaimed.remove(number)
            state.admitted[number] = self.now + self._rules.admission_ttl_ms

    def _standing(self, state: _State, number: int) -> Standing:
        if number in state.waiting:
            order = sum(1 for other in state.waiting if other <= number)
            if not phases.is_ordered(self._fields(state), self.now):
                order = len(state.waiting)
            return Standing(PlaceState.WAITING, order=order)
        if (until := state.admitted.get(number, 0)) > self.now:
            return Standing(PlaceState.ADMITTED, admitted_until_ms=until)
        return ENDED

    def _place_of(self, state: _State, user_id: int) -> Place | None:
        return next((p for p in state.live.values() if p.user_id == user_id), None)

    def _is_lost(self, state: _State, number: int, issued_at: int) -> bool:
        newest = max(number, number_at(issued_at * 1000))
        oldest = number_at(self.now - self._rules.heal_within_ms)
        return newest > oldest and self._is_unknown(state, number)

    def _is_unknown(self, state: _State, number: int) -> bool:
        known = any(number in numbers for numbers in state.known)
        return state.certain < number <= state.epoch and not known and number not in state.ended

    def _live_had_ended(self, state: _State, older: int, newer_epoch: int) -> bool:
        restored_in = state.restored_in.get(older, 0)
        return restored_in <= newer_epoch or 0 < newer_epoch < older

    def _lost_one_stays(self, state: _State, lost: Place, live: Place) -> bool:
        if live.number < lost.number:
            return self._live_had_ended(state, live.number, lost.epoch)
        return lost.number <= live.epoch and live.number in state.waiting

    def _restore(self, state: _State, place: Place) -> None:
        if not self._prevails(state, place):
            state.ended.add(place.number)
            return
        self._note_owner(state, place)
        state.waiting.add(place.number)
        if not state.healed:
            state.grace_until = max(state.grace_until, state.resumed_at + self._rules.grace_ms)
        state.settled_at = self.now + self._rules.grace_ms

    def _adopt(self, state: _State, place: Place) -> None:
        if self._prevails(state, place):
            self._note_owner(state, place)
            state.restored_in[place.number] -= 0.5  # by a copy, not by its owner
        else:
            self._end(state, place.number)

    def _prevails(self, state: _State, place: Place) -> bool:
        other = self._place_of(state, place.user_id)
        if other is not None and other.number != place.number:
            if not self._lost_one_stays(state, place, other):
                return False
            self._end(state, other.number)
        return True

    def _note_owner(self, state: _State, place: Place) -> None:
        state.live[place.number] = replace(place, issued_at=0)
        state.seen[place.number] = self.now
        state.restored_in[place.number] = state.epoch

    def _end(self, state: _State, number: int) -> None:
        state.live.pop(number, None)
        state.seen.pop(number, None)
        state.waiting.discard(number)
        state.admitted.pop(number, None)
        state.unclaimed.discard(number)
        state.restored_in.pop(number, None)
        if self._is_unknown(state, number):
            state.ended.add(number)

    def _room(self, state: _State, room: str) -> Room:
        fields = Room(
            limits=state.limits,
            waiting=len(state.waiting),
            admitted=len(state.admitted),
            epoch=state.epoch,
            now=self.now,
            grace_until=state.grace_until,
            settled_at=state.settled_at,
            pace_at=state.pace_at,
            pace_now=state.pace_now,
            pace_before=0,
            admissions=self._admissions,
            seq=state.seq,
            last=state.last,
            unrecorded_at=self.unrecorded_at,
            due_in=self._due_in(state),
            defined=state.defined,
        )
        self._record(state, fields.fields())
        result = replace(fields, seq=state.seq)
        self.remember(room, result.memory)
        return result

    def _due_in(self, state: _State) -> int:
        can_admit = self._has_room_for_line(state) and not self._wait_for_allowance(state)
        return 0 if can_admit else _MINUTE

    def _record(self, state: _State, fields: queue_pb2.RoomFields) -> None:
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
        shown, now = state.shown, _Shown(set(state.waiting), admitted, set(state.ended), fields)
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
            state.log.append(_Entry(entry_id, self.now, entry.SerializeToString()))
            self._appends.next.set()
            self._appends.next = asyncio.Event()

    def _trim(self, state: _State) -> None:
        """The newest entry stays."""
        if not state.log:
            return
        *older, newest = state.log
        kept = [entry for entry in older if entry.at >= self.now - self._rules.log_ms]
        while kept and sum(64 + len(entry.changes) for entry in kept) > self._rules.log_bytes:
            del kept[: (len(kept) + 1) // 2]
        state.log = [*kept, newest]
