"""The use cases of a waiting room: what fans and operators do with it.

Redis decides who is admitted and when: `admit` and `step` in `lua/prelude.lua`.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from prometheus_client import Counter, Gauge

from protos.limits import MAX_ITEMS
from queue_service.activity import Activity
from queue_service.definition import Definition
from queue_service.domain import (
    MAX_NAME,
    MAX_NUMBER,
    MAX_USER_ID,
    Entry,
    HandBack,
    HandBackReply,
    Place,
    Refusal,
    Room,
    RoomMemory,
)
from queue_service.errors import BadLimit, BadName, MixedRooms, RoomNotFound, TooManyItems
from queue_service.ports import QueueStore
from queue_service.tokens import Signer
from room_view.position import ENDED, Pacing, Position
from room_view.view import UNRECORDED_MS
from servicekit import logs
from servicekit.background import repeat
from servicekit.retries import Outage

log = logs.get(__name__)

# A replica that no call has shown anybody reports 0.
WAITING = Gauge("queue_waiting", "Places in line; the maximum of all replicas counts.", ["room"])
ADMITTED = Gauge(
    "queue_admitted", "Current admissions; the maximum of all replicas counts.", ["room"]
)
ADMISSIONS = Counter("queue_admissions", "Admissions given by this replica.", ["room"])
REFUSED = Counter("queue_entries_refused", "Users who got no place.", ["room", "reason"])


# Ends of a room that a replica remembers: more than happen in the seconds that a store may lose.
# To repeat them takes four calls.
_MAX_ENDS = 1_000
# A tick takes 0.5 ms of CPU, and mostly finds nothing to do. Only an admission whose whole time is
# shorter than the pause can end earlier than the last tick knew.
_MOST_SKIPPED_TICKS = 10


@dataclass(slots=True)
class _Ends:
    """The newest ends of places that the store has acknowledged, and the newest epoch that has
    them."""

    places: deque[Place] = field(default_factory=lambda: deque(maxlen=_MAX_ENDS))
    epoch: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(slots=True)
class _RunningRoom:
    """What this replica knows of a room beside the store."""

    name: str
    ends: _Ends = field(default_factory=_Ends)
    activity: Activity = field(default_factory=Activity)
    warned_at: int = 0


@dataclass(frozen=True, slots=True)
class Entered:
    """A user's place, its token, and where it stands."""

    place: Place
    access_token: str
    position: Position


@dataclass(frozen=True, slots=True)
class NotOpen:
    """The room gives no places yet, for so many milliseconds."""

    retry_after_ms: int


@dataclass(frozen=True, slots=True)
class Positions:
    """Where places stand, in the order of the question, as of change `seq` of `epoch`; of 0 if no
    place was asked for."""

    places: list[Position]
    epoch: int = 0
    seq: int = 0


