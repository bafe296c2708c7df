"""Holding seats, paying for them, reading the reservation, cancelling the hold."""

import contextlib
from collections.abc import Iterator, Sequence

from pydantic.alias_generators import to_camel
from starlette.requests import Request
from starlette.responses import Response

from gateway import schemas
from gateway.access_guard import AccessGuard
from gateway.clients import Clients
from gateway.errors import (
    FieldError,
    InvalidFields,
    NotYours,
    ReservationExpired,
    TokenExpired,
)
from gateway.holds import HoldItem
from gateway.requests import FieldErrors, Id, idempotency_key, path_id, read_body
from gateway.responses import JsonResponse, instant, no_content
from gateway.routes.shared import (
    ADMISSION_ERRORS,
    ALWAYS,
    BODY_ERRORS,
    IDEMPOTENCY_KEY,
    KEY_ERRORS,
    RETRY_AFTER,
    TOKEN,
    TOKEN_ERRORS,
)
from gateway.routing import Parameter, Returns, Route
from gateway.settings import Settings
from protos.frontrow.payment.v1 import payment_pb2
from protos.frontrow.queue.v1 import queue_pb2
from protos.frontrow.reservation.v1 import reservation_pb2
from protos.limits import MAX_SEATS_PER_HOLD
from protos.money import DEFAULT_CURRENCY
from servicekit.client import call
from servicekit.errors import InvalidRequest
from servicekit.rpc_errors import RemoteError

_RESERVATION_ID = Parameter(
    "reservationId", "path", Id, "The id of a reservation of this user.", required=True
)
_STATUS_PREFIX = "RESERVATION_STATUS_"

# Of a request for more seats, this many are sent: reservation_service knows the limit that it
# exceeds, and refuses it for the number alone.
_ENOUGH_TO_REFUSE = MAX_SEATS_PER_HOLD + 1


