"""concert_service in memory."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

from protos.frontrow.concert.v1 import concert_pb2, concert_pb2_grpc
from servicekit.errors import InvalidRequest, NotFound
from tests.gateway.fakes.faults import Faults, service_error

# The limits of the real service.
ROWS_PER_PAGE = 5_000
IDS_PER_CALL = 1_000

Row = TypeVar("Row", concert_pb2.Schedule, concert_pb2.Seat)


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
        # As a service of the version before, it does not name the room main and the currency KRW.
        self.rooms: dict[int, str] = {}
        self.currency = ""
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

    async def GetSeatMaps(
        self, request: concert_pb2.GetSeatMapsRequest, context: object
    ) -> concert_pb2.GetSeatMapsResponse:
        await self.faults.before("GetSeatMaps", request)
        if len(request.schedule_ids) + len(request.seat_ids) > IDS_PER_CALL:
            raise InvalidRequest("Too many ids at once.")
        of_seats = [seat.schedule_id for seat in self.seats if seat.id in set(request.seat_ids)]
        asked = {*request.schedule_ids, *of_seats}
        wanted = [s for s in self.schedules if s.id in asked]
        concerts = {schedule.concert_id for schedule in wanted}
        siblings = [s for s in self.schedules if s.concert_id in concerts and s.id not in asked]
        response = concert_pb2.GetSeatMapsResponse()
        for schedule in (*wanted, *siblings):
            seats = [seat for seat in self.seats if seat.schedule_id == schedule.id]
            layout = seat_layout(seats)
            if layout not in response.layouts:
                response.layouts.append(layout)
            response.seat_maps.add(
                schedule_id=schedule.id,
                layout=list(response.layouts).index(layout),
                runs=runs([seat.id for seat in seats]),
                concert_id=schedule.concert_id,
                room=self.rooms.get(schedule.concert_id, ""),
                currency=self.currency,
            )
        return response

    async def GetSeats(
        self, request: concert_pb2.GetSeatsRequest, context: object
    ) -> concert_pb2.GetSeatsResponse:
        raise NotImplementedError("the gateway does not call this")


def seat_layout(seats: Sequence[concert_pb2.Seat]) -> concert_pb2.SeatLayout:
    """Returns the layout of seats such as A1 and B12, all in one section; the place of another one
    is its position. Each price is a category of its own, and no seat is accessible."""
    rows = list(dict.fromkeys(seat.seat_num[0] for seat in seats))
    prices = list(dict.fromkeys(seat.price for seat in seats))
    layout = concert_pb2.SeatLayout(
        seat_nums=[seat.seat_num for seat in seats],
        row_names=rows,
        row_sections=["Stalls" for _ in rows],
        rows=[rows.index(seat.seat_num[0]) for seat in seats],
        places=[
            int(seat.seat_num[1:]) if seat.seat_num[1:].isdecimal() else position
            for position, seat in enumerate(seats, 1)
        ],
        price_categories=[
            concert_pb2.SeatLayout.PriceCategory(name=f"Category {number}", price=price)
            for number, price in enumerate(prices, 1)
        ],
        categories=[prices.index(seat.price) for seat in seats],
        accessible=[False for _ in seats],
    )
    layout.digest = hashlib.sha256(layout.SerializeToString(deterministic=True)).digest()
    return layout


def runs(seat_ids: Sequence[int]) -> list[concert_pb2.SeatMap.Run]:
    """Returns these ids in order, as runs of ids that follow one another."""
    found: list[list[int]] = []
    for seat_id in seat_ids:
        if found and seat_id == sum(found[-1]):
            found[-1][1] += 1
        else:
            found.append([seat_id, 1])
    return [concert_pb2.SeatMap.Run(first_seat_id=first, count=count) for first, count in found]
