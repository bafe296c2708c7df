"""reservation_service in memory."""

from decimal import Decimal

from protos.frontrow.reservation.v1 import reservation_pb2, reservation_pb2_grpc
from protos.limits import MAX_ITEMS
from servicekit.errors import Conflict, Forbidden, InvalidRequest, NotFound, ServiceError
from servicekit.rpc_errors import to_item_error
from tests.gateway.fakes.concerts import FakeConcerts
from tests.gateway.fakes.faults import Faults, service_error

# The limits of the real service.
SCHEDULES_PER_COUNT = 1_000

HELD = reservation_pb2.RESERVATION_STATUS_HELD
PAYING = reservation_pb2.RESERVATION_STATUS_PAYING
CONFIRMED = reservation_pb2.RESERVATION_STATUS_CONFIRMED
CANCELLED = reservation_pb2.RESERVATION_STATUS_CANCELLED


class FakeReservations(reservation_pb2_grpc.ReservationServiceServicer):
    """Reservations of the seats of the fake concerts."""

    def __init__(self, faults: Faults, concerts: FakeConcerts) -> None:
        self.faults = faults
        self.concerts = concerts
        self.reset()

    def reset(self) -> None:
        """Deletes all reservations."""
        self.reservations: dict[int, reservation_pb2.Reservation] = {}
        # False when there are too many.
        self.lists_touched = True

    def hold(self, user_id: int, *seat_ids: int) -> reservation_pb2.Reservation:
        """Adds a hold of all these seats. Raises SEAT_NOT_FOUND, INVALID_REQUEST for seats of
        several dates, SEAT_HELD or SEAT_SOLD."""
        chosen = [seat for seat in self.concerts.seats if seat.id in seat_ids]
        if len(chosen) < len(seat_ids):
            missing = min(set(seat_ids) - {seat.id for seat in chosen})
            raise service_error("SEAT_NOT_FOUND", NotFound, conflicts=str(missing))
        if len({seat.schedule_id for seat in chosen}) > 1:
            raise InvalidRequest("The seats belong to several dates.")
        chosen.sort(key=lambda seat: seat.id)
        held, sold = self._seats(HELD, PAYING), self._seats(CONFIRMED)
        taken = [str(seat.id) for seat in chosen if seat.id in held or seat.id in sold]
        if taken:
            is_sold = any(seat.id in sold for seat in chosen)
            code = "SEAT_SOLD" if is_sold else "SEAT_HELD"
            raise service_error(code, Conflict, conflicts=",".join(taken))
        reservation = reservation_pb2.Reservation(
            id=len(self.reservations) + 1,
            user_id=user_id,
            seat_id=chosen[0].id,
            schedule_id=chosen[0].schedule_id,
            seat_num=chosen[0].seat_num,
            price=str(sum(Decimal(seat.price) for seat in chosen)),
            status=HELD,
            seats=[
                reservation_pb2.ReservedSeat(id=seat.id, seat_num=seat.seat_num, price=seat.price)
                for seat in chosen
            ],
        )
        reservation.held_until.FromJsonString("2026-12-01T12:05:00.120Z")
        self.reservations[reservation.id] = reservation
        return reservation

    def hold_best(
        self, user_id: int, best: reservation_pb2.BestAvailable
    ) -> reservation_pb2.Reservation:
        """Adds a hold of the first free seats, whatever their category. Raises SCHEDULE_NOT_FOUND
        or NOT_ENOUGH_SEATS."""
        if best.schedule_id not in {schedule.id for schedule in self.concerts.schedules}:
            raise service_error("SCHEDULE_NOT_FOUND", NotFound)
        taken = self._seats(HELD, PAYING, CONFIRMED)
        here = [seat.id for seat in self.concerts.seats if seat.schedule_id == best.schedule_id]
        free = [seat_id for seat_id in here if seat_id not in taken]
        if len(free) < best.count:
            raise service_error("NOT_ENOUGH_SEATS", Conflict)
        return self.hold(user_id, *free[: best.count])

    def owned(self, reservation_id: int, user_id: int) -> reservation_pb2.Reservation:
        """Returns the user's reservation. Raises RESERVATION_NOT_FOUND or NOT_YOURS."""
        reservation = self.reservations.get(reservation_id)
        if reservation is None:
            raise service_error("RESERVATION_NOT_FOUND", NotFound)
        if reservation.user_id != user_id:
            raise service_error("NOT_YOURS", Forbidden)
        return reservation

    def _seats(self, *statuses: reservation_pb2.ReservationStatus.ValueType) -> set[int]:
        of_status = [r for r in self.reservations.values() if r.status in statuses]
        return {seat.id for reservation in of_status for seat in reservation.seats}

    async def HoldSeats(
        self, request: reservation_pb2.HoldSeatsRequest, context: object
    ) -> reservation_pb2.HoldSeatsResponse:
        await self.faults.before("HoldSeats", request)
        check_items(len(request.items))
        return reservation_pb2.HoldSeatsResponse(results=map(self._hold_item, request.items))

    def _hold_item(
        self, item: reservation_pb2.HoldSeatsRequest.Item
    ) -> reservation_pb2.HoldSeatsResponse.Result:
        try:
            self.faults.before_item("HoldSeats")
            if item.HasField("best_available"):
                reservation = self.hold_best(item.user_id, item.best_available)
            else:
                reservation = self.hold(item.user_id, *item.seats.seat_ids)
        except ServiceError as error:
            return reservation_pb2.HoldSeatsResponse.Result(error=item_error(error))
        return reservation_pb2.HoldSeatsResponse.Result(reservation=reservation)

    async def GetTakenSeats(
        self, request: reservation_pb2.GetTakenSeatsRequest, context: object
    ) -> reservation_pb2.GetTakenSeatsResponse:
        await self.faults.before("GetTakenSeats", request)
        check_items(len(request.schedule_ids))
        held, sold = self._seats(HELD, PAYING), self._seats(CONFIRMED)
        response = reservation_pb2.GetTakenSeatsResponse()
        for schedule_id in request.schedule_ids:
            here = {s.id for s in self.concerts.seats if s.schedule_id == schedule_id}
            response.schedules.add(
                held_seat_ids=sorted(here & held), sold_seat_ids=sorted(here & sold)
            )
        if request.touched_in and self.lists_touched:
            touched = {
                reservation.schedule_id
                for reservation in self.reservations.values()
                if any(
                    ids.first <= reservation.schedule_id <= ids.last for ids in request.touched_in
                )
            }
            response.touched.schedule_ids.extend(touched)
            response.touched.SetInParent()
        return response

    async def Reserve(
        self, request: reservation_pb2.ReserveRequest, context: object
    ) -> reservation_pb2.ReserveResponse:
        raise NotImplementedError("the gateway does not call this")

    async def GetReservation(
        self, request: reservation_pb2.GetReservationRequest, context: object
    ) -> reservation_pb2.GetReservationResponse:
        await self.faults.before("GetReservation", request)
        reservation = self.owned(request.reservation_id, request.user_id)
        # The messages that are a reservation have the same fields.
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
            held_seat_ids=here & self._seats(HELD, PAYING),
            sold_seat_ids=here & self._seats(CONFIRMED),
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
                count = sold.get(reservation.schedule_id, 0) + len(reservation.seats)
                sold[reservation.schedule_id] = count
        return reservation_pb2.CountSoldSeatsResponse(sold_by_schedule=sold)

    async def BeginPayment(
        self, request: reservation_pb2.BeginPaymentRequest, context: object
    ) -> reservation_pb2.BeginPaymentResponse:
        raise NotImplementedError("the gateway does not call this")

    async def BeginPayments(
        self, request: reservation_pb2.BeginPaymentsRequest, context: object
    ) -> reservation_pb2.BeginPaymentsResponse:
        raise NotImplementedError("the gateway does not call this")


def check_items(count: int) -> None:
    """Raises InvalidRequest for more items than one call may have."""
    if count > MAX_ITEMS:
        raise InvalidRequest("Too many items at once.")


def item_error(error: ServiceError) -> reservation_pb2.ItemError:
    """Returns the message of an item's error."""
    return reservation_pb2.ItemError(**to_item_error(error))