class ReservationRoutes:
    """POST /concerts/reservation, POST …/reservations/{id}/pay, GET and DELETE …/{id}.

    Holding needs an admission. Paying needs one too, with one exception: a successful payment ends
    the admission, and a repeated request must still return its outcome. Reading and cancelling
    need only a genuine token of the owner.
    """

    def __init__(self, clients: Clients, guard: AccessGuard, settings: Settings) -> None:
        self._clients = clients
        self._guard = guard
        self._settings = settings

    def routes(self) -> Sequence[Route]:
        """Returns the declarations."""
        return (
            Route(
                method="POST",
                path="/concerts/reservation",
                handler=self.hold,
                operation_id="holdSeat",
                tag="reservations",
                body=schemas.HoldSeatRequest,
                parameters=(TOKEN, IDEMPOTENCY_KEY),
                returns=(Returns(200, schemas.Hold, "The seats are held, all of them."),),
                errors=(
                    *BODY_ERRORS,
                    *ADMISSION_ERRORS,
                    "NOT_YOURS",
                    "WRONG_ROOM",
                    "SEAT_NOT_FOUND",
                    "SCHEDULE_NOT_FOUND",
                    "SEAT_HELD",
                    "SEAT_SOLD",
                    "SALES_CLOSED",
                    "SINGLE_SEAT_LEFT",
                    "NOT_ENOUGH_SEATS",
                    "TOO_MANY_SEATS",
                    "PAYMENT_IN_PROGRESS",
                    *KEY_ERRORS,
                    *ALWAYS,
                ),
            ),
            Route(
                method="POST",
                path="/concerts/reservations/{reservationId}/pay",
                handler=self.pay,
                operation_id="payReservation",
                tag="reservations",
                body=schemas.PayReservationRequest,
                parameters=(_RESERVATION_ID, TOKEN, IDEMPOTENCY_KEY),
                returns=(
                    Returns(200, schemas.Payment, "The reservation is paid."),
                    Returns(
                        202,
                        schemas.Payment,
                        "The outcome is not known yet (`PENDING`); repeat the request.",
                        headers=(RETRY_AFTER,),
                    ),
                ),
                errors=(
                    *BODY_ERRORS,
                    *ADMISSION_ERRORS,
                    "NOT_YOURS",
                    "RESERVATION_NOT_FOUND",
                    "RESERVATION_EXPIRED",
                    "PAYMENT_DECLINED",
                    "CHARGE_AMOUNT_DIFFERS",
                    "ALREADY_PAID",
                    "PAYMENT_IN_PROGRESS",
                    *KEY_ERRORS,
                    *ALWAYS,
                ),
            ),
            Route(
                method="GET",
                path="/concerts/reservations/{reservationId}",
                handler=self.read,
                operation_id="getReservation",
                tag="reservations",
                parameters=(_RESERVATION_ID, TOKEN),
                returns=(Returns(200, schemas.Reservation, "The reservation."),),
                errors=(
                    "INVALID_REQUEST",
                    *TOKEN_ERRORS,
                    "NOT_YOURS",
                    "RESERVATION_NOT_FOUND",
                    *ALWAYS,
                ),
            ),
            Route(
                method="DELETE",
                path="/concerts/reservations/{reservationId}",
                handler=self.cancel,
                operation_id="cancelReservation",
                tag="reservations",
                parameters=(_RESERVATION_ID, TOKEN),
                returns=(Returns(204, None, "The reservation is cancelled."),),
                errors=(
                    "INVALID_REQUEST",
                    *TOKEN_ERRORS,
                    "NOT_YOURS",
                    "RESERVATION_NOT_FOUND",
                    "PAYMENT_IN_PROGRESS",
                    "ALREADY_PAID",
                    *ALWAYS,
                ),
            ),
        )

    async def hold(self, request: Request) -> Response:
        """Holds seats of one date for the user, for 5 minutes unless configured otherwise."""
        place = await self._guard.authenticate(request)
        errors = FieldErrors()
        with errors:
            body = await read_body(request, schemas.HoldSeatRequest)
        with errors:
            key = idempotency_key(request)
        errors.raise_if_any()
        _check_same_user(place, body.user_id)
        await self._guard.check_unpaid_admission(place)
        item = _hold_item(body, key, place)
        with self._noting_its_end(place):
            try:
                reservation = await self._clients.holds.hold(item)
            except RemoteError as error:
                if error.code == InvalidRequest.code:
                    # Only reservation_service knows the dates of seats.
                    raise InvalidFields([FieldError(_form(body), error.detail)]) from None
                raise
        return JsonResponse(_hold_json(reservation))

    async def pay(self, request: Request) -> Response:
        """Pays a reservation, which ends the admission. A repeated payment charges only once."""
        place = await self._guard.authenticate(request)
        errors = FieldErrors()
        with errors:
            reservation_id = path_id(request, "reservationId")
        with errors:
            body = await read_body(request, schemas.PayReservationRequest)
        with errors:
            key = idempotency_key(request)
        errors.raise_if_any()
        _check_same_user(place, body.user_id)
        try:
            await self._guard.check_unpaid_admission(place)
        except TokenExpired as expired:
            return await self._outcome(reservation_id, body.user_id, expired)
        admission = payment_pb2.Admission(room=place.room, place_number=place.number)
        with self._noting_its_end(place):
            payment = await self._clients.payments.pay(
                payment_pb2.PayRequest(
                    reservation_id=reservation_id,
                    user_id=body.user_id,
                    idempotency_key=key,
                    admission=admission,
                )
            )
        paid = payment.status == payment_pb2.PAYMENT_STATUS_SUCCEEDED
        if paid and payment.admission == admission:
            self._guard.end_admission(place)
        else:  # not known yet, or a payment that was made with an earlier admission
            self._guard.forget_admission(place)
        return _payment_response(payment)

    async def read(self, request: Request) -> Response:
        """Returns a reservation of the token's user."""
        place = await self._guard.authenticate(request)
        reservation = await call(
            self._clients.reservation.GetReservation,
            reservation_pb2.GetReservationRequest(
                reservation_id=path_id(request, "reservationId"), user_id=place.user_id
            ),
            budget=self._settings.read_budget_seconds,
        )
        status = reservation_pb2.ReservationStatus.Name(reservation.status)
        paid = reservation.status == reservation_pb2.RESERVATION_STATUS_CONFIRMED
        return JsonResponse(
            _hold_json(reservation)
            | ({"heldUntil": None} if paid else {})
            | {
                "concertSeatId": reservation.seat_id,
                "scheduleId": reservation.schedule_id,
                "seatNum": reservation.seat_num,
                "status": status.removeprefix(_STATUS_PREFIX),
            }
        )

    async def cancel(self, request: Request) -> Response:
        """Cancels a hold; the seat is available at once. Idempotent."""
        place = await self._guard.authenticate(request)
        await call(
            self._clients.reservation.CancelReservation,
            reservation_pb2.CancelReservationRequest(
                reservation_id=path_id(request, "reservationId"), user_id=place.user_id
            ),
            budget=self._settings.write_budget_seconds,
        )
        return no_content()

    @contextlib.contextmanager
    def _noting_its_end(self, place: queue_pb2.Place) -> Iterator[None]:
        """Notes the end of the admission if the called service says that a payment has ended it."""
        try:
            yield
        except RemoteError as error:
            if error.code == TokenExpired.code:
                self._guard.end_admission(place)
            raise

    async def _outcome(self, reservation_id: int, user_id: int, expired: TokenExpired) -> Response:
        """After the admission has ended, returns the outcome of an existing payment; raises
        `expired` if there is none."""
        try:
            payment = await call(
                self._clients.payment.GetPaymentOfReservation,
                payment_pb2.GetPaymentOfReservationRequest(
                    reservation_id=reservation_id, user_id=user_id
                ),
                budget=self._settings.read_budget_seconds,
            )
        except RemoteError as error:
            if error.code == "PAYMENT_NOT_FOUND":
                raise expired from None
            raise
        return _payment_response(payment)


