"""What a fan, the payment service and the clock do with reservations."""

import hashlib
import secrets
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from reservation_service.domain import (
    IdempotencyKey,
    NotYours,
    PaymentInProgress,
    PaymentOutcome,
    Remembered,
    RequestInProgress,
    Reservation,
    ReservationNotFound,
    Seat,
    SeatHeld,
    SeatNotFound,
    Status,
    check_hold_request,
    check_schedules,
    why_not_cancelled,
    why_not_payable,
)

# Small enough to hold its locks for milliseconds only.
SWEEP_BATCH = 200
KEY_HOURS = 24
# How often a change is tried again that lost a race but would be allowed now.
TRIES = 3


class ReservationStore(Protocol):
    """Reservations, durable when a method returns. Its own clock decides what has lapsed, and it
    lets a seat have one live reservation."""

    async def hold(
        self, user_id: int, seat: Seat, hold_seconds: float, key: IdempotencyKey | None
    ) -> Reservation | Remembered:
        """Holds a seat that is free or whose hold has lapsed, and remembers that under the key;
        or returns what is remembered. Raises SeatHeld, SeatSold, RequestInProgress."""

    async def remembered(self, key: IdempotencyKey) -> Remembered | None:
        """The final answer of an earlier request."""

    async def remember_missing_seat(self, key: IdempotencyKey, seat_id: int) -> Remembered | None:
        """Remembers that there is no such seat; or returns what is remembered already. Raises
        RequestInProgress."""

    async def get(self, reservation_id: int) -> Reservation | None: ...

    async def cancel(self, reservation_id: int, user_id: int) -> tuple[bool, Reservation | None]:
        """Cancels this user's hold. Whether it did, and the reservation as it is then."""

    async def begin_payment(
        self,
        reservation_id: int,
        user_id: int,
        payment_id: int,
        failed_payment_id: int,
        lease_seconds: float,
    ) -> tuple[bool, Reservation | None]:
        """HELD -> PAYING, or renews the lease. Whether it did, and the reservation then.

        `failed_payment_id` is the owner's attempt before (0: none): if the reservation is still
        PAYING for that one, because the event of its failure is under way, it counts as HELD.
        """

    async def taken_seats(self, schedule_id: int) -> tuple[Sequence[int], Sequence[int]]:
        """The seats held and the seats sold."""

    async def sold_by_schedule(self, schedule_ids: Sequence[int]) -> dict[int, int]: ...

    async def confirm(self, reservation_id: int, payment_id: int) -> PaymentOutcome:
        """The payment succeeded. Idempotent, and final. Raises ReservationNotFound."""

    async def back_to_hold(self, reservation_id: int, payment_id: int) -> None:
        """The payment failed. Idempotent. Raises ReservationNotFound."""

    async def expire_lapsed(self, after_id: int, limit: int) -> tuple[int, int]:
        """Writes down which holds have lapsed. How many it wrote, and the `after_id` to go on
        with, 0 at the end."""

    async def forget_keys(self, older_than_hours: int, limit: int) -> int: ...


class SeatDirectory(Protocol):
    """What a seat is and costs."""

    async def seat(self, seat_id: int) -> Seat:
        """Raises SeatNotFound for a seat that is not, or no more, to be had."""


class SeatLocks(Protocol):
    """Keeps a crowd on one seat away from the store. May fail to: the store decides."""

    def seat(self, seat_id: int, holder: str) -> AbstractAsyncContextManager[str | None]:
        """Locks a seat for the block. Yields None, or who has it if somebody else does."""


