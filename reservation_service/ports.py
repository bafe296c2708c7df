"""What reservation_service needs from its store, the seat directory and the seat locks."""

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Literal, NamedTuple, Protocol

from reservation_service.best_seats import Hall
from reservation_service.domain import (
    Admission,
    Availability,
    BegunPayment,
    Hold,
    HoldTerms,
    IdempotencyKey,
    PaymentOf,
    PaymentOutcome,
    PaymentStart,
    Remembered,
    Reservation,
    Seat,
    SeatCounts,
    SeatRequest,
    Status,
)
from reservation_service.sale_terms import SaleTerms
from servicekit.errors import ServiceError

HoldResult = Reservation | Remembered | ServiceError


class LapsedHold(NamedTuple):
    """A place in the order of what has run out. The time is in UTC, without a zone."""

    lapses_at: datetime
    id: int


class GroupFailed(Exception):
    """A group was rolled back because of one of its items, or of a lock. Another item than that one
    may succeed alone."""

    def __init__(self, reason: Literal["lock", "races", "abort", "defect"]) -> None:
        """`reason`: it waited too long for a lock; others were faster at each attempt; MariaDB
        aborted the transaction again and again; MariaDB rejected a value."""
        super().__init__(reason)
        self.reason = reason


class HoldStore(Protocol):
    """Holds seats, and remembers the results of idempotency keys. Every write is durable when its
    method returns.

    The store's own clock decides which holds have expired. A seat has at most one live
    reservation (HELD, PAYING or CONFIRMED), an admission at most one that is PAYING or CONFIRMED.
    """

    async def hold_group(
        self, holds: Sequence[Hold], terms: HoldTerms, *, contended: bool = False
    ) -> Sequence[HoldResult]:
        """Holds all seats of each item, or none, and stores the result under its key. Returns the
        results that the items would have one after another, in order.

        A seat is available if it is free or its hold has expired. Within the cool-down after the
        end of the user's last hold of a seat, the hold lasts for what was left of that one; of
        several seats, for the least of them. Results: the reservation; the stored result if the key
        has one; SeatHeld, SeatSold; PaymentInProgress and AdmissionEnded if a reservation of the
        admission is PAYING or CONFIRMED; SalesClosed if the schedule is closed; SeatCoolsDown;
        TooManySeats if the user would exceed a limit; RequestInProgress.

        `contended` says that some of the seats are probably taken. Raises GroupFailed; and
        Unavailable or TimeoutError, after which it is unknown whether anything was written.
        """

    async def hold_alone(self, hold: Hold, terms: HoldTerms, *, patient: bool = True) -> HoldResult:
        """Holds the seats of an item whose group has failed. Raises what is wrong with it, and
        TransactionAborted if another transaction has locked what it needs for a second; at once if
        it is not `patient` and `is_locked`."""

    async def is_locked(self, hold: Hold) -> bool:
        """Whether another transaction has locked the buyer or a seat at this moment. Waits for no
        lock."""

    async def remembered(self, key: IdempotencyKey) -> Remembered | None:
        """Returns the stored result of a key."""

    async def remember_missing_seat(
        self, key: IdempotencyKey, request: SeatRequest, seat_id: int
    ) -> Remembered | None:
        """Stores "seat not found" as the result of a key. Returns the stored result instead if the
        key has one. Raises RequestInProgress."""


class PaymentStore(Protocol):
    """Applies payments to reservations, as HoldStore describes. Every change may be repeated."""

    async def begin_group(
        self, starts: Sequence[PaymentStart], lease_seconds: float
    ) -> Sequence[BegunPayment | None]:
        """HELD -> PAYING, or renews the lease of this payment; each item by itself, in one
        transaction as far as they concern different reservations and admissions. Returns None for
        an item that needs `begin_alone`. Waits for no lock on a reservation.

        The reservation takes the place of the admission, if that is given. The failure event of a
        failed payment may not have arrived yet: a reservation that is still PAYING for it counts
        as HELD. Raises what concerns all, such as Unavailable.
        """

    async def begin_alone(self, start: PaymentStart, lease_seconds: float) -> BegunPayment:
        """Does what `begin_group` does, for one item, also where another reservation of the
        admission is PAYING for the failed payment or for one whose lease has run out.

        Raises PaymentInProgress and AdmissionEnded if another reservation of the admission is
        PAYING or CONFIRMED, and Unavailable if another transaction has locked the reservation for
        a second.
        """

    async def confirm(self, payments: Sequence[PaymentOf]) -> Sequence[PaymentOutcome | Exception]:
        """Applies the success of payments, in order, in one transaction as far as nothing is late.
        Returns the outcome or the error of each. The outcome of a payment never changes. The seats
        of a reservation that was removed are lost. A reservation that has ended gets all of its
        seats again or none.

        Errors: ReservationNotFound for a reservation that has never existed, UnknownPayment if this
        payment has never begun for this reservation, and whatever else went wrong with an item.
        Raises what concerns all, such as Unavailable.
        """

    async def return_to_hold(self, payments: Sequence[PaymentOf]) -> Sequence[Exception | None]:
        """Applies the failure of payments: PAYING for this payment -> HELD; as `confirm` does.
        No-op for a reservation that was removed."""


