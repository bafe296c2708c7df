"""The use cases of reservations: what users, payment_service and the sweep do with them."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import TypeVar

from reservation_service.domain import (
    Admission,
    BegunPayment,
    BestAvailable,
    Hold,
    HoldTerms,
    IdempotencyKey,
    PaymentOf,
    PaymentOutcome,
    PaymentStart,
    Reservation,
    Seat,
    SeatCounts,
    SeatRequest,
    Status,
    TakenSeats,
    begin_result,
    cancellation_error,
    check_admission,
    check_hold_request,
    check_schedules,
    check_seat_count,
)
from reservation_service.errors import (
    NotYours,
    PaymentInProgress,
    ReservationNotFound,
    SalesClosed,
    SeatNotFound,
    SingleSeatLeft,
    TooManySeats,
    UnknownPayment,
)
from reservation_service.hold_groups import HoldGroups
from reservation_service.ports import (
    HoldStore,
    LapsedHold,
    PaymentStore,
    ReservationStore,
    SeatDirectory,
    SeatLocks,
)
from reservation_service.seat_search import SeatSearch
from reservation_service.taken_seats import shown_as_taken
from servicekit.batching import Batcher
from servicekit.errors import InvalidRequest

Outcome = TypeVar("Outcome")

# Rows per statement: few enough to hold their locks for milliseconds only.
SWEEP_BATCH = 200
FIRST_LAPSED = LapsedHold(datetime(1970, 1, 1), 0)
KEY_HOURS = 24
CANCEL_BATCH = 100
# Batches of old rows that one sweep removes: about 700 rows per second at the default interval,
# more than a sale leaves behind.
REMOVAL_BATCHES = 20
# The pause between two of them, in which others use the database.
REMOVAL_PAUSE_SECONDS = 0.05
# Payments that begin in one transaction: few enough to hold their locks for milliseconds only.
BEGINS_IN_GROUP = 64
# Two, so that a payment that arrives during a commit does not wait for it and then for its own.
BEGINS_IN_FLIGHT = 2
# How long a group may take, and how long an item waits for its group, at most.
BEGIN_SECONDS = 5.0
# The ids of as many seats take at most 2 MB, half of what gRPC accepts. To read them takes a
# second, also those beyond: callers ask for less at once (`gateway/taken_seats.py`).
MAX_TAKEN = 200_000
# To list as many takes 6 ms, for each gateway process and second.
MAX_TOUCHED = 2_000
MAX_TOUCHED_RANGES = 64
# Attempts at a change that lost a race but would be allowed by now.
ATTEMPTS = 3


class ReservationService:
    """Holds seats, cancels holds, and applies what happens to their payments.

    `hold_seconds` is the length of a hold, and `cool_down_seconds` how long after the end of a
    hold the same user gets only what was left of it; `payment_lease_seconds` is how long a seat
    stays held, at least, after a payment has begun; `retention_days` is how long a reservation is
    kept that was cancelled or has expired, 0 for ever. `max_seats` is the most seats of a
    reservation, and that a user holds without having paid; `max_seats_per_schedule` the most that a
    user holds or has bought of a schedule; 0 turns a limit off. `refuse_single_seats` refuses
    requests for seats by their ids that would leave a single seat without need.
    """

    def __init__(
        self,
        reservations: ReservationStore,
        holds: HoldStore,
        payments: PaymentStore,
        directory: SeatDirectory,
        locks: SeatLocks,
        *,
        hold_seconds: float,
        cool_down_seconds: float,
        payment_lease_seconds: float,
        retention_days: int = 0,
        max_seats: int = 0,
        max_seats_per_schedule: int = 0,
        refuse_single_seats: bool = False,
    ) -> None:
        self._reservations = reservations
        self._holds = holds
        self._payments = payments
        self._directory = directory
        self._terms = HoldTerms(hold_seconds, cool_down_seconds, max_seats, max_seats_per_schedule)
        self._groups = HoldGroups(holds, locks, self._terms)
        self._search = SeatSearch(directory, reservations.taken_seats)
        self._refuse_single_seats = refuse_single_seats
        self._payment_lease_seconds = payment_lease_seconds
        self._retention_days = retention_days
        self._begins = Batcher(
            self._begin_group,
            budget=BEGIN_SECONDS,
            max_batch=BEGINS_IN_GROUP,
            max_in_flight=BEGINS_IN_FLIGHT,
            direct=True,
        )

    async def hold_seats(
        self,
        user_id: int,
        seat_ids: Sequence[int],
        idempotency_key: str,
        admission: Admission | None = None,
    ) -> Reservation:
        """Holds all of these seats for a user, or none. With an idempotency key, a repeat returns
        the first result, whatever the order of the ids.

        Raises InvalidRequest (also for seats of several schedules), SeatNotFound, TooManySeats,
        WrongRoom, SalesClosed, SingleSeatLeft where that is refused, and what HoldGroups.hold
        raises.
        """
        check_hold_request(user_id, seat_ids, idempotency_key, admission)
        request = SeatRequest.of_seats(seat_ids)
        key = IdempotencyKey(user_id, idempotency_key) if idempotency_key else None
        try:
            seats, currency = await self._seats_to_hold(seat_ids, admission)
        except SeatNotFound as error:
            if key is None:
                raise
            remembered = await self._holds.remember_missing_seat(key, request, error.seat_id)
            if remembered is None:
                raise
            return remembered.result(request)
        except (TooManySeats, SingleSeatLeft, SalesClosed):
            # A repeat: the seats around have changed since, or the limits, or the sale has ended.
            if key is None or (remembered := await self._holds.remembered(key)) is None:
                raise
            return remembered.result(request)
        return await self._groups.hold(
            Hold(user_id, tuple(seats), request, key, admission, currency)
        )

    async def _seats_to_hold(
        self, seat_ids: Sequence[int], admission: Admission | None
    ) -> tuple[Sequence[Seat], str]:
        """Returns the seats, which are on sale to this admission, in the order of their ids, and
        the currency of their prices."""
        check_seat_count(len(seat_ids), self._terms.max_unpaid_seats)
        schedules = set()
        for seat_id in sorted(seat_ids):
            schedules.add((await self._directory.seat(seat_id)).schedule_id)
        if len(schedules) > 1:
            raise InvalidRequest("All seats must be of one schedule.")
        seat_map = await self._directory.seat_map(schedules.pop())
        seat_map.terms.check(admission, time.time() * 1000)
        # Prices and their currency from one map: it may be newer than where the seats were found.
        seats = seat_map.seats_at(seat_map.indexes_of(seat_ids))
        if missing := set(seat_ids).difference(seat.id for seat in seats):
            raise SeatNotFound(min(missing))
        if self._refuse_single_seats:
            await self._search.check_single_seats(seats)
        return seats, seat_map.terms.currency

    async def hold_best_available(
        self,
        user_id: int,
        best: BestAvailable,
        idempotency_key: str,
        admission: Admission | None = None,
    ) -> Reservation:
        """Holds the best available seats for a user. With an idempotency key, a repeat returns the
        first result without a search.

        Raises InvalidRequest, TooManySeats, WrongRoom, SalesClosed, what SeatSearch.hold_best
        raises, and what HoldGroups.hold raises; but not SeatHeld and SeatSold.
        """
        check_hold_request(user_id, best, idempotency_key, admission)
        key = IdempotencyKey(user_id, idempotency_key) if idempotency_key else None
        if key is not None and (remembered := await self._holds.remembered(key)) is not None:
            return remembered.result(best.request)
        check_seat_count(best.wish.count, self._terms.max_unpaid_seats)
        seat_map = await self._directory.seat_map(best.schedule_id)
        seat_map.terms.check(admission, time.time() * 1000)

        async def hold(seats: Sequence[Seat], currency: str) -> Reservation:
            return await self._groups.hold(
                Hold(user_id, tuple(seats), best.request, key, admission, currency)
            )

        return await self._search.hold_best(best, hold)

    async def hold_seat(
        self, user_id: int, seat_id: int, idempotency_key: str, admission: Admission | None = None
    ) -> Reservation:
        """Holds one seat: see `hold_seats`."""
        return await self.hold_seats(user_id, (seat_id,), idempotency_key, admission)

    async def get_reservation(self, reservation_id: int, user_id: int) -> Reservation:
        """Returns a user's reservation. Raises ReservationNotFound, NotYours."""
        reservation = await self._reservations.get(reservation_id)
        if reservation is None or reservation.id < 0:  # the house's
            raise ReservationNotFound(reservation_id)
        if reservation.user_id != user_id:
            raise NotYours
        return reservation

    async def cancel_reservation(self, reservation_id: int, user_id: int) -> Reservation:
        """Cancels a hold; no-op if it is cancelled or expired. Returns the reservation.

        Raises ReservationNotFound, NotYours, PaymentInProgress, AlreadyPaid.
        """
        for _ in range(ATTEMPTS):
            cancelled, reservation = await self._reservations.cancel(reservation_id, user_id)
            if reservation is None:
                raise ReservationNotFound(reservation_id)
            if cancelled:
                return reservation
            if (error := cancellation_error(reservation, user_id)) is not None:
                raise error
            if reservation.status != Status.HELD:
                return reservation
        # Payments began and failed between every attempt and the read behind it.
        raise PaymentInProgress

    async def cancel_holds(self, user_id: int, admission: Admission) -> int:
        """Cancels this user's holds that were made with this admission or an earlier one of its
        room; payments that have begun continue. Idempotent. Returns how many it cancelled.

        Raises InvalidRequest.
        """
        check_admission(admission)
        cancelled = total = await self._reservations.cancel_all(user_id, admission, CANCEL_BATCH)
        while cancelled == CANCEL_BATCH:
            cancelled = await self._reservations.cancel_all(user_id, admission, CANCEL_BATCH)
            total += cancelled
        return total

    async def taken_seats(self, schedule_id: int) -> TakenSeats:
        """Lists the seats of a schedule that are held or sold: all of a closed one are sold."""
        [taken] = await self.taken_seats_of([schedule_id])
        return taken

    async def taken_seats_of(self, schedule_ids: Sequence[int]) -> Sequence[TakenSeats]:
        """Lists the seats of each schedule that are held or sold, in the order of the schedules; of
        the first ones, at least one, if together there are more than 200,000. All seats of a closed
        schedule are sold. Raises InvalidRequest for more than 1,000 schedules."""
        check_schedules(schedule_ids)
        availabilities = await self._reservations.taken_seats(schedule_ids)
        taken = await shown_as_taken(self._directory, schedule_ids, availabilities)
        totals = itertools.accumulate(len(each.held) + len(each.sold) for each in taken)
        return taken[: max(1, sum(total <= MAX_TAKEN for total in totals))]

    async def touched_schedules(self, ranges: Sequence[tuple[int, int]]) -> Sequence[int] | None:
        """Lists, of the schedules with ids in these ranges (first, last), every one that is closed
        or of which a seat is held or sold, and others of which a seat was held before; None if
        there are more than 2,000. Raises InvalidRequest for more than 64 ranges."""
        if len(ranges) > MAX_TOUCHED_RANGES:
            raise InvalidRequest(f"There may be at most {MAX_TOUCHED_RANGES} ranges.")
        return await self._reservations.touched_schedules(ranges, MAX_TOUCHED)

    async def count_seats(self, schedule_ids: Sequence[int]) -> SeatCounts:
        """Counts the sold seats of each schedule and those that the house has. Raises
        InvalidRequest for more than 1,000 schedules."""
        check_schedules(schedule_ids)
        return await self._reservations.count_seats(schedule_ids)

    async def begin_payment(
        self,
        reservation_id: int,
        user_id: int,
        payment_id: int,
        failed_payment_id: int,
        admission: Admission | None = None,
    ) -> Reservation:
        """Starts a payment or renews its lease. Idempotent per payment id.

        `admission` is the one with which the user pays; without it, the reservation keeps the one
        that it was made with. Raises ReservationNotFound, NotYours, ReservationExpired,
        PaymentInProgress (of the reservation or of the admission), AlreadyPaid, AdmissionEnded.
        """
        start = PaymentStart(reservation_id, user_id, payment_id, failed_payment_id, admission)
        [result] = await self.begin_payments([start])
        if isinstance(result, Exception):
            raise result
        return result

    async def begin_payments(self, starts: Sequence[PaymentStart]) -> list[Reservation | Exception]:
        """Starts payments or renews their leases, as `begin_payment` does, in order. Returns the
        reservation or the error of each."""
        results: dict[int, Reservation | Exception] = {}
        for n, start in enumerate(starts):
            try:
                check_admission(start.admission)
            except InvalidRequest as error:
                results[n] = error
        for _ in range(ATTEMPTS):
            waiting = [n for n in range(len(starts)) if n not in results]
            if not waiting:
                break
            outcomes = await self._begin_all([starts[n] for n in waiting])
            for n, outcome in zip(waiting, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    results[n] = outcome
                elif (result := begin_result(starts[n], outcome)) is not None:
                    results[n] = result
        # A reservation that changed between every attempt and the read behind it.
        return [results.get(n) or PaymentInProgress() for n in range(len(starts))]

    async def _begin_all(
        self, starts: Sequence[PaymentStart]
    ) -> Sequence[BegunPayment | Exception]:
        begun = await self._begins.submit_all(starts)
        if None not in begun:
            return [result for result in begun if result is not None]
        # Here, and not in the group: it may wait for a lock, and the next group must not wait too.
        alone = [n for n, result in enumerate(begun) if result is None]
        lease = self._payment_lease_seconds
        outcomes = await asyncio.gather(
            *(_or_error(self._payments.begin_alone(starts[n], lease)) for n in alone)
        )
        done = dict(zip(alone, outcomes, strict=True))
        return [done[n] if result is None else result for n, result in enumerate(begun)]

    async def _begin_group(self, starts: Sequence[PaymentStart]) -> Sequence[BegunPayment | None]:
        return await self._payments.begin_group(starts, self._payment_lease_seconds)

    async def confirm_payment(self, reservation_id: int, payment_id: int) -> PaymentOutcome:
        """Applies a payment's success: confirms the reservation, also an expired one if its seats
        are all free; otherwise they are lost. Idempotent.

        Raises ReservationNotFound, and UnknownPayment for a payment that never began.
        """
        [outcome] = await self.confirm_payments([(reservation_id, payment_id)])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def confirm_payments(
        self, payments: Sequence[tuple[int, int]]
    ) -> Sequence[PaymentOutcome | ReservationNotFound | UnknownPayment]:
        """Does what `confirm_payment` does, for (reservation id, payment id) of each payment, in
        order: in one transaction, as far as nothing is late. Returns the outcome of each, or why it
        has none. Raises what else went wrong with one of them, once the others have their outcome.
        """
        return _outcomes(await self._payments.confirm([PaymentOf(*each) for each in payments]))

    async def return_to_hold(self, reservation_id: int, payment_id: int) -> None:
        """Applies a payment's failure: the hold continues until its original end. Idempotent.
        Raises as `confirm_payment` does."""
        [error] = await self.return_payments_to_hold([(reservation_id, payment_id)])
        if error is not None:
            raise error

    async def return_payments_to_hold(
        self, payments: Sequence[tuple[int, int]]
    ) -> Sequence[ReservationNotFound | UnknownPayment | None]:
        """Does what `return_to_hold` does, for (reservation id, payment id) of each payment, in
        order: in one transaction. Returns for each None, or why it has no effect. Raises as
        `confirm_payments` does."""
        return _outcomes(
            await self._payments.return_to_hold([PaymentOf(*each) for each in payments])
        )

    async def expire_holds(self) -> int:
        """Marks all holds that have run out as EXPIRED. Returns the number of holds.

        Correctness does not depend on it: a hold is dead the moment it runs out.
        """
        total = 0
        for status in (Status.HELD, Status.PAYING):
            after: LapsedHold | None = FIRST_LAPSED
            while after is not None:
                expired, after = await self._reservations.expire_lapsed(status, after, SWEEP_BATCH)
                total += expired
        return total

    async def remove_old_rows(self) -> int:
        """Removes idempotency keys older than 24 hours, and reservations that ended before the
        retention: at most 4,000 of each. Returns the number of reservations."""
        await _in_batches(partial(self._reservations.delete_old_keys, KEY_HOURS))
        if not self._retention_days:
            return 0
        return await _in_batches(partial(self._reservations.remove_ended, self._retention_days))


async def _or_error(call: Awaitable[Outcome]) -> Outcome | Exception:
    try:
        return await call
    except Exception as error:
        return error


def _outcomes(
    results: Sequence[Outcome | Exception],
) -> Sequence[Outcome | ReservationNotFound | UnknownPayment]:
    outcomes: list[Outcome | ReservationNotFound | UnknownPayment] = []
    for result in results:
        if isinstance(result, Exception) and not isinstance(
            result, ReservationNotFound | UnknownPayment
        ):
            raise result
        outcomes.append(result)
    return outcomes


async def _in_batches(remove: Callable[[int], Awaitable[int]]) -> int:
    """Calls `remove` with the size of a batch until a batch is not full. Returns the sum."""
    removed = 0
    for _ in range(REMOVAL_BATCHES):
        batch = await remove(SWEEP_BATCH)
        removed += batch
        if batch < SWEEP_BATCH:
            break
        await asyncio.sleep(REMOVAL_PAUSE_SECONDS)
    return removed
