"""The four services behind the gateway, in memory, with faults on demand.

They keep state like the real ones, as far as the gateway sees it. One gRPC server serves all.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import jwt
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from protos.frontrow.concert.v1 import concert_pb2, concert_pb2_grpc
from protos.frontrow.payment.v1 import payment_pb2, payment_pb2_grpc
from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc
from protos.frontrow.reservation.v1 import reservation_pb2, reservation_pb2_grpc
from room_view.position import ENDED, Pacing, PlaceState, Standing
from servicekit import call_context
from servicekit.errors import Conflict, Forbidden, InvalidRequest, NotFound, ServiceError
from servicekit.server import Server
from servicekit.settings import ServiceSettings
from tests.gateway import fake_watch

KEY_ID = "test"
KEYS = {KEY_ID: "a secret of the tests with 32 bytes or more"}
# The limits of the real services.
ROWS_PER_PAGE = 5_000
SCHEDULES_PER_COUNT = 1_000
GIVEN_AT = int(time.time()) - 60

Row = TypeVar("Row", concert_pb2.Schedule, concert_pb2.Seat)

HELD = reservation_pb2.RESERVATION_STATUS_HELD
CONFIRMED = reservation_pb2.RESERVATION_STATUS_CONFIRMED
CANCELLED = reservation_pb2.RESERVATION_STATUS_CANCELLED
PENDING = payment_pb2.PAYMENT_STATUS_PENDING
SUCCEEDED = payment_pb2.PAYMENT_STATUS_SUCCEEDED
REFUNDED = payment_pb2.PAYMENT_STATUS_REFUNDED


def service_error(
    code: str,
    kind: type[ServiceError] = ServiceError,
    detail: str = "Something for a person to read.",
    /,
    **metadata: str,
) -> ServiceError:
    """Returns an error as a service would raise it."""
    named: type[ServiceError] = type(code, (kind,), {"code": code})
    return named(detail, **metadata)


def sign(
    place: queue_pb2.Place, key: str = KEYS[KEY_ID], /, *, algorithm: str = "HS256", **changes: Any
) -> str:
    """Returns the token of a place. `changes` replace claims; None removes one."""
    claims = {
        "room": place.room,
        "place": place.number,
        "user": place.user_id,
        "epoch": place.epoch,
        "iat": GIVEN_AT,
    } | changes
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": KEY_ID})


@dataclass
class Call:
    """One call to a fake."""

    method: str
    request: Any
    request_id: str
    seconds_left: float


class Faults:
    """Errors and delays of the fakes, by method name, and a record of all calls."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.errors: dict[str, Exception] = {}
        self.delays: dict[str, float] = {}
        self.calls: list[Call] = []

    async def before(self, method: str, request: Any) -> None:
        """Records the call, then delays or fails it; every fake method calls this first."""
        self.calls.append(
            Call(method, request, call_context.request_id.get(), call_context.remaining(3_600))
        )
        await asyncio.sleep(self.delays.get(method, 0))
        if method in self.errors:
            raise self.errors[method]

    def of(self, method: str) -> list[Call]:
        """Returns the calls of one method."""
        return [call for call in self.calls if call.method == method]


