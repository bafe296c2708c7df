"""The use cases of concert_service on the fake store, directly and over gRPC."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import grpc
import pytest

import concert_service.service
from concert_service import domain
from concert_service.domain import (
    Concert,
    Schedule,
    Seat,
    from_page_token,
    from_schedules_token,
    to_page_token,
    to_schedules_token,
)
from concert_service.errors import ConcertNotFound, ScheduleNotFound
from concert_service.seat_map_service import SeatMapService
from concert_service.seed import title
from concert_service.service import ConcertService
from concert_service.servicer import ConcertServicer
from protos.frontrow.concert.v1 import concert_pb2, concert_pb2_grpc
from servicekit import client
from servicekit.call_interceptor import CallInterceptor
from servicekit.errors import InvalidRequest
from servicekit.rpc_errors import RemoteError
from tests.fakes.concert import FakeConcertStore, today

EVENING = datetime(2027, 3, 14, 10, 30, tzinfo=UTC)
SEVEN = Concert(
    7,
    "Seven",
    description="All of it",
    venue="Hall",
    time_zone="Asia/Kuwait",
    image_url="https://example.org/seven.png",
    room="side",
    currency="KWD",
)


@pytest.fixture
async def store() -> FakeConcertStore:
    store = FakeConcertStore()
    for concert in range(1, 251):
        await store.add(Concert(concert, f"Concert {concert}"), {})
    tomorrow = today() + timedelta(days=1)
    await store.add(
        SEVEN,
        {
            Schedule(
                70,
                7,
                tomorrow,
                2,
                starts_at=EVENING,
                sales_from=EVENING - timedelta(days=30),
                sales_until=EVENING + timedelta(milliseconds=1),
            ): [
                Seat(701, 70, "A1", Decimal("150000.00")),
                Seat(702, 70, "A2", Decimal("90000.50")),
            ],
            Schedule(71, 7, today() - timedelta(days=1), 1): [Seat(711, 71, "A1", Decimal(1))],
            Schedule(72, 7, today(), 0): [],
        },
    )
    return store


@pytest.fixture
def service(store: FakeConcertStore) -> ConcertService:
    return ConcertService(store)


async def test_pages_cover_every_concert_once(service: ConcertService) -> None:
    seen, token = [], ""
    sizes = []
    while True:
        page, token = await service.list_concerts(0, token)
        seen += [concert.id for concert in page]
        sizes.append(len(page))
        if not token:
            break
    assert seen == list(range(1, 251))
    assert sizes == [100, 100, 50]


async def test_last_full_page_has_no_token(service: ConcertService) -> None:
    page, token = await service.list_concerts(50, to_page_token(200))
    assert (len(page), token) == (50, "")


async def test_page_size_is_capped_and_never_negative(service: ConcertService) -> None:
    assert len((await service.list_concerts(10_000, ""))[0]) == 100
    assert len((await service.list_concerts(1, ""))[0]) == 1
    with pytest.raises(InvalidRequest):
        await service.list_concerts(-1, "")


@pytest.mark.parametrize(
    "token",
    ["x", "MTA=", "é", " ", to_page_token(0), to_page_token(-1), to_page_token(2**63), "KzE"],
)
def test_invalid_page_tokens_are_refused(token: str) -> None:
    with pytest.raises(InvalidRequest):
        from_page_token(token)


def test_page_token_returns_its_id() -> None:
    for last_id in (1, 99, 2**63 - 1):
        assert from_page_token(to_page_token(last_id)) == last_id


@pytest.mark.parametrize(
    "token", [to_page_token(7), to_schedules_token((today(), 0)), "MjAyNi0xLTEgNw", "x", "é"]
)
def test_invalid_tokens_of_schedules_are_refused(token: str) -> None:
    with pytest.raises(InvalidRequest):
        from_schedules_token(token)


async def test_a_deleted_schedule_does_not_end_the_list(
    service: ConcertService, large: FakeConcertStore
) -> None:
    page, token = await service.list_schedules(9, 3, "")
    await large.delete(page[-1].id)
    rest, _ = await service.list_schedules(9, 3, token)
    assert [schedule.id for schedule in rest] == [93, 94, 95]


async def test_schedules_start_today_in_order_of_date(service: ConcertService) -> None:
    assert await ids_of(service.list_schedules, 7) == [[72, 70]]
    assert await ids_of(service.list_schedules, 8) == [[]]
    with pytest.raises(ConcertNotFound):
        await service.list_schedules(999, 0, "")


Listing = Callable[[int, int, str], Awaitable[tuple[Sequence[Schedule | Seat], str]]]


async def ids_of(listing: Listing, of: int, size: int = 0) -> list[list[int]]:
    """The ids on each page."""
    pages, token = [], ""
    while True:
        page, token = await listing(of, size, token)
        pages.append([row.id for row in page])
        if not token:
            return pages


@pytest.fixture
async def large(store: FakeConcertStore, monkeypatch: pytest.MonkeyPatch) -> FakeConcertStore:
    """Concert 9 with 7 schedules, of which schedule 90 has 7 seats; a page has at most 3."""
    for module in (domain, concert_service.service):
        monkeypatch.setattr(module, "MAX_ROWS_PER_PAGE", 3)
    seats = [Seat(900 + n, 90, f"A{n}", Decimal(1)) for n in range(7)]
    schedules = [Schedule(90 + n, 9, today(), 0) for n in range(7)]
    await store.add(
        Concert(9, "Nine"), {s: (seats if s.id == 90 else []) for s in reversed(schedules)}
    )
    return store


async def test_large_lists_are_read_in_pages(
    service: ConcertService, large: FakeConcertStore
) -> None:
    dates, seats = list(range(90, 97)), list(range(900, 907))
    for listing, of, rows in ((service.list_schedules, 9, dates), (service.list_seats, 90, seats)):
        assert await ids_of(listing, of, 3) == [rows[:3], rows[3:6], rows[6:]]
        assert await ids_of(listing, of, 100) == [rows[:3], rows[3:6], rows[6:]]
        assert await ids_of(listing, of, 2) == [rows[:2], rows[2:4], rows[4:6], rows[6:]]
        # For callers that know no pages.
        assert await ids_of(listing, of) == [rows]
        with pytest.raises(InvalidRequest):
            await listing(of, -1, "")
        with pytest.raises(InvalidRequest):
            await listing(of, 0, "no token")


@pytest.mark.parametrize("schedule_id", [71, 999, 0, -1])
async def test_past_and_unknown_schedules_are_not_found(
    service: ConcertService, schedule_id: int
) -> None:
    with pytest.raises(ScheduleNotFound):
        await service.list_seats(schedule_id, 0, "")


async def test_seats_of_past_schedules_do_not_exist(service: ConcertService) -> None:
    seats = await service.get_seats([711, 701, 999, 0])
    assert [(seat.id, seat.price) for seat in seats] == [(701, Decimal(150_000))]
    assert await service.get_seats([]) == []
    assert await service.get_seats([999] * 1000) == []
    with pytest.raises(InvalidRequest):
        await service.get_seats([999] * 1001)


def test_seeded_titles_differ() -> None:
    assert len({title(concert) for concert in range(1, 101)}) == 100


@pytest.fixture
async def stub(
    service: ConcertService, store: FakeConcertStore
) -> AsyncIterator["concert_pb2_grpc.ConcertServiceAsyncStub"]:
    server = grpc.aio.server(interceptors=[CallInterceptor(5.0)])
    servicer = ConcertServicer(service, SeatMapService(store))
    concert_pb2_grpc.add_ConcertServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with client.connect(f"127.0.0.1:{port}") as channel:
        yield concert_pb2_grpc.ConcertServiceStub(channel)
    await server.stop(None)


async def test_grpc_responses_have_every_field(
    stub: "concert_pb2_grpc.ConcertServiceAsyncStub",
) -> None:
    page = await client.call(
        stub.ListConcerts, concert_pb2.ListConcertsRequest(page_size=7), budget=2
    )
    assert page.concerts[6] == concert_pb2.Concert(
        id=7,
        title="Seven",
        description="All of it",
        venue="Hall",
        time_zone="Asia/Kuwait",
        image_url="https://example.org/seven.png",
        room="side",
        currency="KWD",
    )
    assert page.next_page_token
    schedules = await client.call(
        stub.ListSchedules, concert_pb2.ListSchedulesRequest(concert_id=7), budget=2
    )
    assert schedules.schedules[1] == concert_pb2.Schedule(
        id=70,
        concert_id=7,
        date=(today() + timedelta(days=1)).isoformat(),
        seat_count=2,
        starts_at_ms=1_805_020_200_000,
        sales_from_ms=1_805_020_200_000 - 30 * 86_400_000,
        sales_until_ms=1_805_020_200_001,
    )
    seats = await client.call(
        stub.ListSeats, concert_pb2.ListSeatsRequest(schedule_id=70), budget=2
    )
    assert list(seats.seats) == [
        concert_pb2.Seat(id=701, schedule_id=70, seat_num="A1", price="150000.000", currency="KWD"),
        concert_pb2.Seat(id=702, schedule_id=70, seat_num="A2", price="90000.500", currency="KWD"),
    ]
    some = await client.call(
        stub.GetSeats, concert_pb2.GetSeatsRequest(seat_ids=[702, 711]), budget=2
    )
    assert list(some.seats) == [seats.seats[1]]


async def test_grpc_errors_keep_their_code(
    stub: "concert_pb2_grpc.ConcertServiceAsyncStub",
) -> None:
    async def code(call: object) -> str:
        with pytest.raises(RemoteError) as refused:
            await call  # type: ignore[misc]
        return refused.value.code

    assert (
        await code(
            client.call(
                stub.ListConcerts, concert_pb2.ListConcertsRequest(page_token="!"), budget=2
            )
        )
        == "INVALID_REQUEST"
    )
    assert (
        await code(
            client.call(
                stub.ListSchedules, concert_pb2.ListSchedulesRequest(concert_id=999), budget=2
            )
        )
        == "CONCERT_NOT_FOUND"
    )
    assert (
        await code(
            client.call(stub.ListSeats, concert_pb2.ListSeatsRequest(schedule_id=71), budget=2)
        )
        == "SCHEDULE_NOT_FOUND"
    )
