"""Decides a group of holds in order of arrival, from what the database knows. No I/O.

An item sees what earlier items of the group will have done, so the group has the results that its
items would have one after another.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from reservation_service.domain import (
    Admission,
    Hold,
    HoldTerms,
    IdempotencyKey,
    Remembered,
    Status,
)
from reservation_service.errors import (
    AdmissionEnded,
    PaymentInProgress,
    RequestInProgress,
    SalesClosed,
    SeatCoolsDown,
    SeatHeld,
    SeatSold,
    TooManySeatsOfSchedule,
    TooManyUnpaidSeats,
)
from servicekit.errors import ServiceError


@dataclass(frozen=True, slots=True)
class LiveReservation:
    """A reservation that is HELD, PAYING or CONFIRMED, and whether its time has run out,
    which means nothing for one that is CONFIRMED."""

    id: int
    status: Status
    lapsed: bool
    payment_id: int = 0


@dataclass(frozen=True, slots=True)
class LastHold:
    """A user's last reservation of a seat. In seconds: how much of its hold was left when it ended,
    and how much of its cool-down is left. `ended` is false if it is live."""

    ended: bool
    unused: float
    cooling: float


@dataclass(frozen=True, slots=True)
class Facts:
    """What the database knows about the seats, users, keys and admissions of a group."""

    claims: Mapping[int, LiveReservation] = field(default_factory=dict)
    """By seat, for seats that are claimed."""
    keys: Mapping[IdempotencyKey, Remembered | None] = field(default_factory=dict)
    """The keys that are used; None for one whose reservation was removed."""
    unpaid: Mapping[int, int] = field(default_factory=dict)
    """Seats that are held or being paid, by user."""
    of_schedule: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """Seats that are held, being paid or bought, by user and schedule."""
    last_holds: Mapping[tuple[int, int], LastHold] = field(default_factory=dict)
    """By user and seat."""
    paid: Mapping[Admission, LiveReservation] = field(default_factory=dict)
    """The reservation of each admission that is PAYING or CONFIRMED."""
    closed: Collection[int] = ()
    """Schedules that are closed."""


@dataclass(frozen=True, slots=True)
class Granted:
    """The item at `index` of the group gets its seats for `seconds`."""

    index: int
    hold: Hold
    seconds: float


@dataclass(frozen=True, slots=True)
class RepeatOf:
    """An item repeats the key of the item at `index`, which is granted."""

    index: int


Decision = Granted | RepeatOf | Remembered | ServiceError


@dataclass(frozen=True, slots=True)
class Decisions:
    """One decision for each item, in order, and the ids of the lapsed reservations that stand in
    the way of those that are granted."""

    of_items: Sequence[Decision]
    lapsed: Sequence[int]

    @property
    def granted(self) -> list[Granted]:
        """The items that are granted, in order."""
        return [decision for decision in self.of_items if isinstance(decision, Granted)]


def decide(holds: Sequence[Hold], facts: Facts, terms: HoldTerms) -> Decisions:
    """Decides each hold in order."""
    group = _Group(facts, terms)
    return Decisions([group.decide(*item) for item in enumerate(holds)], sorted(group.lapsed))


def refusals(holds: Sequence[Hold], facts: Facts) -> Sequence[Remembered | ServiceError | None]:
    """Returns the result of each hold that needs no more than the facts' claims and keys and the
    closed schedules, None for each that needs more."""
    return [_known_result(hold, facts) or _conflict(hold, facts, ()) for hold in holds]


class _Group:
    """The facts, and what the items that were decided add to them."""

    def __init__(self, facts: Facts, terms: HoldTerms) -> None:
        self._facts = facts
        self._terms = terms
        self._taken: set[int] = set()
        self._unpaid = Counter(facts.unpaid)
        self._of_schedule = Counter(facts.of_schedule)
        self._keys: dict[IdempotencyKey, int] = {}
        self.lapsed: set[int] = set()

    def decide(self, index: int, hold: Hold) -> Decision:
        if hold.key in self._keys:
            return RepeatOf(self._keys[hold.key])
        if known := _known_result(hold, self._facts):
            return known
        if conflict := _conflict(hold, self._facts, self._taken):
            return conflict
        paid = self._facts.paid.get(hold.admission) if hold.admission else None
        if paid is not None and not (paid.lapsed and paid.status == Status.PAYING):
            if paid.status == Status.CONFIRMED:
                return AdmissionEnded()
            return PaymentInProgress(paid.payment_id)
        length = self._length(hold)
        if isinstance(length, ServiceError):
            return length
        if excess := self._excess(hold):
            return excess
        self._grant(index, hold, paid)
        return Granted(index, hold, length)

    def _length(self, hold: Hold) -> float | ServiceError:
        """How many seconds the hold lasts: the least that is left of any of its seats."""
        left = self._terms.hold_seconds
        used_up: dict[int, float] = {}
        for seat in hold.seats:
            last = self._facts.last_holds.get((hold.user_id, seat.id))
            if last is None or last.cooling <= 0:
                continue
            if not last.ended:  # since the claims were read, which were free
                return SeatHeld(seat.id)
            if last.unused <= 0:
                used_up[seat.id] = last.cooling
            left = min(left, last.unused)
        if used_up:
            return SeatCoolsDown(*used_up, retry_after=math.ceil(max(used_up.values())))
        return left

    def _excess(self, hold: Hold) -> ServiceError | None:
        count = len(hold.seats)
        limit = self._terms.max_unpaid_seats
        if limit and self._unpaid[hold.user_id] + count > limit:
            return TooManyUnpaidSeats(limit)
        limit = self._terms.max_seats_per_schedule
        if limit and self._of_schedule[hold.user_id, hold.schedule_id] + count > limit:
            return TooManySeatsOfSchedule(limit)
        return None

    def _grant(self, index: int, hold: Hold, paid: LiveReservation | None) -> None:
        ids = [seat.id for seat in hold.seats]
        self._taken.update(ids)
        self._unpaid[hold.user_id] += len(ids)
        self._of_schedule[hold.user_id, hold.schedule_id] += len(ids)
        if hold.key is not None:
            self._keys[hold.key] = index
        self.lapsed.update(claim.id for id in ids if (claim := self._facts.claims.get(id)))
        if paid is not None:
            self.lapsed.add(paid.id)


def _known_result(hold: Hold, facts: Facts) -> Remembered | ServiceError | None:
    if hold.key is None or hold.key not in facts.keys:
        return None
    # A key is removed long before its reservation, unless the removal of keys lags behind. It is
    # then removed soon, and a repeat is a first request.
    return facts.keys[hold.key] or RequestInProgress()


def _conflict(hold: Hold, facts: Facts, taken: "set[int] | tuple[()]") -> ServiceError | None:
    """Refuses seats of a closed schedule. Names all seats of the hold that are held or sold, or
    that an earlier item gets."""
    if hold.schedule_id in facts.closed:
        return SalesClosed()
    conflicts = []
    sold = False
    for seat in hold.seats:
        claim = facts.claims.get(seat.id)
        if claim is not None and claim.status == Status.CONFIRMED:
            sold = True
        elif seat.id not in taken and (claim is None or claim.lapsed):
            continue
        conflicts.append(seat.id)
    if not conflicts:
        return None
    return (SeatSold if sold else SeatHeld)(*conflicts)