class FakeQueue(queue_pb2_grpc.QueueServiceServicer):
    """A waiting room that admits the next in line as soon as fewer than `capacity` are admitted."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        # A number is never given twice, not even after a reset.
        self._places_given = 0
        self.watch = fake_watch.FakeWatch()
        self.reset()

    def reset(self) -> None:
        """Empties the room."""
        self.capacity = 10
        self.closed = ""
        self.retry_after_ms = 0
        self.spent: set[str] = set()
        self.recovering = False
        self.admitted_until_ms = int(time.time() * 1000) + 600_000
        self.admitted: dict[int, queue_pb2.Place] = {}
        self.waiting: list[queue_pb2.Place] = []
        # Admitted places whose owner has not polled since.
        self.unclaimed: set[int] = set()
        self.given_at = GIVEN_AT
        # So many answers to GetPositions come from a store that was replaced: of the epoch before,
        # and all have ended there.
        self.old_answers = 0
        self.watch.reset()

    def enter(self, user_id: int) -> queue_pb2.Place:
        """Returns the user's place; gives a new one if there is none."""
        for place in (*self.admitted.values(), *self.waiting):
            if place.user_id == user_id:
                return place
        self._places_given += 1
        place = queue_pb2.Place(room="main", number=self._places_given, user_id=user_id, epoch=1)
        if not self.waiting and len(self.admitted) < self.capacity:
            self.admitted[place.number] = place
            self.watch.record(self._admitted(place))
        else:
            self.waiting.append(place)
            self.watch.record(fake_watch.waiting(place.number))
            self.admit()
        return place

    def end(self, place_number: int) -> None:
        """Ends a place or an admission."""
        self.admitted.pop(place_number, None)
        self.unclaimed.discard(place_number)
        self.waiting = [place for place in self.waiting if place.number != place_number]
        self.watch.record(fake_watch.ended(place_number))
        self.admit()

    def admit(self) -> None:
        """Gives the free slots to the line."""
        while self.waiting and len(self.admitted) < self.capacity:
            place = self.waiting.pop(0)
            self.admitted[place.number] = place
            self.unclaimed.add(place.number)
            self.watch.record(self._admitted(place))

    def _admitted(self, place: queue_pb2.Place) -> queue_pb2.RoomChange:
        claimed = place.number not in self.unclaimed
        return fake_watch.admitted(
            place.number, place.user_id, self.admitted_until_ms, claimed=claimed
        )

    def snapshot(self) -> queue_pb2.WatchRoomResponse:
        """Returns the room as a snapshot."""
        return self.watch.snapshot(
            [place.number for place in self.waiting],
            [
                queue_pb2.AdmittedPlace(
                    number=place.number,
                    user_id=place.user_id,
                    admitted_until_ms=self.admitted_until_ms,
                    claimed=place.number not in self.unclaimed,
                )
                for place in self.admitted.values()
            ],
        )

    def position(self, place: queue_pb2.Place) -> queue_pb2.Position:
        if place.number in self.unclaimed:
            self.unclaimed.discard(place.number)
            self.watch.record(self._admitted(place))
        if self.watch.supported:
            return self._exact_position(place)
        if place.number in self.admitted:
            return queue_pb2.Position(
                state=queue_pb2.PLACE_STATE_ADMITTED,
                admitted_until_ms=self.admitted_until_ms,
                recovering=self.recovering,
            )
        numbers = [waiting.number for waiting in self.waiting]
        if place.number in numbers:
            order = 1 + numbers.index(place.number)
            return queue_pb2.Position(
                state=queue_pb2.PLACE_STATE_WAITING,
                order=order,
                poll_after_ms=500 + 1_000 * order,
                estimated_wait_ms=1_234 * order,
                recovering=self.recovering,
            )
        return queue_pb2.Position(state=queue_pb2.PLACE_STATE_ENDED)

    def _exact_position(self, place: queue_pb2.Place) -> queue_pb2.Position:
        standing = ENDED
        numbers = [waiting.number for waiting in self.waiting]
        if place.number in self.admitted:
            standing = Standing(PlaceState.ADMITTED, 0, self.admitted_until_ms)
        elif place.number in numbers:
            standing = Standing(PlaceState.WAITING, 1 + numbers.index(place.number))
        now_ms = time.time_ns() // 1_000_000
        pacing = Pacing(self.watch.rules)
        return pacing.position(standing, self.watch.fields, now_ms).message()

    async def WatchRoom(
        self, requests: AsyncIterator[queue_pb2.WatchRoomRequest], context: Any
    ) -> AsyncIterator[queue_pb2.WatchRoomResponse]:
        async for response in self.watch.serve(requests, context, self.snapshot):
            yield response

    async def HandBack(
        self, request: queue_pb2.HandBackRequest, context: Any
    ) -> queue_pb2.HandBackResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
        return queue_pb2.HandBackResponse()

    async def EnterQueue(
        self, request: queue_pb2.EnterQueueRequest, context: object
    ) -> queue_pb2.EnterQueueResponse:
        await self.faults.before("EnterQueue", request)
        results = [
            self._enter(user, entrant, request.renew_issued_before)
            for user, entrant in zip(request.user_ids, request.entrants, strict=True)
        ]
        return queue_pb2.EnterQueueResponse(results=results)

    def _enter(
        self, user_id: int, entrant: queue_pb2.EnterQueueRequest.Entrant, renew_before: int
    ) -> queue_pb2.EnterQueueResponse.Result:
        if self.closed:
            return queue_pb2.EnterQueueResponse.Result(
                error_code=self.closed, retry_after_ms=self.retry_after_ms
            )
        live = {place.user_id: place for place in (*self.admitted.values(), *self.waiting)}
        unsolved = entrant.only_live_place or entrant.solution_id in self.spent
        if unsolved and user_id not in live:
            return queue_pb2.EnterQueueResponse.Result(error_code="CHALLENGE_REQUIRED")
        if entrant.solution_id and user_id not in live:
            self.spent.add(entrant.solution_id)
        place = self.enter(user_id)
        if entrant.needs_proof and user_id in live and place.number != entrant.proven_place:
            return queue_pb2.EnterQueueResponse.Result(error_code="NOT_YOURS")
        given_at = self.given_at
        token = sign(place, iat=int(time.time()) if given_at < renew_before else given_at)
        return queue_pb2.EnterQueueResponse.Result(
            place=place, access_token=token, position=self.position(place)
        )

    async def GetPositions(
        self, request: queue_pb2.GetPositionsRequest, context: object
    ) -> queue_pb2.GetPositionsResponse:
        await self.faults.before("GetPositions", request)
        if self.old_answers:
            self.old_answers -= 1
            return queue_pb2.GetPositionsResponse(
                positions=[
                    queue_pb2.Position(state=queue_pb2.PLACE_STATE_ENDED) for _ in request.places
                ],
                epoch=self.watch.epoch - 1,
                seq=1_000,
            )
        positions = [self.position(place) for place in request.places]
        for place, position in zip(request.places, positions, strict=True):
            is_live = position.state != queue_pb2.PLACE_STATE_ENDED
            if is_live and place.issued_at < request.renew_issued_before:
                position.access_token = sign(place, iat=int(time.time()))
        # As a queue_service of the version before, it does not say the epoch.
        epoch, seq = (self.watch.epoch, self.watch.seq) if self.watch.supported else (0, 0)
        return queue_pb2.GetPositionsResponse(positions=positions, epoch=epoch, seq=seq)

    async def LeaveQueue(
        self, request: queue_pb2.LeaveQueueRequest, context: object
    ) -> queue_pb2.LeaveQueueResponse:
        await self.faults.before("LeaveQueue", request)
        self.end(request.place.number)
        return queue_pb2.LeaveQueueResponse()