class ReservationService:
    """Holds seats, gives them back, and follows their payments."""

    def __init__(
        self,
        store: ReservationStore,
        directory: SeatDirectory,
        locks: SeatLocks,
        *,
        hold_seconds: float,
        payment_lease_seconds: float,
    ) -> None:
        self._store = store
        self._directory = directory
        self._locks = locks
        self._hold_seconds = hold_seconds
        self._payment_lease_seconds = payment_lease_seconds

    async def hold_seat(self, user_id: int, seat_id: int, idempotency_key: str) -> Reservation:
        """Holds a seat for a user. Raises InvalidRequest, SeatNotFound, SeatHeld, SeatSold; with
        a key also IdempotencyKeyReused and RequestInProgress."""
        check_hold_request(user_id, seat_id, idempotency_key)
        key = IdempotencyKey(user_id, idempotency_key) if idempotency_key else None
        try:
            seat = await self._directory.seat(seat_id)
        except SeatNotFound:
            remembered = await self._store.remember_missing_seat(key, seat_id) if key else None
            if remembered is None:
                raise
            return remembered.answer(seat_id)
        holder = _holder(key)
        async with self._locks.seat(seat_id, holder) as other:
            if other is not None:
                return await self._answer_without_lock(seat_id, key, holder, other)
            held = await self._store.hold(user_id, seat, self._hold_seconds, key)
        return held.answer(seat_id) if isinstance(held, Remembered) else held

    async def _answer_without_lock(
        self, seat_id: int, key: IdempotencyKey | None, holder: str, other: str
    ) -> Reservation:
        if key is not None:
            if (remembered := await self._store.remembered(key)) is not None:
                return remembered.answer(seat_id)
            if _same_request(holder, other):
                raise RequestInProgress
        raise SeatHeld(seat_id)

    async def get_reservation(self, reservation_id: int, user_id: int) -> Reservation:
        """Raises ReservationNotFound, NotYours."""
        reservation = await self._store.get(reservation_id)
        if reservation is None:
            raise ReservationNotFound(reservation_id)
        if reservation.user_id != user_id:
            raise NotYours
        return reservation

    async def cancel_reservation(self, reservation_id: int, user_id: int) -> Reservation:
        """Gives a hold back. Raises ReservationNotFound, NotYours, PaymentInProgress,
        AlreadyPaid."""
        for _ in range(TRIES):
            cancelled, reservation = await self._store.cancel(reservation_id, user_id)
            if reservation is None:
                raise ReservationNotFound(reservation_id)
            if cancelled:
                return reservation
            if (error := why_not_cancelled(reservation, user_id)) is not None:
                raise error
            if reservation.status != Status.HELD:
                return reservation
        raise PaymentInProgress  # payments begin and fail faster than we can cancel

    async def taken_seats(self, schedule_id: int) -> tuple[Sequence[int], Sequence[int]]:
        """The seats of a schedule that are held, and those that are sold."""
        return await self._store.taken_seats(schedule_id)

    async def sold_seats(self, schedule_ids: Sequence[int]) -> dict[int, int]:
        """How many seats are sold, by schedule. Raises InvalidRequest beyond 1,000 schedules."""
        check_schedules(schedule_ids)
        return await self._store.sold_by_schedule(schedule_ids)

    async def begin_payment(
        self, reservation_id: int, user_id: int, payment_id: int, failed_payment_id: int
    ) -> Reservation:
        """Starts or goes on with a payment. Raises ReservationNotFound, NotYours,
        ReservationExpired, PaymentInProgress, AlreadyPaid."""
        for _ in range(TRIES):
            begun, reservation = await self._store.begin_payment(
                reservation_id,
                user_id,
                payment_id,
                failed_payment_id,
                self._payment_lease_seconds,
            )
            if reservation is None:
                raise ReservationNotFound(reservation_id)
            if begun:
                return reservation
            error = why_not_payable(
                reservation,
                user_id=user_id,
                payment_id=payment_id,
                failed_payment_id=failed_payment_id,
            )
            if error is not None:
                raise error
            if reservation.status == Status.CONFIRMED:
                return reservation
        raise PaymentInProgress  # it changes faster than we can look

    async def confirm_payment(self, reservation_id: int, payment_id: int) -> PaymentOutcome:
        """The payment succeeded: confirms, or takes the seat again, or finds it lost. Idempotent.
        Raises ReservationNotFound."""
        return await self._store.confirm(reservation_id, payment_id)

    async def return_to_hold(self, reservation_id: int, payment_id: int) -> None:
        """The payment failed. Idempotent. Raises ReservationNotFound."""
        await self._store.back_to_hold(reservation_id, payment_id)

    async def tidy(self) -> int:
        """Writes down which holds have lapsed and forgets old keys. Returns how many holds."""
        total = 0
        expired, after_id = await self._store.expire_lapsed(0, SWEEP_BATCH)
        while after_id:
            total += expired
            expired, after_id = await self._store.expire_lapsed(after_id, SWEEP_BATCH)
        while await self._store.forget_keys(KEY_HOURS, SWEEP_BATCH) == SWEEP_BATCH:
            pass
        return total + expired


def _holder(key: IdempotencyKey | None) -> str:
    """Who locks: unique, and such that two requests of one idempotency key know each other."""
    request = hashlib.sha256(f"{key.user_id}:{key.value}".encode()).hexdigest() if key else ""
    return f"{secrets.token_hex(8)}:{request}"


def _same_request(one: str, other: str) -> bool:
    return one.partition(":")[2] == other.partition(":")[2]
