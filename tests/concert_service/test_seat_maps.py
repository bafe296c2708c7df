"""Packed seats: the contract of their store, and what a response has."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from grpc import aio

from concert_service import seat_map_repository, seat_map_service
from concert_service.domain import Concert, EventStatus, Schedule, Seat
from concert_service.ports import SeatMapStore
from concert_service.seat_map import (
    PackedLayout,
    PackedSeatMap,
    Run,
    pack_layout,
)
from concert_service.seat_map_service import SeatMaps, SeatMapService
from concert_service.service import ConcertService
from concert_service.servicer import ConcertServicer, to_seat_maps_response
from protos.frontrow.concert.v1 import concert_pb2, concert_pb2_grpc
from seat_maps.decoding import MAX_RESPONSE_BYTES, SeatMapDecoder
from servicekit import client
from servicekit.call_interceptor import CallInterceptor
from servicekit.errors import InvalidRequest
from servicekit.mysql import Database
from servicekit.rpc_errors import RemoteError
from tests.concert_service.conftest import BASE, RealStore
from tests.fakes.concert import FakeConcertStore, today

Store = FakeConcertStore | RealStore


async def add_concerts(store: Store) -> None:
    """Concert BASE with two dates in one hall, a past one, and one in another hall; BASE + 1 with
    a date in the same hall."""

    def hall(schedule: int, number: str = "A") -> list[Seat]:
        first = BASE + (schedule - BASE) * 10
        return [
            Seat(first + n, schedule, f"{number}{n}", Decimal(90_000), number, n, "All", "Stalls")
            for n in (1, 2, 3)
        ]

    def date(id: int, concert: int, days: int) -> Schedule:
        return Schedule(id, concert, today() + timedelta(days=days), 3)

    await store.add(
        Concert(BASE, "C"),
        {
            date(BASE + 1, BASE, 1): hall(BASE + 1),
            date(BASE + 2, BASE, 0): hall(BASE + 2),
            date(BASE + 3, BASE, -1): hall(BASE + 3),
            date(BASE + 4, BASE, 2): hall(BASE + 4, "B"),
        },
    )
    await store.add(Concert(BASE + 1, "D"), {date(BASE + 5, BASE + 1, 1): hall(BASE + 5)})


def ids(found: SeatMaps) -> list[int]:
    return [seat_map.schedule_id - BASE for seat_map in found.seat_maps]


async def test_a_date_that_cannot_be_packed_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = FakeConcertStore()
    await add_concerts(store)
    make = store.make_maps

    async def make_all_but_one(schedule_ids: Sequence[int]) -> Sequence[PackedSeatMap]:
        return await make([id for id in schedule_ids if id != BASE + 1])

    monkeypatch.setattr(store, "make_maps", make_all_but_one)
    monkeypatch.setattr("concert_service.seat_map_service.SEATS_PACKED", 3)
    service = SeatMapService(store)
    wanted = [BASE + 1, BASE + 5]
    first = await service.get_seat_maps(wanted, [])
    assert (ids(first), first.more) == ([], True)
    second = await service.get_seat_maps(wanted, [])
    assert (ids(second)[0], second.more) == (5, False)


async def test_a_concerts_dates_come_together_and_share_a_layout(store: Store) -> None:
    await add_concerts(store)
    service = SeatMapService(store)
    for _ in ("made now", "stored"):
        found = await service.get_seat_maps([BASE + 1], [])
        assert ids(found)[0] == 1
        assert sorted(ids(found)) == [1, 2, 4]
        assert len(found.layouts) == 2
        assert not found.more
        maps = {seat_map.schedule_id: seat_map for seat_map in found.seat_maps}
        assert maps[BASE + 1].runs == (Run(BASE + 11, 3),)
        assert maps[BASE + 1].layout == maps[BASE + 2].layout != maps[BASE + 4].layout
        # By seats, also of two dates.
        by_seat = await service.get_seat_maps([], [BASE + 23, BASE + 42, BASE + 21])
        assert sorted(ids(by_seat)[:2]) == [2, 4]
        assert sorted(ids(by_seat)) == [1, 2, 4]
        assert sorted(ids(await service.get_seat_maps([BASE + 5], [BASE + 12]))) == [1, 2, 4, 5]


async def test_past_and_unknown_dates_do_not_exist(store: Store) -> None:
    await add_concerts(store)
    service = SeatMapService(store)
    unknown: list[tuple[list[int], list[int]]]
    unknown = [([BASE + 3], []), ([], [BASE + 31]), ([BASE + 9], [BASE + 99]), ([], [])]
    for schedules, seats in unknown:
        assert await service.get_seat_maps(schedules, seats) == SeatMaps([], [], more=False)
    assert ids(await service.get_seat_maps([BASE + 3, BASE + 5], [BASE + 99])) == [5]
    with pytest.raises(InvalidRequest):
        await service.get_seat_maps([BASE] * 500, [BASE] * 501)


async def test_a_change_of_seats_makes_a_new_map(store: Store) -> None:
    await add_concerts(store)
    service = SeatMapService(store)
    before = await service.get_seat_maps([BASE + 5], [])
    seat = Seat(BASE + 52, BASE + 5, "A2", Decimal("1.50"), "A", 2, "All", "Stalls")
    await store.change(seat)
    after = await service.get_seat_maps([BASE + 5], [])
    assert after.layouts[0].digest != before.layouts[0].digest
    message = concert_pb2.SeatLayout.FromString(after.layouts[0].packed)
    assert [c.price for c in message.price_categories] == ["90000.00", "1.50"]


async def test_a_map_that_is_made_waits_for_a_change_of_its_seats(
    mysql_urls: dict[str, str],
) -> None:
    """Otherwise the map of the seats before could be stored after the change."""
    async with Database(mysql_urls["concert"]) as database:
        store = RealStore(database)
        await store.clear()
        await add_concerts(store)
        async with database.transaction() as change:
            await change.execute("SELECT id FROM schedule WHERE id = %s FOR UPDATE", BASE + 5)
            making = asyncio.create_task(SeatMapService(store).get_seat_maps([BASE + 5], []))
            done, _ = await asyncio.wait([making], timeout=0.3)
            assert not done
            await change.execute("UPDATE seat SET price = 1 WHERE id = %s", BASE + 51)
            await change.execute("DELETE FROM seat_map WHERE schedule_id = %s", BASE + 5)
        found = await making
        message = concert_pb2.SeatLayout.FromString(found.layouts[0].packed)
        assert {category.price for category in message.price_categories} == {"1.00", "90000.00"}
        await store.clear()


async def test_a_removed_seat_is_in_no_map(store: Store) -> None:
    await add_concerts(store)
    service = SeatMapService(store)
    before = await service.get_seat_maps([BASE + 5], [])
    await store.remove(Seat(BASE + 52, BASE + 5, "A2", Decimal(90_000), "A", 2, "All", "Stalls"))
    after = await service.get_seat_maps([BASE + 5], [])
    assert before.seat_maps[0].runs == (Run(BASE + 51, 3),)
    assert after.seat_maps[0].runs == (Run(BASE + 51, 1), Run(BASE + 53, 1))
    assert list(concert_pb2.SeatLayout.FromString(after.layouts[0].packed).seat_nums) == [
        "A1",
        "A3",
    ]


async def test_a_map_has_the_facts_of_the_sale(store: Store) -> None:
    begin = datetime(2027, 3, 1, 9, 0, 0, 1000, tzinfo=UTC)
    concert = Concert(BASE, "C", room="side", currency="KWD")
    sold = Schedule(
        *(BASE + 1, BASE, today(), 1),
        sales_from=begin,
        sales_until=begin + timedelta(hours=1),
    )
    cancelled = Schedule(BASE + 2, BASE, today(), 1, cancelled=True)
    seat = Seat(
        *(BASE + 7, BASE + 1, "A1", Decimal("1.125"), "A", 1, "All", "Hall"),
        row_rank=3,
        companion=True,
        general_admission=True,
        x=-5,
        y=7,
    )
    await store.add(concert, {sold: [seat], cancelled: [replace(seat, id=BASE + 8)]})
    draft = Concert(BASE + 1, "D", status=EventStatus.DRAFT)
    await store.add(draft, {Schedule(BASE + 3, BASE + 1, today(), 0): []})
    service = SeatMapService(store)
    for _ in ("made now", "stored"):
        found = await service.get_seat_maps([BASE + 1, BASE + 2, BASE + 3], [BASE + 8])
        (seat_map,) = SeatMapDecoder().decode(to_seat_maps_response(found))
        assert (seat_map.schedule_id, seat_map.concert_id) == (BASE + 1, BASE)
        assert (seat_map.room, seat_map.currency) == ("side", "KWD")
        assert seat_map.sales_from_ms == 1_803_891_600_001
        assert seat_map.sales_until_ms == 1_803_895_200_001
        layout = seat_map.layout
        assert layout.price(0) == Decimal("1.125")
        assert (layout.companion, layout.general_admission) == (b"\1", b"\1")
        assert (list(layout.x), list(layout.y)) == ([-5], [7])


async def test_concurrent_makers_of_a_map_agree(mysql_urls: dict[str, str]) -> None:
    async with Database(mysql_urls["concert"]) as database:
        store = RealStore(database)
        await store.clear()
        await add_concerts(store)
        found = await asyncio.gather(
            *(SeatMapService(store).get_seat_maps([BASE + 1], []) for _ in range(8))
        )
        assert all(sorted(ids(one)) == [1, 2, 4] for one in found)
        assert len({one.layouts[0].digest for one in found}) <= 2
        await store.clear()


@pytest.fixture
async def halls() -> FakeConcertStore:
    """Concert 1 with 30 dates of 100 seats, each in a hall of its own."""
    store = FakeConcertStore()
    await store.add(
        Concert(1, "C"),
        {
            Schedule(id, 1, today(), 100): [
                Seat(id * 1000 + n, id, f"A{n}", Decimal(id)) for n in range(100)
            ]
            for id in range(1, 31)
        },
    )
    return store


async def test_layouts_are_read_once(halls: FakeConcertStore) -> None:
    service = SeatMapService(halls)
    for _ in range(3):
        assert len((await service.get_seat_maps([5], [])).seat_maps) == 30
    assert sorted(digest for some in halls.reads_of_layouts for digest in some) == sorted(
        halls.seat_layouts
    )


async def test_siblings_end_at_the_limit_and_what_was_asked_for_does_not(
    halls: FakeConcertStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = SeatMapService(halls)
    monkeypatch.setattr(seat_map_service, "SIBLINGS_BYTES", 4_000)
    few = await service.get_seat_maps([9], [])
    assert few.seat_maps[0].schedule_id == 9
    assert 1 < len(few.seat_maps) < 10
    assert not few.more
    assert to_seat_maps_response(few).ByteSize() <= 4_000
    many = await service.get_seat_maps(list(range(1, 21)), [])
    assert [seat_map.schedule_id for seat_map in many.seat_maps] == list(range(1, 21))
    assert not many.more


async def test_what_does_not_fit_is_asked_for_again(
    halls: FakeConcertStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seat_map_service, "ASKED_BYTES", 4_000)
    monkeypatch.setattr(seat_map_service, "SIBLINGS_BYTES", 0)

    def is_small(found: SeatMaps) -> bool:
        return to_seat_maps_response(found).ByteSize() <= 4_000

    assert await ask_until_complete(SeatMapService(halls), is_small) > 5


async def test_few_maps_are_made_at_once(
    halls: FakeConcertStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seat_map_service, "SEATS_PACKED", 250)
    rounds = await ask_until_complete(SeatMapService(halls), lambda found: True)
    assert rounds == 15


async def ask_until_complete(service: SeatMapService, check: Callable[[SeatMaps], bool]) -> int:
    missing = set(range(1, 31))
    for asked in range(1, 31):
        found = await service.get_seat_maps(sorted(missing), [])
        assert check(found)
        before = len(missing)
        missing -= {seat_map.schedule_id for seat_map in found.seat_maps}
        assert len(missing) < before
        assert found.more == bool(missing)
        if not missing:
            return asked
    raise AssertionError("never complete")


async def test_a_stadium_and_two_hundred_dates_stay_below_the_limits_over_grpc(
    mysql_urls: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two dates of 20,000 seats of concert BASE, and 200 dates of 150 of concert BASE + 1."""
    packed: list[int] = []

    def counted(schedule_id: int, seats: Sequence[Seat]) -> PackedLayout:
        packed.append(schedule_id)
        return pack_layout(schedule_id, seats)

    monkeypatch.setattr(seat_map_repository, "pack_layout", counted)
    async with Database(mysql_urls["concert"]) as database:
        store = RealStore(database)
        await store.clear()
        await add_large_concerts(store, database)
        server = aio.server(interceptors=[CallInterceptor(5.0)])
        servicer = ConcertServicer(ConcertService(store), SeatMapService(store))
        concert_pb2_grpc.add_ConcertServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with client.connect(f"127.0.0.1:{port}") as channel:
            stub = concert_pb2_grpc.ConcertServiceStub(channel)
            for _ in ("made now", "stored"):
                request = concert_pb2.GetSeatMapsRequest(schedule_ids=[BASE])
                stadium = await client.call(stub.GetSeatMaps, request, budget=5)
                assert stadium.ByteSize() < 512_000
                assert stadium.seat_maps[0].schedule_id == BASE
                assert len(stadium.layouts) == 1
                assert len(stadium.layouts[0].seat_nums) == 20_000
                # They share a layout, and the first call has packed the first only.
                assert len(stadium.seat_maps) == (1 if _ == "made now" else 2)
            dates = range(BASE + 1000, BASE + 1200)
            request = concert_pb2.GetSeatMapsRequest(seat_ids=[BASE + 200_000 + 150 * 7])
            found: set[int] = set()
            while missing := [date for date in dates if date not in found]:
                many = await client.call(stub.GetSeatMaps, request, budget=5)
                assert many.ByteSize() < 512_000
                assert len(many.layouts) == 1
                before = len(found)
                found |= {seat_map.schedule_id for seat_map in many.seat_maps}
                assert len(found) > before
                request = concert_pb2.GetSeatMapsRequest(schedule_ids=missing)
            # The seats of a hall are packed once.
            assert packed == [BASE, BASE + 1000]
            # All of a concert come with one of them, once they are made.
            request = concert_pb2.GetSeatMapsRequest(schedule_ids=[BASE + 1150])
            assert len((await client.call(stub.GetSeatMaps, request, budget=5)).seat_maps) == 200
        await server.stop(None)
        await store.clear()