class FakeConcerts(concert_pb2_grpc.ConcertServiceServicer):
    """Three concerts; the first has two dates, with three seats and with one."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.reset()

    def reset(self) -> None:
        """Restores the initial concerts, dates and seats."""
        self.rows_per_page = ROWS_PER_PAGE
        # A service of an earlier version answers every page with all.
        self.knows_page_tokens = True
        self.concerts = [
            concert_pb2.Concert(id=1, title='The "Escapes" \\ Ünïcode'),
            concert_pb2.Concert(id=2, title="Second"),
            concert_pb2.Concert(id=3, title="Third"),
        ]
        self.schedules = [
            concert_pb2.Schedule(id=11, concert_id=1, date="2026-12-24", seat_count=3),
            concert_pb2.Schedule(id=12, concert_id=1, date="2026-12-31", seat_count=1),
        ]
        self.seats = [
            concert_pb2.Seat(id=102, schedule_id=11, seat_num="A1", price="150000.00"),
            concert_pb2.Seat(id=101, schedule_id=11, seat_num="A2", price="90000.50"),
            concert_pb2.Seat(id=103, schedule_id=11, seat_num="A10", price="0.05"),
            concert_pb2.Seat(id=201, schedule_id=12, seat_num="A1", price="150000.00"),
        ]

    async def GetSeatMaps(
        self, request: concert_pb2.GetSeatMapsRequest, context: object
    ) -> concert_pb2.GetSeatMapsResponse:
        raise NotImplementedError

    async def ListConcerts(
        self, request: concert_pb2.ListConcertsRequest, context: object
    ) -> concert_pb2.ListConcertsResponse:
        await self.faults.before("ListConcerts", request)
        if request.page_token and not request.page_token.isdecimal():
            raise InvalidRequest("page_token is not one that this service gave.")
        start = int(request.page_token or 0)
        end = start + request.page_size
        return concert_pb2.ListConcertsResponse(
            concerts=self.concerts[start:end],
            next_page_token=str(end) if end < len(self.concerts) else "",
        )

    async def ListSchedules(
        self, request: concert_pb2.ListSchedulesRequest, context: object
    ) -> concert_pb2.ListSchedulesResponse:
        await self.faults.before("ListSchedules", request)
        if request.concert_id not in {concert.id for concert in self.concerts}:
            raise service_error("CONCERT_NOT_FOUND", NotFound)
        schedules = [s for s in self.schedules if s.concert_id == request.concert_id]
        page, token = self._page(schedules, request.page_size, request.page_token)
        return concert_pb2.ListSchedulesResponse(schedules=page, next_page_token=token)

    async def ListSeats(
        self, request: concert_pb2.ListSeatsRequest, context: object
    ) -> concert_pb2.ListSeatsResponse:
        await self.faults.before("ListSeats", request)
        if request.schedule_id not in {schedule.id for schedule in self.schedules}:
            raise service_error("SCHEDULE_NOT_FOUND", NotFound)
        seats = [s for s in self.seats if s.schedule_id == request.schedule_id]
        page, token = self._page(seats, request.page_size, request.page_token)
        return concert_pb2.ListSeatsResponse(seats=page, next_page_token=token)

    def _page(self, rows: list[Row], size: int, token: str) -> tuple[list[Row], str]:
        if token and not self.knows_page_tokens:
            return rows, ""
        start = int(token or 0)
        end = start + min(size, self.rows_per_page)
        return rows[start:end], str(end) if end < len(rows) else ""

    async def GetSeats(
        self, request: concert_pb2.GetSeatsRequest, context: object
    ) -> concert_pb2.GetSeatsResponse:
        raise NotImplementedError("the gateway does not call this")


class FakeReservations(reservation_pb2_grpc.ReservationServiceServicer):
    """Reservations of the seats of the fake concerts."""

    def __init__(self, faults: Faults, concerts: FakeConcerts) -> None:
        self.faults = faults
        self.concerts = concerts
        self.reset()

    def reset(self) -> None:
        """Deletes all reservations."""
        self.reservations: dict[int, reservation_pb2.ReserveResponse] = {}

    def hold(self, user_id: int, seat_id: int) -> reservation_pb2.ReserveResponse:
        """Adds a hold. Raises SEAT_NOT_FOUND, SEAT_HELD or SEAT_SOLD."""
        seat = next((seat for seat in self.concerts.seats if seat.id == seat_id), None)
        if seat is None:
            raise service_error("SEAT_NOT_FOUND", NotFound)
        if seat_id in self._seats(CONFIRMED):
            raise service_error("SEAT_SOLD", Conflict)
        if seat_id in self._seats(HELD):
            raise service_error("SEAT_HELD", Conflict)
        reservation = reservation_pb2.ReserveResponse(
            id=len(self.reservations) + 1,
            user_id=user_id,
            seat_id=seat.id,
            schedule_id=seat.schedule_id,
            seat_num=seat.seat_num,
            price=seat.price,
            status=HELD,
        )
        reservation.held_until.FromJsonString("2026-12-01T12:05:00.120Z")
        self.reservations[reservation.id] = reservation
        return reservation

    def owned(self, reservation_id: int, user_id: int) -> reservation_pb2.ReserveResponse:
        """Returns the user's reservation. Raises RESERVATION_NOT_FOUND or NOT_YOURS."""
        reservation = self.reservations.get(reservation_id)
        if reservation is None:
            raise service_error("RESERVATION_NOT_FOUND", NotFound)
        if reservation.user_id != user_id:
            raise service_error("NOT_YOURS", Forbidden)
        return reservation

    def _seats(self, status: reservation_pb2.ReservationStatus.ValueType) -> list[int]:
        return [r.seat_id for r in self.reservations.values() if r.status == status]

    async def HoldSeats(
        self, request: reservation_pb2.HoldSeatsRequest, context: object
    ) -> reservation_pb2.HoldSeatsResponse:
        raise NotImplementedError

    async def BeginPayments(
        self, request: reservation_pb2.BeginPaymentsRequest, context: object
    ) -> reservation_pb2.BeginPaymentsResponse:
        raise NotImplementedError

    async def GetTakenSeats(
        self, request: reservation_pb2.GetTakenSeatsRequest, context: object
    ) -> reservation_pb2.GetTakenSeatsResponse:
        raise NotImplementedError

    async def Reserve(
        self, request: reservation_pb2.ReserveRequest, context: object
    ) -> reservation_pb2.ReserveResponse:
        await self.faults.before("Reserve", request)
        return self.hold(request.user_id, request.seat_id)

    async def GetReservation(
        self, request: reservation_pb2.GetReservationRequest, context: object
    ) -> reservation_pb2.GetReservationResponse:
        await self.faults.before("GetReservation", request)
        reservation = self.owned(request.reservation_id, request.user_id)
        # The responses that are a reservation have the same fields.
        return reservation_pb2.GetReservationResponse.FromString(reservation.SerializeToString())

    async def CancelReservation(
        self, request: reservation_pb2.CancelReservationRequest, context: object
    ) -> reservation_pb2.CancelReservationResponse:
        await self.faults.before("CancelReservation", request)
        reservation = self.owned(request.reservation_id, request.user_id)
        if reservation.status == CONFIRMED:
            raise service_error("ALREADY_PAID", Conflict)
        reservation.status = CANCELLED
        return reservation_pb2.CancelReservationResponse.FromString(reservation.SerializeToString())

    async def CancelHolds(
        self, request: reservation_pb2.CancelHoldsRequest, context: object
    ) -> reservation_pb2.CancelHoldsResponse:
        await self.faults.before("CancelHolds", request)
        held = [r for r in self.reservations.values() if r.status == HELD]
        mine = [r for r in held if r.user_id == request.user_id]
        for reservation in mine:
            reservation.status = CANCELLED
        return reservation_pb2.CancelHoldsResponse(cancelled=len(mine))

    async def ListTakenSeats(
        self, request: reservation_pb2.ListTakenSeatsRequest, context: object
    ) -> reservation_pb2.ListTakenSeatsResponse:
        await self.faults.before("ListTakenSeats", request)
        here = {s.id for s in self.concerts.seats if s.schedule_id == request.schedule_id}
        return reservation_pb2.ListTakenSeatsResponse(
            held_seat_ids=here.intersection(self._seats(HELD)),
            sold_seat_ids=here.intersection(self._seats(CONFIRMED)),
        )

    async def CountSoldSeats(
        self, request: reservation_pb2.CountSoldSeatsRequest, context: object
    ) -> reservation_pb2.CountSoldSeatsResponse:
        await self.faults.before("CountSoldSeats", request)
        if len(request.schedule_ids) > SCHEDULES_PER_COUNT:
            raise InvalidRequest("Too many schedules at once.")
        sold: dict[int, int] = {}
        for reservation in self.reservations.values():
            if reservation.status == CONFIRMED and reservation.schedule_id in request.schedule_ids:
                sold[reservation.schedule_id] = sold.get(reservation.schedule_id, 0) + 1
        return reservation_pb2.CountSoldSeatsResponse(sold_by_schedule=sold)

    async def BeginPayment(
        self, request: reservation_pb2.BeginPaymentRequest, context: object
    ) -> reservation_pb2.BeginPaymentResponse:
        raise NotImplementedError("the gateway does not call this")


