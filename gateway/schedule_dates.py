"""Reads the upcoming dates of a concert from concert_service."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from protos.frontrow.concert.v1 import concert_pb2
from servicekit.client import call

if TYPE_CHECKING:  # a type that exists in the stub file only
    from protos.frontrow.concert.v1.concert_pb2_grpc import ConcertServiceAsyncStub

# The most that one call lists.
_ROWS_PER_PAGE = 5_000


class Date(NamedTuple):
    """An upcoming date. `seat_count` has all its seats, also those that the house has;
    `sales_until_ms` is Unix time, 0: no such limit."""

    id: int
    date: str
    seat_count: int
    sales_until_ms: int


async def list_dates(
    concert: "ConcertServiceAsyncStub", concert_id: int, budget: float
) -> Sequence[Date]:
    """Returns the upcoming dates of a concert, by date. Raises what a call raises."""
    # By id, because a service of the version before this one answers every page with all.
    dates: dict[int, Date] = {}
    request = concert_pb2.ListSchedulesRequest(concert_id=concert_id, page_size=_ROWS_PER_PAGE)
    while True:
        page = await call(concert.ListSchedules, request, budget=budget)
        for each in page.schedules:
            dates[each.id] = Date(each.id, each.date, each.seat_count, each.sales_until_ms)
        if not page.next_page_token:
            return list(dates.values())
        request.page_token = page.next_page_token