def _check_same_user(place: queue_pb2.Place, user_id: int) -> None:
    if place.user_id != user_id:
        raise NotYours("The token belongs to another user than userId.")


def _hold_item(body: schemas.HoldSeatRequest, key: str, place: queue_pb2.Place) -> HoldItem:
    item = HoldItem(user_id=body.user_id, idempotency_key=key)
    item.admission.room = place.room
    item.admission.place_number = place.number
    if body.concert_seat_id is not None:
        item.seats.seat_ids.append(body.concert_seat_id)
    elif body.concert_seat_ids is not None:
        item.seats.seat_ids.extend(body.concert_seat_ids[:_ENOUGH_TO_REFUSE])
    elif (best := body.best_available) is not None:
        chosen = item.best_available
        chosen.schedule_id = best.schedule_id
        chosen.count = min(best.count, _ENOUGH_TO_REFUSE)
        chosen.price_category = best.price_category or ""
        chosen.section = best.section or ""
        chosen.accessible = best.accessible
        chosen.allow_split = best.allow_split
    return item


def _form(body: schemas.HoldSeatRequest) -> str:
    """Returns the name of the member that chooses the seats."""
    return next(to_camel(name) for name in body.one_of if getattr(body, name) is not None)


def _hold_json(
    reservation: reservation_pb2.Reservation | reservation_pb2.GetReservationResponse,
) -> dict[str, object]:
    return {
        "reservationId": reservation.id,
        "price": reservation.price,
        "currency": reservation.currency or DEFAULT_CURRENCY,
        "heldUntil": instant(reservation.held_until),
        "seats": [
            {"id": seat.id, "seatNum": seat.seat_num, "price": seat.price}
            for seat in reservation.seats
        ],
    }


def _payment_response(
    payment: payment_pb2.PayResponse | payment_pb2.GetPaymentOfReservationResponse,
) -> Response:
    body = {"paymentId": payment.id, "reservationId": payment.reservation_id}
    match payment.status:
        case payment_pb2.PAYMENT_STATUS_SUCCEEDED:
            return JsonResponse(body | {"status": "SUCCEEDED"})
        case payment_pb2.PAYMENT_STATUS_PENDING:
            return JsonResponse(body | {"status": "PENDING"}, 202, {"Retry-After": "1"})
        case payment_pb2.PAYMENT_STATUS_REFUNDED:
            raise ReservationExpired("The hold ended before the payment; the money was refunded.")
        case status:  # a decline arrives as an error
            raise RuntimeError(f"payment_service answered with status {status}")
