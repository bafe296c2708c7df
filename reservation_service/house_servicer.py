"""Converts between the messages of ReservationAdminService and the domain."""

from protos.frontrow.reservation.v1 import reservation_pb2, reservation_pb2_grpc
from reservation_service.house_service import HouseService
from reservation_service.messages import to_message
from servicekit.call_interceptor import Context


class HouseServicer(reservation_pb2_grpc.ReservationAdminServiceServicer):
    """Implements ReservationAdminService of protos/frontrow/reservation/v1/reservation.proto."""

    def __init__(self, service: HouseService) -> None:
        self._service = service

    async def BlockSeats(
        self, request: reservation_pb2.BlockSeatsRequest, context: Context
    ) -> reservation_pb2.BlockSeatsResponse:
        blocked = await self._service.block_seats(request.schedule_id, request.seat_ids)
        return reservation_pb2.BlockSeatsResponse(blocked=blocked)

    async def ReleaseSeats(
        self, request: reservation_pb2.ReleaseSeatsRequest, context: Context
    ) -> reservation_pb2.ReleaseSeatsResponse:
        released = await self._service.release_seats(request.schedule_id, request.seat_ids)
        return reservation_pb2.ReleaseSeatsResponse(released=released)

    async def CloseSchedules(
        self, request: reservation_pb2.CloseSchedulesRequest, context: Context
    ) -> reservation_pb2.CloseSchedulesResponse:
        closing = await self._service.close_schedules(request.schedule_ids)
        return reservation_pb2.CloseSchedulesResponse(
            ended_holds=closing.ended_holds,
            paying_reservation_ids=closing.paying,
            paid=closing.paid,
        )

    async def ReopenSchedules(
        self, request: reservation_pb2.ReopenSchedulesRequest, context: Context
    ) -> reservation_pb2.ReopenSchedulesResponse:
        await self._service.reopen_schedules(request.schedule_ids)
        return reservation_pb2.ReopenSchedulesResponse()

    async def ListBuyers(
        self, request: reservation_pb2.ListBuyersRequest, context: Context
    ) -> reservation_pb2.ListBuyersResponse:
        buyers = await self._service.list_buyers(
            request.schedule_id, request.after_reservation_id, request.page_size
        )
        return reservation_pb2.ListBuyersResponse(
            reservations=[
                to_message(reservation_pb2.Reservation, each) for each in buyers.reservations
            ],
            more=buyers.more,
        )