class QueueService:
    """The use cases. All raise Unavailable while the store is unavailable."""

    def __init__(
        self, store: QueueStore, signer: Signer, pacing: Pacing, rooms: Iterable[str]
    ) -> None:
        """`rooms`: those that it runs from the start."""
        self._store = store
        self._signer = signer
        self._pacing = pacing
        self._rooms = {room: _RunningRoom(room) for room in rooms}

    def open_room(self, room: str) -> None:
        """Runs one more room. No-op if it runs."""
        self._rooms.setdefault(room, _RunningRoom(room))

    def close_room(self, room: str) -> None:
        """Runs a room no longer: every later call raises RoomNotFound. Its places stay in the
        store."""
        if self._rooms.pop(room, None) is not None:
            self._store.undefine(room)
            for gauge in (WAITING, ADMITTED):
                with contextlib.suppress(KeyError):  # no call has counted it
                    gauge.remove(room)

    def define_room(self, room: str, definition: Definition | None) -> None:
        """Makes a room follow its definition from now on, or the settings; the next tick, which
        comes at once, tells the store. Raises RoomNotFound."""
        activity = self._require_room(room).activity
        if definition is None:
            self._store.undefine(room)
        else:
            self._store.define(room, definition)
        activity.hurry()

    async def enter_queue(
        self, room: str, entries: Sequence[Entry], renew_issued_before: int = 0
    ) -> list[Entered | Refusal | NotOpen]:
        """Returns a place for each user, in the given order: the one the user has, or a new one.

        A place that was given before `renew_issued_before` (Unix time in seconds) gets a token that
        is issued now. Raises TooManyItems and RoomNotFound.
        """
        running = self._require_room(room)
        _check_count(entries)
        known = [entry for entry in entries if 0 < entry.user_id <= MAX_USER_ID]
        if not known:
            return [Refusal.INVALID_REQUEST for _ in entries]
        state, answers = await self._store.enter(room, known)
        self._count(running, state)
        if await self._repeat_ends(running, state):
            # The answer may name a place whose end was lost.
            state, answers = await self._store.enter(room, known)
            self._count(running, state)
        fields = state.fields()
        stored = iter(answers)
        results: list[Entered | Refusal | NotOpen] = []
        for entry in entries:
            possible = 0 < entry.user_id <= MAX_USER_ID
            answer = next(stored) if possible else Refusal.INVALID_REQUEST
            if isinstance(answer, Refusal):
                REFUSED.labels(room, answer).inc()
                opens_in = fields.gather_from_ms - state.now
                not_open = answer is Refusal.QUEUE_NOT_OPEN
                results.append(NotOpen(max(0, opens_in)) if not_open else answer)
            else:
                place, standing = answer
                position = self._pacing.position(standing, place.number, fields, state.now)
                issued_at = _issue_time(place, state, renew_issued_before)
                token = self._signer.sign(place, issued_at)
                results.append(Entered(place, token, position))
        return results

    async def get_positions(
        self, places: Sequence[Place], renew_issued_before: int = 0
    ) -> Positions:
        """Returns where each place stands; an impossible place has ended.

        A live place whose token was issued before `renew_issued_before` (Unix time in seconds) gets
        a fresh one. Raises TooManyItems, MixedRooms and RoomNotFound.
        """
        if not places:
            return Positions([])
        _check_count(places)
        room = places[0].room
        if any(place.room != room for place in places):
            raise MixedRooms("All places of one call must belong to one room.")
        running = self._require_room(room)
        state, standings = await self._store.positions(room, [p for p in places if p.possible])
        self._count(running, state)
        fields = state.fields()
        stored = iter(standings)
        positions = []
        for place in places:
            standing = next(stored) if place.possible else ENDED
            position = self._pacing.position(standing, place.number, fields, state.now)
            issued_at = place.issued_at or place.given_at
            if issued_at < renew_issued_before and position.standing != ENDED:
                token = self._signer.sign(place, state.now // 1000)
                position = position._replace(access_token=token)
            positions.append(position)
        return Positions(positions, state.epoch, state.seq)

    async def leave_queue(self, room: str, number: int, user_id: int, epoch: int = 0) -> None:
        """Ends a place or an admission and admits the next in line. Idempotent. No-op for another
        user's place. `epoch` is that of the place, 0 if it is unknown. Raises RoomNotFound."""
        await self.end_places(room, [Place(room, number, user_id, epoch)])

    async def end_places(self, room: str, places: Sequence[Place]) -> None:
        """Does what `leave_queue` does for each of these places of the room; at most MAX_ITEMS of
        them are one change of the room. Raises RoomNotFound."""
        running = self._require_room(room)
        possible = [place for place in places if place.possible]
        for n in range(0, len(possible), MAX_ITEMS):
            part = possible[n : n + MAX_ITEMS]
            self._count(running, await self._store.leave_all(room, part))
            running.ends.places.extend(part)

    async def end_admissions(self, room: str, places: Sequence[Place]) -> None:
        """Does what `end_places` does, also for a room that this replica does not run, because it
        has not heard of it yet, or because it was removed. No-op if the store does not know it."""
        if room in self._rooms:
            await self.end_places(room, places)
        elif await self._store.has(room):
            possible = [place for place in places if place.possible]
            for n in range(0, len(possible), MAX_ITEMS):
                await self._store.leave_all(room, possible[n : n + MAX_ITEMS])
        else:
            log.info("room_unknown", room=room, places=len(places))

    async def hand_back(self, room: str, hand_back: HandBack) -> HandBackReply:
        """Takes back what a copy of the room knows of a lost epoch; impossible places are ignored.
        Raises TooManyItems, BadName and RoomNotFound."""
        running = self._require_room(room)
        if hand_back.size > MAX_ITEMS:
            raise TooManyItems(f"A call may have at most {MAX_ITEMS} items.")
        if not 0 < len(hand_back.bidder) <= MAX_NAME:
            raise BadName(f"A bidder needs a name of at most {MAX_NAME} characters.")
        state, reply = await self._store.hand_back(room, hand_back.possible())
        self._count(running, state)
        return reply

    def remember(self, room: str, memory: RoomMemory) -> None:
        """Takes note of what a caller last saw of a room, in case the store has lost it. No-op if
        it is not `possible`. Raises RoomNotFound."""
        self._require_room(room)
        if memory.possible:
            self._store.remember(room, memory)

    async def heartbeat(self, room: str, seen: Sequence[Place], *, polled: bool = False) -> Room:
        """Returns the room as of now, for those who keep a copy of it, and notes that the owners of
        these places, or others if `polled`, have polled. At most MAX_ITEMS, all `possible`. Raises
        RoomNotFound."""
        running = self._require_room(room)
        state = await self._store.heartbeat(room, seen, polled=polled)
        self._count(running, state)
        return state

    async def get_room(self, room: str) -> Room:
        """Returns the limits and counts of a room. Raises RoomNotFound."""
        return await self._tick(self._require_room(room))

    async def update_room(
        self,
        room: str,
        *,
        capacity: int | None = None,
        max_waiting: int | None = None,
        paused: bool | None = None,
    ) -> Room:
        """Changes the limits that are not None, for all replicas at once.

        Raises BadLimit, RoomIsDefined and RoomNotFound.
        """
        running = self._require_room(room)
        for limit in (capacity, max_waiting):
            if limit is not None and not 0 <= limit < MAX_NUMBER:
                raise BadLimit("A limit must be a number from 0 to 2^53 - 1.")
        state = await self._store.update(
            room, capacity=capacity, max_waiting=max_waiting, paused=paused
        )
        log.info(
            "room_updated", room=room, capacity=capacity, max_waiting=max_waiting, paused=paused
        )
        self._count(running, state)
        return state

    async def keep_ticking(self, room: str, seconds: float) -> None:
        """Refills lapsed slots and updates the metrics at once and then while somebody waits or is
        admitted, until cancelled: every `seconds` seconds, or, if nothing will be due for longer,
        when it is, but at least every 10 * `seconds`.

        An empty room makes no call. Each replica that a place has entered through, or that a
        heartbeat or any other call has shown one, ticks until the room is empty again. Raises
        RoomNotFound.
        """
        running = self._require_room(room)
        outage = Outage(log, "store_unavailable", "store_available", room=room)
        activity = running.activity
        activity.hurry()  # a replica that was restarted may be the only one

        async def tick_when_busy() -> None:
            async with activity.begun():
                await self._tick(running)
            await activity.until_due(at_most=_MOST_SKIPPED_TICKS * seconds, less=seconds)

        await repeat(tick_when_busy, seconds=seconds, outage=outage)

    async def _tick(self, running: _RunningRoom) -> Room:
        state = await self._store.tick(running.name)
        self._count(running, state)
        await self._repeat_ends(running, state)
        return state

    async def _repeat_ends(self, running: _RunningRoom, state: Room) -> bool:
        """In a new epoch, repeats the ends that the store may have lost, and returns whether there
        were any. Kafka does not repeat payments that were handled before the loss."""
        ends = running.ends
        if state.epoch <= ends.epoch:
            return False
        async with ends.lock:
            if state.epoch > ends.epoch:
                places = tuple(ends.places)
                for n in range(0, len(places), MAX_ITEMS):
                    part = places[n : n + MAX_ITEMS]
                    self._count(running, await self._store.leave_all(running.name, part))
                ends.epoch = state.epoch
        return len(ends.places) > 0

    def _count(self, running: _RunningRoom, state: Room) -> None:
        if self._rooms.get(running.name) is running:  # not closed meanwhile
            WAITING.labels(running.name).set(state.waiting)
            ADMITTED.labels(running.name).set(state.admitted)
        ADMISSIONS.labels(running.name).inc(state.admissions)
        self._warn_of_unrecorded(running, state)
        ends = running.ends
        has_ends_to_repeat = bool(ends.places) and state.epoch > ends.epoch
        running.activity.note(state, must_hurry=has_ends_to_repeat)

    def _warn_of_unrecorded(self, running: _RunningRoom, state: Room) -> None:
        """At most once in the time for which a change without an entry keeps copies out of use."""
        since = max(running.warned_at, state.now - UNRECORDED_MS)
        if state.unrecorded_at > since:
            running.warned_at = state.unrecorded_at + UNRECORDED_MS
            log.warning("room_change_unrecorded", room=running.name)

    def _require_room(self, room: str) -> _RunningRoom:
        running = self._rooms.get(room)
        if running is None:
            raise RoomNotFound("There is no such waiting room.")
        return running


def _issue_time(place: Place, state: Room, renew_issued_before: int) -> int:
    """The same for each token of a place, as long as it is young enough. A clock that was set back
    must not date a token into the future, because such tokens are refused."""
    now = state.now // 1000
    return now if place.given_at < renew_issued_before else min(place.given_at, now)


def _check_count(items: Sequence[object]) -> None:
    if len(items) > MAX_ITEMS:
        raise TooManyItems(f"A call may have at most {MAX_ITEMS} items.")