class FakePayments(payment_pb2_grpc.PaymentServiceServicer):
    """Pays holds of the fake reservations with the given `outcome`; success ends the admission."""

    def __init__(self, faults: Faults, reservations: FakeReservations, queue: FakeQueue) -> None:
        self.faults = faults
        self.reservations = reservations
        self.queue = queue
        self.reset()

    def reset(self) -> None:
        """Deletes all payments; the next ones succeed."""
        self.outcome: payment_pb2.PaymentStatus.ValueType = SUCCEEDED
        self.payments: dict[int, payment_pb2.PayResponse] = {}

    async def Pay(
        self, request: payment_pb2.PayRequest, context: object
    ) -> payment_pb2.PayResponse:
        await self.faults.before("Pay", request)
        reservation = self.reservations.owned(request.reservation_id, request.user_id)
        if reservation.id not in self.payments:
            self.payments[reservation.id] = payment_pb2.PayResponse(
                id=len(self.payments) + 1,
                reservation_id=reservation.id,
                user_id=request.user_id,
                amount=reservation.price,
                status=self.outcome,
                admission=request.admission,
            )
            if self.outcome == SUCCEEDED:
                reservation.status = CONFIRMED
                self.queue.end(request.admission.place_number)
        return self.payments[reservation.id]

    async def GetPaymentOfReservation(
        self, request: payment_pb2.GetPaymentOfReservationRequest, context: object
    ) -> payment_pb2.GetPaymentOfReservationResponse:
        await self.faults.before("GetPaymentOfReservation", request)
        payment = self.payments.get(request.reservation_id)
        if payment is None:
            raise service_error("PAYMENT_NOT_FOUND", NotFound)
        if payment.user_id != request.user_id:
            raise service_error("NOT_YOURS", Forbidden)
        # Both responses have the same fields.
        return payment_pb2.GetPaymentOfReservationResponse.FromString(payment.SerializeToString())


