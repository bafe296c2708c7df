"""Holding a seat, paying for it, looking at it, giving it back."""

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from gateway import schemas
from gateway.clients import Clients
from gateway.door import Door
from gateway.errors import NotYours, ReservationExpired, TokenExpired
from gateway.replies import instant, json_reply
from gateway.requests import BadFields, idempotency_key, path_id, read_body
from gateway.routes.documentation import (
    ADMITTED,
    BODY,
    GENUINE,
    RETRY_AFTER,
    document,
    path_parameter,
)
from gateway.schemas import PayBody, ReserveBody
from gateway.settings import GatewaySettings
from protos.frontrow.payment.v1 import payment_pb2
from protos.frontrow.queue.v1 import queue_pb2
from protos.frontrow.reservation.v1 import reservation_pb2
from servicekit.client import call
from servicekit.rpc_errors import RemoteError

_RESERVATION = path_parameter("reservationId")
_KEY_ERRORS = ("IDEMPOTENCY_KEY_REUSED", "IN_PROGRESS")
_STATUS_PREFIX = "RESERVATION_STATUS_"


class ReservationRoutes:
    """POST /concerts/reservation, POST …/reservations/{id}/pay, GET and DELETE …/{id}.

    Reserving needs an admission. So does paying, but for one thing: a payment that succeeds ends
    the admission, and whoever asks again must still get its outcome. Looking and giving back
    need only a genuine token of the owner.
    """

    def __init__(
        self,
        clients: Clients,
        door: Door,
        settings: GatewaySettings,
    ) -> None:
        self._clients = clients
        self._door = door
        self._settings = settings

    def add_to(self, app: FastAPI) -> None:
        """Adds the routes, with what the OpenAPI page says of them."""
        app.add_api_route(
            "/concerts/reservation",
            self.reserve,
            methods=["POST"],
            tags=["reservations"],
            response_model=schemas.Hold,
            **document(
                body=ReserveBody,
                idempotency_key=True,
                errors=(
                    *BODY,
                    *ADMITTED,
                    "NOT_YOURS",
                    "SEAT_NOT_FOUND",
                    "SEAT_HELD",
                    "SEAT_SOLD",
                    *_KEY_ERRORS,
                ),
            ),
        )
        app.add_api_route(
            "/concerts/reservations/{reservationId}/pay",
            self.pay,
            methods=["POST"],
            tags=["reservations"],
            response_model=schemas.Payment,
            **document(
                body=PayBody,
                idempotency_key=True,
                parameters=(_RESERVATION,),
                errors=(
                    *BODY,
                    *ADMITTED,
                    "NOT_YOURS",
                    "RESERVATION_NOT_FOUND",
                    "RESERVATION_EXPIRED",
                    "PAYMENT_DECLINED",
                    "ALREADY_PAID",
                    *_KEY_ERRORS,
                ),
                also={
                    202: {
                        "model": schemas.Payment,
                        "description": "The outcome is not known yet (`PENDING`); ask again.",
                        "headers": RETRY_AFTER,
                    }
                },
            ),
        )
        app.add_api_route(
            "/concerts/reservations/{reservationId}",
            self.read,
            methods=["GET"],
            tags=["reservations"],
            response_model=schemas.Reservation,
            **document(
                parameters=(_RESERVATION,),
                errors=("INVALID_REQUEST", *GENUINE, "NOT_YOURS", "RESERVATION_NOT_FOUND"),
            ),
        )
        app.add_api_route(
            "/concerts/reservations/{reservationId}",
            self.cancel,
            methods=["DELETE"],
            tags=["reservations"],
            status_code=204,
            response_class=Response,
            **document(
                parameters=(_RESERVATION,),
                errors=(
                    "INVALID_REQUEST",
                    *GENUINE,
                    "NOT_YOURS",
                    "RESERVATION_NOT_FOUND",
                    "PAYMENT_IN_PROGRESS",
                    "ALREADY_PAID",
                ),
            ),
        )

    async def reserve(self, request: Request) -> Response:
        """Holds a seat for the user, for 5 minutes unless configured otherwise."""
        place = self._door.genuine(request)
        bad = BadFields()
        with bad:
            body = await read_body(request, ReserveBody)
        with bad:
            key = idempotency_key(request)
        bad.tell()
        _check_same_user(place, body.user_id)
        await self._door.check(place)
        reservation = await call(
            self._clients.reservation.Reserve,
            reservation_pb2.ReserveRequest(
                user_id=body.user_id, seat_id=body.concert_seat_id, idempotency_key=key
            ),
            budget=self._settings.write_budget_seconds,
        )
        return json_reply(_hold(reservation))

    async def pay(self, request: Request) -> Response:
        """Pays a reservation; that ends the admission. Paying twice charges once."""
        place = self._door.genuine(request)
        bad = BadFields()
        with bad:
            reservation_id = path_id(request, "reservationId")
        with bad:
            body = await read_body(request, PayBody)
        with bad:
            key = idempotency_key(request)
        bad.tell()
        _check_same_user(place, body.user_id)
        try:
            await self._door.check(place)
        except TokenExpired as expired:
            return await self._outcome(reservation_id, body.user_id, expired)
        payment = await call(
            self._clients.payment.Pay,
            payment_pb2.PayRequest(
                reservation_id=reservation_id,
                user_id=body.user_id,
                idempotency_key=key,
                admission=payment_pb2.Admission(room=place.room, place_number=place.number),
            ),
            budget=self._settings.pay_budget_seconds,
        )
        self._door.forget(place)
        return _payment_reply(payment)

    async def read(self, request: Request) -> Response:
        """The user's own reservation."""
        place = self._door.genuine(request)
        reservation = await call(
            self._clients.reservation.GetReservation,
            reservation_pb2.GetReservationRequest(
                reservation_id=path_id(request, "reservationId"), user_id=place.user_id
            ),
            budget=self._settings.read_budget_seconds,
        )
        status = reservation_pb2.ReservationStatus.Name(reservation.status)
        paid = reservation.status == reservation_pb2.RESERVATION_STATUS_CONFIRMED
        return json_reply(
            _hold(reservation)
            | ({"heldUntil": None} if paid else {})
            | {
                "concertSeatId": reservation.seat_id,
                "scheduleId": reservation.schedule_id,
                "seatNum": reservation.seat_num,
                "status": status.removeprefix(_STATUS_PREFIX),
            }
        )

    async def cancel(self, request: Request) -> Response:
        """Gives a hold back; the seat is free at once. Cancelling again changes nothing."""
        place = self._door.genuine(request)
        await call(
            self._clients.reservation.CancelReservation,
            reservation_pb2.CancelReservationRequest(
                reservation_id=path_id(request, "reservationId"), user_id=place.user_id
            ),
            budget=self._settings.write_budget_seconds,
        )
        return Response(status_code=204)

    async def _outcome(self, reservation_id: int, user_id: int, expired: TokenExpired) -> Response:
        """For whom the admission has ended: what became of the payment, if there is one."""
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
        return _payment_reply(payment)


def _check_same_user(place: queue_pb2.Place, user_id: int) -> None:
    if place.user_id != user_id:
        raise NotYours("The token belongs to another user than userId.")


def _hold(
    reservation: reservation_pb2.ReserveResponse | reservation_pb2.GetReservationResponse,
) -> dict[str, object]:
    return {
        "reservationId": reservation.id,
        "price": reservation.price,
        "heldUntil": instant(reservation.held_until),
    }


def _payment_reply(
    payment: payment_pb2.PayResponse | payment_pb2.GetPaymentOfReservationResponse,
) -> Response:
    body = {"paymentId": payment.id, "reservationId": payment.reservation_id}
    match payment.status:
        case payment_pb2.PAYMENT_STATUS_SUCCEEDED:
            return json_reply(body | {"status": "SUCCEEDED"})
        case payment_pb2.PAYMENT_STATUS_PENDING:
            return json_reply(body | {"status": "PENDING"}, 202, {"Retry-After": "1"})
        case payment_pb2.PAYMENT_STATUS_REFUNDED:
            raise ReservationExpired("The hold ended before the payment; the money went back.")
        case status:  # a decline comes as an error
            raise RuntimeError(f"payment_service answered with status {status}")
