"""The store, as ports.QueueStore has it."""

import copy
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from protos.frontrow.queue.v1 import queue_pb2
from queue_service.definition import Defined, Definition, Mode
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
from queue_service.ports import Snapshot
from room_view import phase as phases
from room_view.position import ENDED, Standing, given_at_ms
from servicekit.errors import Unavailable
from tests.fakes.queue.changes import Changes
from tests.fakes.queue.state import (
    ASK_AGAIN_MS,
    CHUNK,
    MINUTE,
    UNKNOWN_OWNER,
    Healing,
    State,
    number_at,
)


class FakeQueueStore(Changes):
    """Implements ports.QueueStore, as one replica sees it. Every call raises `unavailable`, if
    set."""

    def __init__(self, rules: Rules, defaults: Limits) -> None:
        super().__init__(rules)
        # When a replica of the version before was last noticed.
        self.unrecorded_at = 0
        self._defaults = defaults
        self._memories: dict[str, RoomMemory] = {}
        self._corrections: dict[str, RoomMemory] = {}
        self._definitions: dict[str, Definition] = {}

    def forget(self) -> None:
        """The store loses everything; its callers remember the limits. Takes 10 ms."""
        self._rooms.clear()
        self.advance(0.01)

    def copy_rooms(self) -> dict[str, State]:
        """A copy of all rooms, for `cut_back`."""
        return copy.deepcopy(self._rooms)

    def cut_back(self, rooms: dict[str, State], *, unnoticed: bool = False) -> None:
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

    def _is_proved(self, state: State, place: Place, entry: Entry) -> bool:
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

    async def leave(self, room: str, number: int, user_id: int, epoch: int) -> Room:
        return await self.leave_all(room, [Place(room, number, user_id, epoch)])

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
        ends_at = min(state.admitted.values(), default=self.now + MINUTE)
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
        reply = HandBackReply(granted=False, done=False, retry_after_ms=ASK_AGAIN_MS)
        if hand_back.epoch < state.epoch and hand_back.last <= state.epoch:
            healing = state.healing = state.healing or Healing(self.now + self._rules.bidding_ms)
            reply = self._bid(state, healing, hand_back)
        if reply.granted:
            for lost in hand_back.admitted:
                self._give_back_admission(state, room, lost, hand_back.epoch)
            for number in hand_back.waiting:
                if number not in state.live and self._is_unknown(state, number):
                    state.live[number] = Place(room, number, UNKNOWN_OWNER, 0)
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

    def define(self, room: str, definition: Definition) -> None:
        self._definitions[room] = definition

    def undefine(self, room: str) -> None:
        for known in (self._definitions, self._memories, self._corrections):
            known.pop(room, None)

    async def definitions(self) -> dict[str, Definition]:
        self._raise_if_unavailable()
        return {
            room: state.defined.definition for room, state in self._rooms.items() if state.defined
        }

    async def has(self, room: str) -> bool:
        self._raise_if_unavailable()
        return room in self._rooms

    async def end_room(self, room: str, version: int, limits: Limits | None) -> None:
        self._raise_if_unavailable()
        old = self._rooms.get(room)
        if old is None or old.defined is None or old.defined.definition.version > version:
            return
        epoch = max(number_at(self.now + 1), old.last + 1)
        new = self._rooms[room] = State(
            limits or Limits(0, 0),
            epoch,
            last=epoch,
            grace_until=0,
            settled_at=0,
            resumed_at=self.now,
            heard_at=self.now,
            blind=0,
            certain=epoch,
            healed=True,
            removed_version=version,
        )
        if limits is not None:
            self._room(new, room)

    def remember(self, room: str, memory: RoomMemory) -> None:
        known = self._memories.get(room)
        if known is None:
            self._memories[room] = memory
        elif not known.is_after(memory):
            self._memories[room] = replace(memory, last=max(memory.last, known.last))
        elif room in self._rooms and memory.last < self._rooms[room].blind:
            self._corrections[room] = memory

    def _open(self, room: str) -> State:
        self._raise_if_unavailable()
        self._admissions = 0
        memory = self._corrections.pop(room, None) or self._memories.get(room)
        memory = memory or RoomMemory(0, 0, 0, self._defaults)
        limits, last = memory.limits, memory.last
        if room not in self._rooms:
            epoch = max(number_at(self.now + 1), last + 1, memory.epoch + 1)
            grace_until = self.now + self._rules.grace_ms if last else 0
            self._rooms[room] = State(
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
        newest = stored.definition.version if stored else state.removed_version
        if known and known.version > newest:
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

    def _begin_epoch(self, state: State, memory: RoomMemory) -> None:
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

    def _hear(self, state: State) -> None:
        if self.now - state.heard_at > self._rules.grace_ms:
            state.resumed_at = self.now
        state.heard_at = self.now

    def _step(self, state: State) -> None:
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

    def _take(self, state: State, room: str, entry: Entry) -> Place | Refusal:
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

    def _room(self, state: State, room: str) -> Room:
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