@dataclass
class Services:
    """All four services on one address."""

    faults: Faults = field(default_factory=Faults)
    address: str = ""

    def __post_init__(self) -> None:
        self.queue = FakeQueue(self.faults)
        self.concerts = FakeConcerts(self.faults)
        self.reservations = FakeReservations(self.faults, self.concerts)
        self.payments = FakePayments(self.faults, self.reservations, self.queue)
        self.health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Serves them like the real ones, without signals and metrics."""
        settings = ServiceSettings(listen="127.0.0.1:0", metrics_listen="127.0.0.1:0")
        self._server = server = Server(settings, "fakes").grpc
        queue_pb2_grpc.add_QueueServiceServicer_to_server(self.queue, server)
        concert_pb2_grpc.add_ConcertServiceServicer_to_server(self.concerts, server)
        reservation_pb2_grpc.add_ReservationServiceServicer_to_server(self.reservations, server)
        payment_pb2_grpc.add_PaymentServiceServicer_to_server(self.payments, server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        port = server.add_insecure_port(settings.listen)
        await server.start()
        self.address = f"127.0.0.1:{port}"

    async def reset(self) -> None:
        """Restores the initial state of all four."""
        self.faults.reset()
        self.queue.reset()
        self.concerts.reset()
        self.reservations.reset()
        self.payments.reset()
        await self.health.set("", health_pb2.HealthCheckResponse.SERVING)

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)

    def token(self, user_id: int = 42) -> str:
        """Returns the token of the user's place; enters if needed. Admitted while there is room."""
        return sign(self.queue.enter(user_id))

    def waiting_token(self, user_id: int = 42) -> str:
        """Returns the token of a waiting user."""
        self.queue.capacity = 0
        return self.token(user_id)

    def ended_token(self, user_id: int = 42) -> str:
        """Returns the token of a user whose place has ended."""
        place = self.queue.enter(user_id)
        self.queue.end(place.number)
        return sign(place)

    def numbers(self, method: str) -> Iterable[int]:
        """Yields the number of items of each call of a batched method."""
        for call in self.faults.of(method):
            yield len(call.request.places if method == "GetPositions" else call.request.user_ids)