async def add_large_concerts(store: RealStore, database: Database) -> None:
    for concert, dates, size in ((BASE, (0, 1), 20_000), (BASE + 1, range(1000, 1200), 150)):
        schedules = [Schedule(BASE + n, concert, today(), size) for n in dates]
        await store.add(Concert(concert, "C"), {schedule: [] for schedule in schedules})
    async with database.connection() as connection:
        for first, dates, size in (
            (BASE, (BASE, BASE + 1), 20_000),
            (BASE + 200_000, (BASE + 1000, BASE + 1199), 150),
        ):
            await connection.execute(
                "INSERT INTO seat (id, schedule_id, position, seat_num, price, row_name, place,"
                " price_category, section)"
                " SELECT %s + (s.id - %s) * %s + n.seq, s.id, n.seq,"
                " CONCAT('R', 1 + n.seq DIV 50, '-', 1 + n.seq MOD 50), 1000,"
                " CONCAT('R', 1 + n.seq DIV 50), 1 + n.seq MOD 50, 'Terrace', 'North'"
                " FROM schedule s JOIN seq_0_to_19999 n"
                " WHERE s.id BETWEEN %s AND %s AND n.seq < %s",
                *(first, dates[0], size, *dates, size),
            )


async def test_the_largest_hall_fits_through_a_channel() -> None:
    store = FakeConcertStore()
    seats = [Seat(2 * n, 1, "🎟" * 16, Decimal("9999999999.99")) for n in range(1, 65_537)]
    await store.add(Concert(1, "C"), {Schedule(1, 1, today(), len(seats)): seats})
    server = aio.server(interceptors=[CallInterceptor(30.0)])
    servicer = ConcertServicer(ConcertService(store), SeatMapService(store))
    concert_pb2_grpc.add_ConcertServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    address = f"127.0.0.1:{port}"
    request = concert_pb2.GetSeatMapsRequest(schedule_ids=[1])
    async with client.connect(address, max_response_bytes=MAX_RESPONSE_BYTES) as channel:
        stub = concert_pb2_grpc.ConcertServiceStub(channel)
        response = await client.call(stub.GetSeatMaps, request, budget=30)
    assert response.ByteSize() > client.DEFAULT_MAX_RESPONSE_BYTES
    assert len(response.layouts[0].seat_nums) == 65_536
    async with client.connect(address) as channel:
        stub = concert_pb2_grpc.ConcertServiceStub(channel)
        with pytest.raises(RemoteError):
            await client.call(stub.GetSeatMaps, request, budget=30)
    await server.stop(None)


def check(_: SeatMapStore) -> None:
    """Makes mypy compare both stores with the Protocol."""


check(FakeConcertStore())
