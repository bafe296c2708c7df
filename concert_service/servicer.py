"""Converts between frontrow.concert.v1 messages and the domain."""

from datetime import datetime

from concert_service.domain import Concert, Schedule, Seat
from concert_service.seat_map_service import SeatMaps, SeatMapService
from concert_service.service import ConcertService
from protos import money
from protos.frontrow.concert.v1 import concert_pb2, concert_pb2_grpc
from servicekit.call_interceptor import Context


class ConcertServicer(concert_pb2_grpc.ConcertServiceServicer):
    """Implements ConcertService of protos/frontrow/concert/v1/concert.proto."""

    def __init__(self, service: ConcertService, seat_maps: SeatMapService) -> None:
        self._service = service
        self._seat_maps = seat_maps

    async def ListConcerts(
        self, request: concert_pb2.ListConcertsRequest, context: Context
    ) -> concert_pb2.ListConcertsResponse:
        concerts, token = await self._service.list_concerts(request.page_size, request.page_token)
        return concert_pb2.ListConcertsResponse(
            concerts=[_concert(concert) for concert in concerts], next_page_token=token
        )

    async def ListSchedules(
        self, request: concert_pb2.ListSchedulesRequest, context: Context
    ) -> concert_pb2.ListSchedulesResponse:
        schedules, token = await self._service.list_schedules(
            request.concert_id, request.page_size, request.page_token
        )
        return concert_pb2.ListSchedulesResponse(
            schedules=[_schedule(schedule) for schedule in schedules], next_page_token=token
        )

    async def ListSeats(
        self, request: concert_pb2.ListSeatsRequest, context: Context
    ) -> concert_pb2.ListSeatsResponse:
        seats, token = await self._service.list_seats(
            request.schedule_id, request.page_size, request.page_token
        )
        return concert_pb2.ListSeatsResponse(
            seats=[_seat(seat) for seat in seats], next_page_token=token
        )

    async def GetSeats(
        self, request: concert_pb2.GetSeatsRequest, context: Context
    ) -> concert_pb2.GetSeatsResponse:
        seats = await self._service.get_seats(list(request.seat_ids))
        return concert_pb2.GetSeatsResponse(seats=[_seat(seat) for seat in seats])

    async def GetSeatMaps(
        self, request: concert_pb2.GetSeatMapsRequest, context: Context
    ) -> concert_pb2.GetSeatMapsResponse:
        found = await self._seat_maps.get_seat_maps(
            list(request.schedule_ids), list(request.seat_ids)
        )
        return to_seat_maps_response(found)


def to_seat_maps_response(found: SeatMaps) -> concert_pb2.GetSeatMapsResponse:
    """Returns the message of these maps and layouts."""
    response = concert_pb2.GetSeatMapsResponse(more=found.more)
    indexes = {}
    for layout in found.layouts:
        indexes[layout.digest] = len(response.layouts)
        response.layouts.add(digest=layout.digest).MergeFromString(layout.packed)
    for found_map in found.seat_maps:
        seat_map = response.seat_maps.add(
            schedule_id=found_map.schedule_id,
            layout=indexes[found_map.layout],
            concert_id=found_map.facts.concert_id,
            room=found_map.facts.room,
            sales_from_ms=_unix_ms(found_map.facts.sales_from),
            sales_until_ms=_unix_ms(found_map.facts.sales_until),
            currency=found_map.facts.currency,
        )
        for run in found_map.runs:
            seat_map.runs.add(first_seat_id=run.first_seat_id, count=run.count)
    return response


def _concert(concert: Concert) -> concert_pb2.Concert:
    return concert_pb2.Concert(
        id=concert.id,
        title=concert.title,
        description=concert.description,
        venue=concert.venue,
        time_zone=concert.time_zone,
        image_url=concert.image_url,
        room=concert.room,
        currency=concert.currency,
    )


def _schedule(schedule: Schedule) -> concert_pb2.Schedule:
    return concert_pb2.Schedule(
        id=schedule.id,
        concert_id=schedule.concert_id,
        date=schedule.date.isoformat(),
        seat_count=schedule.seat_count,
        starts_at_ms=_unix_ms(schedule.starts_at),
        sales_from_ms=_unix_ms(schedule.sales_from),
        sales_until_ms=_unix_ms(schedule.sales_until),
    )


def _seat(seat: Seat) -> concert_pb2.Seat:
    return concert_pb2.Seat(
        id=seat.id,
        schedule_id=seat.schedule_id,
        seat_num=seat.seat_num,
        price=money.to_text(seat.price, seat.currency),
        currency=seat.currency,
    )


def _unix_ms(time: datetime | None) -> int:
    return 0 if time is None else round(time.timestamp() * 1000)
