"""The seat directory on a concert_service of the real kind with a store in memory."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import grpc
import pytest

import reservation_service.directory as directory_module
from concert_service.domain import Concert, Schedule
from concert_service.domain import Seat as ConcertSeat
from concert_service.seat_map_service import SeatMapService
from concert_service.service import ConcertService
from concert_service.servicer import ConcertServicer
from protos.frontrow.concert.v1 import catalogue_pb2, concert_pb2, concert_pb2_grpc
from reservation_service.best_seats import Wish
from reservation_service.directory import IDEMPOTENT, GrpcSeatDirectory
from reservation_service.domain import Seat
from reservation_service.errors import ScheduleNotFound, SeatNotFound
from reservation_service.sale_terms import SaleTerms
from servicekit import call_context, client
from servicekit.call_interceptor import CallInterceptor
from servicekit.errors import Unavailable
from servicekit.rpc_errors import RemoteError
from tests.fakes.concert import FakeConcertStore, today

SEATS = 15
DATES = 10
UNKNOWN = 10**12
UNAVAILABLE = UNKNOWN + 1


class Concerts(ConcertServicer):
    """Records what is asked for; fails on demand."""

    def __init__(self, store: FakeConcertStore) -> None:
        super().__init__(ConcertService(store), SeatMapService(store))
        self.calls: list[concert_pb2.GetSeatMapsRequest] = []
        self.pause = 0.0
        self.calls_until_down = 10**6

    async def GetSeatMaps(
        self, request: concert_pb2.GetSeatMapsRequest, context: object
    ) -> concert_pb2.GetSeatMapsResponse:
        self.calls.append(request)
        await asyncio.sleep(self.pause)
        if UNAVAILABLE in request.seat_ids or len(self.calls) > self.calls_until_down:
            raise Unavailable("Not now.")
        return await super().GetSeatMaps(request, context)  # type: ignore[arg-type]


@dataclass
class Running:
    """A concert_service, its store, and a channel to it."""

    store: FakeConcertStore
    concerts: Concerts
    stub: "concert_pb2_grpc.ConcertServiceAsyncStub"
    clock: float = field(default_factory=time.monotonic)

    def directory(self, max_bytes: int = 10**7, cache_seconds: float = 60) -> GrpcSeatDirectory:
        return GrpcSeatDirectory(self.stub, max_bytes=max_bytes, cache_seconds=cache_seconds)


def seats_of(schedule_id: int) -> list[ConcertSeat]:
    first = schedule_id * 100
    return [
        ConcertSeat(first + n, schedule_id, f"A{n}", Decimal("90000.50"), "A", n, "VIP", "Stalls")
        for n in range(1, SEATS + 1)
    ]


@pytest.fixture
async def running(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    """Concerts 1 to 3 with dates 11 to 20, 21 to 30 and 31 to 40; date d has the seats d * 100 + 1
    to d * 100 + 15. The first date of each has passed."""
    store = FakeConcertStore()
    for concert in (1, 2, 3):
        await store.add(
            Concert(concert, "C"),
            {
                Schedule(
                    concert * DATES + n, concert, today() + timedelta(days=n - 2), SEATS
                ): seats_of(concert * DATES + n)
                for n in range(1, DATES + 1)
            },
        )
    concerts = Concerts(store)
    server = grpc.aio.server(interceptors=[CallInterceptor(5.0)])
    concert_pb2_grpc.add_ConcertServiceServicer_to_server(concerts, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with client.connect(f"127.0.0.1:{port}", idempotent=IDEMPOTENT) as channel:
        running = Running(store, concerts, concert_pb2_grpc.ConcertServiceStub(channel))
        monkeypatch.setattr(directory_module, "monotonic", lambda: running.clock)
        yield running
    await server.stop(None)


async def test_one_call_brings_every_date_of_a_concert(running: Running) -> None:
    directory = running.directory()
    for _ in range(2):
        for schedule in range(12, 21):
            assert await directory.seat(schedule * 100 + 15) == Seat(
                schedule * 100 + 15, schedule, "A15", Decimal("90000.50")
            )
            seat_map = await directory.seat_map(schedule)
            assert seat_map.indexes_of([schedule * 100 + 2, 1, schedule * 100 + 1]) == [1, 0]
    assert [list(call.seat_ids) for call in running.concerts.calls] == [[1215]]
    assert (await directory.seat_map(25)).seat_map.schedule_id == 25
    assert list(running.concerts.calls[-1].schedule_ids) == [25]
    assert len(running.concerts.calls) == 2


async def test_a_map_is_prepared_for_searches(running: Running) -> None:
    directory = running.directory()
    seat_map = await directory.seat_map(12)
    hall = seat_map.hall
    chosen = hall.best(hall.seats(seat_map.indexes_of([1208])), Wish(3, price_category="VIP"))
    assert chosen is not None
    seats = seat_map.seats_at(reversed(hall.indexes(chosen)))
    assert [seat.id for seat in seats] == sorted(seat.id for seat in seats)
    assert all(1201 <= seat.id <= 1215 and seat.id != 1208 for seat in seats)
    # Prepared once for all dates with this layout.
    assert (await directory.seat_map(13)).hall is hall
    assert await directory.seat_map(12) == seat_map
    assert len({seat_map, await directory.seat_map(12), await directory.seat_map(13)}) == 2


async def test_past_and_unknown_ones_are_not_found(running: Running) -> None:
    directory = running.directory()
    for _ in range(2):
        for seat in (UNKNOWN, 1101, 1216, 1200):
            with pytest.raises(SeatNotFound):
                await directory.seat(seat)
        for schedule in (UNKNOWN, 11):
            with pytest.raises(ScheduleNotFound):
                await directory.seat_map(schedule)
    # A failure is not cached and does not affect later lookups.
    with pytest.raises(RemoteError) as refused:
        await directory.seat(UNAVAILABLE)
    assert refused.value.code == "UNAVAILABLE"
    assert (await directory.seat(1201)).id == 1201


async def test_concurrent_lookups_share_a_call(running: Running) -> None:
    directory = running.directory()
    wanted = [*range(1201, 1216), *range(2201, 2216), 1201, 1201, UNKNOWN]
    waiting = [asyncio.create_task(directory.seat(seat_id)) for seat_id in wanted]
    await asyncio.sleep(0)
    # A cancelled caller does not affect others that wait for the same seat or the same call.
    waiting[-2].cancel()
    seats = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(seats[-1], SeatNotFound)
    assert isinstance(seats[-2], asyncio.CancelledError)
    assert [seat.id for seat in seats[:-2] if isinstance(seat, Seat)] == wanted[:-2]
    assert len(running.concerts.calls) <= 2


async def test_a_crowd_of_unknown_ids_costs_a_call_for_a_thousand(running: Running) -> None:
    directory = running.directory()
    found = await asyncio.gather(
        *(directory.seat(UNKNOWN + 2 + n) for n in range(5_000)), return_exceptions=True
    )
    assert all(isinstance(one, SeatNotFound) for one in found)
    assert len(running.concerts.calls) <= 6


async def test_lookups_of_one_call_share_its_failure(running: Running) -> None:
    directory = running.directory()
    running.concerts.pause = 0.05
    first = asyncio.create_task(directory.seat(1201))
    await asyncio.sleep(0.02)
    others = await asyncio.gather(
        directory.seat(2201), directory.seat(UNAVAILABLE), return_exceptions=True
    )
    assert (await first).id == 1201
    assert all(isinstance(answer, RemoteError) for answer in others)


async def test_a_caller_without_time_does_not_fail_the_others(running: Running) -> None:
    directory = running.directory()

    async def hurried() -> Seat:
        call_context.set_deadline(0.0)
        return await directory.seat(1201)

    first, second = await asyncio.gather(
        asyncio.create_task(hurried()), asyncio.create_task(directory.seat(1202))
    )
    assert (first.id, second.id) == (1201, 1202)


async def test_maps_are_read_again_before_they_are_too_old(running: Running) -> None:
    directory = running.directory()
    await directory.seat(1201)
    await running.store.change(ConcertSeat(1201, 12, "A1", Decimal(1), "A", 1, "VIP", "Stalls"))
    running.clock += 44
    assert (await directory.seat(1201)).price == Decimal("90000.50")
    running.clock += 2
    # At once, while it is read again: once, although more dates are asked for.
    assert (await directory.seat(1201)).price == Decimal("90000.50")
    assert (await directory.seat(1301)).id == 1301
    await asyncio.gather(*directory._refreshing)
    assert (await directory.seat(1201)).price == Decimal("1.00")
    assert len(running.concerts.calls) == 2
    running.clock += 29
    assert (await directory.seat(1301)).id == 1301
    assert len(running.concerts.calls) == 2


async def test_maps_that_cannot_be_read_again_serve_until_they_are_too_old(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = running.directory()
    await directory.seat(1201)
    fine = running.concerts._seat_maps

    class Refusing(SeatMapService):
        async def get_seat_maps(self, *_: object) -> object:  # type: ignore[override]
            raise Unavailable("Not now.")

    running.concerts._seat_maps = Refusing(running.store)
    for seconds in (46, 6, 6):
        running.clock += seconds
        assert (await directory.seat(1201)).id == 1201
        await asyncio.gather(*directory._refreshing)
    # gRPC tries three times in each of them.
    assert len(running.concerts.calls) == 1 + 3 * 3
    running.clock += 6
    with pytest.raises(RemoteError):
        await directory.seat(1201)
    running.concerts._seat_maps = fine
    assert (await directory.seat(1201)).id == 1201


async def test_nothing_is_cached_beyond_midnight(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "seconds_to_midnight", lambda: 10.0)
    directory = running.directory()
    await directory.seat(1201)
    running.store.schedules[12] = Schedule(12, 1, today() - timedelta(days=1), SEATS)
    running.clock += 7
    assert (await directory.seat(1201)).id == 1201
    running.clock += 3.5
    with pytest.raises(SeatNotFound):
        await directory.seat(1201)
    with pytest.raises(ScheduleNotFound):
        await directory.seat_map(12)


async def test_a_cache_of_no_size_or_no_time_still_answers(running: Running) -> None:
    for directory in (running.directory(max_bytes=0), running.directory(cache_seconds=0)):
        before = len(running.concerts.calls)
        for _ in range(3):
            assert (await directory.seat(1201)).id == 1201
            assert (await directory.seat_map(12)).seat_map.schedule_id == 12
        assert len(running.concerts.calls) == before + 6


async def test_what_a_response_leaves_out_is_asked_for_again(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("concert_service.seat_map_service.SEATS_PACKED", SEATS)
    directory = running.directory()
    wanted = [1201, 2201, 3201, UNKNOWN]
    found = await asyncio.gather(*(directory.seat(id) for id in wanted), return_exceptions=True)
    assert [one.id for one in found if isinstance(one, Seat)] == wanted[:3]
    assert isinstance(found[3], SeatNotFound)


async def test_what_one_call_has_brought_outlives_the_failure_of_the_next(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("concert_service.seat_map_service.SEATS_PACKED", SEATS)
    running.concerts.calls_until_down = 1
    directory = running.directory()
    found = await asyncio.gather(
        *(directory.seat(id) for id in (1201, 2201)), return_exceptions=True
    )
    assert sorted(type(one).__name__ for one in found) == ["RemoteError", "Seat"]


def changed(*concerts: int, reset: bool = False) -> catalogue_pb2.WatchCatalogueResponse:
    """The message about these concerts."""
    return catalogue_pb2.WatchCatalogueResponse(
        reset=reset,
        concerts=[
            catalogue_pb2.CatalogueConcert(
                id=concert, schedule_ids=range(concert * DATES + 1, concert * DATES + DATES + 1)
            )
            for concert in concerts
        ],
    )


async def test_a_change_of_the_catalogue_drops_the_maps_of_its_concerts(running: Running) -> None:
    directory = running.directory()
    for seat in (1201, 1301, 2201, 3201):
        await directory.seat(seat)
    await running.store.change(ConcertSeat(1201, 12, "Z1", Decimal(7), "A", 1, "VIP", "Stalls"))
    assert (await directory.seat(1201)).seat_num == "A1"
    directory.apply(changed(1, 3))
    assert await directory.seat(1201) == Seat(1201, 12, "Z1", Decimal(7))
    assert (await directory.seat_map(12)).ids()[0] == 1201
    calls = len(running.concerts.calls)
    # Nothing of concert 2 has changed, and a message may have nothing of concern.
    directory.apply(changed())
    assert (await directory.seat(2201)).id == 2201
    assert len(running.concerts.calls) == calls
    directory.apply(changed(reset=True))
    assert (await directory.seat(2201)).id == 2201
    assert len(running.concerts.calls) == calls + 1


async def test_a_response_that_is_older_than_a_change_is_not_kept(running: Running) -> None:
    directory = running.directory()
    running.concerts.pause = 0.05
    asking = asyncio.create_task(directory.seat(1201))
    await asyncio.sleep(0.02)
    # The response may have been made before it.
    directory.apply(changed(1))
    await asking
    await running.store.change(ConcertSeat(1201, 12, "Z1", Decimal(7), "A", 1, "VIP", "Stalls"))
    assert (await directory.seat(1201)).seat_num == "Z1"
    calls = len(running.concerts.calls)
    assert (await directory.seat(1201)).seat_num == "Z1"
    assert len(running.concerts.calls) == calls


async def test_a_map_has_the_terms_of_its_sale(running: Running) -> None:
    directory = running.directory()
    assert (await directory.seat_map(22)).terms == SaleTerms("main", 0, 0, "KRW")
    running.store.concerts[1] = Concert(1, "C", room="rock", currency="KWD")
    begins = datetime(2027, 3, 14, 9, tzinfo=UTC)
    running.store.schedules[12] = Schedule(
        *(12, 1, today(), SEATS),
        sales_from=begins,
        sales_until=begins + timedelta(hours=1),
    )
    milliseconds = round(begins.timestamp() * 1000)
    terms = (await directory.seat_map(12)).terms
    assert terms == SaleTerms("rock", milliseconds, milliseconds + 3_600_000, "KWD")


async def test_places_of_general_admission_are_assigned_in_any_order(running: Running) -> None:
    running.store.seats[12] = [
        ConcertSeat(
            *(1200 + n, 12, f"{n}", Decimal(1), "Floor", n, "VIP", "Floor"), general_admission=True
        )
        for n in range(1, SEATS + 1)
    ]
    seat_map = await running.directory().seat_map(12)
    hall = seat_map.hall
    chosen = hall.best(hall.seats(seat_map.indexes_of([1202])), Wish(2, section="Floor"))
    assert chosen is not None
    assert [seat.id for seat in seat_map.seats_at(hall.indexes(chosen))] == [1201, 1203]