class ReservationStore(Protocol):
    """Reads, cancels, expires and removes reservations, as HoldStore describes."""

    async def get(self, reservation_id: int) -> Reservation | None:
        """Reads a reservation."""

    async def cancel(self, reservation_id: int, user_id: int) -> tuple[bool, Reservation | None]:
        """Cancels this user's hold. Returns whether it did, and the reservation afterwards."""

    async def cancel_all(self, user_id: int, admission: Admission, limit: int) -> int:
        """Cancels at most `limit` of this user's holds that were made with this admission or an
        earlier one of its room; returns how many."""

    async def taken_seats(self, schedule_ids: Sequence[int]) -> Sequence[Availability]:
        """Lists the seats of each schedule that are held or sold, in the order of the schedules."""

    async def touched_schedules(
        self, ranges: Sequence[tuple[int, int]], limit: int
    ) -> Sequence[int] | None:
        """Lists, of the schedules with ids in these ranges (first, last), every one that is closed
        or of which a seat is held or sold, and others of which a seat was held before; None if
        there are more than `limit`."""

    async def count_seats(self, schedule_ids: Sequence[int]) -> SeatCounts:
        """Counts the sold seats of each schedule and those that the house has."""

    async def expire_lapsed(
        self, status: Status, after: LapsedHold, limit: int
    ) -> tuple[int, LapsedHold | None]:
        """Marks reservations of this status, HELD or PAYING, whose time has run out as EXPIRED: at
        most `limit`, those behind `after` in the order of their times. Returns how many it marked,
        and the next `after`, None when there are no more. Locks no others."""

    async def delete_old_keys(self, older_than_hours: int, limit: int) -> int:
        """Deletes at most `limit` idempotency keys of that age; returns how many."""

    async def remove_ended(self, older_than_days: int, limit: int) -> int:
        """Removes at most `limit` reservations that are CANCELLED or EXPIRED and whose time ran out
        that long ago, with the rows that belong to them; returns how many. Leaves those of users
        who are holding seats at this moment for the next time."""


class HouseStore(Protocol):
    """Applies what operators decide about the sale, as HoldStore describes: the house has a seat as
    a live reservation would. Every change may be repeated."""

    async def block(self, schedule_id: int, seat_ids: Sequence[int]) -> int:
        """Gives all of these seats to the house, or none; returns how many it did not have. Ends
        holds of them that have run out.

        Raises SeatsTaken, InvalidRequest for a seat that is known as one of another schedule, and
        TransactionAborted if others took and freed some at each attempt.
        """

    async def release(self, schedule_id: int, seat_ids: Sequence[int]) -> int:
        """Frees those of these seats that the house has; returns how many."""

    async def close(self, schedule_ids: Sequence[int]) -> None:
        """Closes schedules: no hold of them that was not committed before will be, except those
        that `end_holds` finds. Durable when the method returns."""

    async def reopen(self, schedule_ids: Sequence[int]) -> None:
        """Ends `close`."""

    async def end_holds(self, schedule_id: int) -> int:
        """Cancels all holds of a closed schedule; returns how many. Payments that have begun
        continue; one that fails later does not return to a hold."""

    async def paying(self, schedule_ids: Sequence[int], limit: int) -> Sequence[int]:
        """Lists at most `limit` reservations of these schedules that are PAYING."""

    async def paid(self, schedule_ids: Sequence[int]) -> int:
        """Counts the reservations of these schedules that are CONFIRMED."""

    async def buyers(
        self, schedule_id: int, after_reservation_id: int, limit: int
    ) -> Sequence[Reservation]:
        """Lists at most `limit` reservations of a schedule that are PAYING or CONFIRMED, in the
        order of their ids, above `after_reservation_id`."""


class SeatMap(Protocol):
    """The seats of a schedule, in seat order. Maps with the same seats are equal, and hashable."""

    @property
    def hall(self) -> Hall:
        """The seats, prepared for searches. Its indexes are those of this map."""

    @property
    def terms(self) -> SaleTerms:
        """On which terms the seats are sold."""

    def ids(self) -> Sequence[int]:
        """Returns the ids of all seats."""

    def seats_at(self, indexes: Iterable[int]) -> tuple[Seat, ...]:
        """Returns the seats with these indexes, in the order of their ids."""

    def indexes_of(self, seat_ids: Iterable[int]) -> list[int]:
        """Returns the indexes of these seats; leaves out those of other schedules."""


class SeatDirectory(Protocol):
    """Facts about seats."""

    async def seat(self, seat_id: int) -> Seat:
        """Returns a seat. Raises SeatNotFound if it does not exist or its date has passed."""

    async def seat_map(self, schedule_id: int) -> SeatMap:
        """Returns the seats of a schedule. Raises ScheduleNotFound if it does not exist or its date
        has passed."""


class SeatLocks(Protocol):
    """Locks that keep contention on a seat away from the store. Correctness does not depend on
    them."""

    def seats(self, seat_ids: Sequence[int]) -> AbstractAsyncContextManager[Collection[int]]:
        """Locks seats for the block. Yields those that somebody else has locked."""
