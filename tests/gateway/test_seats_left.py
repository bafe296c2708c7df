"""The number of seats that are left behind a room, and the end of its sale."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from gateway import seats_left as seats_left_module
from gateway.catalogue import Catalogue
from gateway.room import notice as notice_module
from gateway.room.notice import Notice, rounded_down
from gateway.rooms import Rooms
from gateway.schedule_dates import Date
from gateway.seats_left import SeatsLeft
from protos.frontrow.concert.v1 import catalogue_pb2
from protos.frontrow.queue.v1 import queue_pb2
from protos.frontrow.reservation.v1 import reservation_pb2
from servicekit.errors import Unavailable
from tests.gateway.polling import until

OPEN = queue_pb2.ROOM_PHASE_OPEN


class FakeRooms:
    """Two rooms, of which only the notices matter."""

    def __init__(self) -> None:
        self.on_polled: Callable[[], None] = lambda: None
        self.rooms = {name: SimpleNamespace(name=name, notice=Notice()) for name in ("main", "vip")}
        for room in self.rooms.values():
            room.notice.on_wanted = lambda: self.on_polled()

    def __iter__(self) -> Iterator[SimpleNamespace]:
        return iter(self.rooms.values())

    def keep_only(self, _: object) -> None: ...

    def poll(self, name: str, phase: int = OPEN) -> dict[str, object]:
        members: bytes = self.rooms[name].notice.members(phase)
        return cast(dict[str, object], json.loads(b'{"order":1' + members + b"}"))


class Sale:
    """Dates and their sold seats, and how often they were counted."""

    def __init__(self) -> None:
        self.dates = {
            1: [Date(11, "2027-03-14", 100, 0)],
            2: [Date(21, "2027-03-14", 1_500, 0)],
            3: [],
        }
        self.counts = reservation_pb2.CountSoldSeatsResponse()
        self.counted: list[Sequence[int]] = []
        self.listed: set[int] = set()
        self.error: Exception | None = None

    async def list_dates(self, concert_id: int) -> Sequence[Date]:
        self.listed.add(concert_id)
        return self.dates[concert_id]

    async def count(self, ids: Sequence[int]) -> reservation_pb2.CountSoldSeatsResponse:
        self.counted.append(ids)
        if self.error is not None:
            raise self.error
        return self.counts


@pytest.fixture
def sale() -> Sale:
    return Sale()


@pytest.fixture
async def rooms(sale: Sale, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeRooms]:
    """Concerts 1 and 3 are behind `vip`, concert 2 behind `main`. Counts every 10 ms."""
    monkeypatch.setattr(seats_left_module, "_PAUSE_SECONDS", 0.01)
    rooms = FakeRooms()
    catalogue = Catalogue(cast(object, None), cast(Rooms, rooms))  # type: ignore[arg-type]
    left = SeatsLeft(cast(Rooms, rooms), catalogue, sale.list_dates, sale.count, facts_ttl=0)
    catalogue.apply(
        catalogue_pb2.WatchCatalogueResponse(
            concerts=[
                catalogue_pb2.CatalogueConcert(
                    id=id, room=room, status=catalogue_pb2.EVENT_STATUS_PUBLISHED, schedule_ids=[1]
                )
                for id, room in ((1, "vip"), (2, "main"), (3, "vip"))
            ]
        )
    )
    running = asyncio.create_task(left.run())
    yield rooms
    running.cancel()


async def test_nothing_is_counted_while_nobody_polls(
    rooms: FakeRooms, sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.sleep(0.05)
    assert not sale.counted
    assert "seatsLeft" not in rooms.poll("vip")  # nobody waits for the first number
    await until(lambda: rooms.poll("vip").get("seatsLeft") == 100)
    assert {tuple(ids) for ids in sale.counted} == {(11,)}  # nobody polls main
    monkeypatch.setattr(seats_left_module, "_POLLED_SECONDS", 0.0)
    await asyncio.sleep(0.05)
    counted = len(sale.counted)
    await asyncio.sleep(0.1)
    assert len(sale.counted) <= counted + 1


async def test_rooms_are_counted_together(rooms: FakeRooms, sale: Sale) -> None:
    rooms.poll("main")
    rooms.poll("vip")
    await until(lambda: rooms.poll("main").get("seatsLeft") == 1_500)
    assert sorted(sale.counted[-1]) == [11, 21]


async def test_what_the_house_has_and_closed_dates_do_not_count(
    rooms: FakeRooms, sale: Sale
) -> None:
    now_ms = int(time.time() * 1000)
    sale.dates[1] += [
        Date(12, "2027-03-15", 50, 0),
        Date(13, "2027-03-16", 60, now_ms - 1),
        Date(14, "2027-03-17", 7, now_ms + 600_000),
    ]
    sale.counts.sold_by_schedule.update({11: 30})
    sale.counts.blocked_by_schedule.update({11: 20, 12: 10})
    sale.counts.closed_schedules.append(12)
    rooms.poll("vip")
    await until(lambda: rooms.poll("vip").get("seatsLeft") == 100 - 30 - 20 + 7)


async def test_sold_out_is_said_to_who_waits_and_ends_with_a_returned_seat(
    rooms: FakeRooms, sale: Sale
) -> None:
    sale.counts.sold_by_schedule.update({11: 90})
    sale.counts.blocked_by_schedule.update({11: 10})
    rooms.poll("vip")
    await until(lambda: rooms.poll("vip")["phase"] == "SOLD_OUT")
    assert rooms.poll("vip")["seatsLeft"] == 0
    assert rooms.poll("vip", queue_pb2.ROOM_PHASE_CLOSED)["phase"] == "CLOSED"
    assert rooms.poll("main")["phase"] == "OPEN"
    sale.counts.sold_by_schedule.update({11: 89})
    await until(lambda: rooms.poll("vip")["phase"] == "OPEN")
    assert rooms.poll("vip")["seatsLeft"] == 1


async def test_a_sale_without_a_seat_for_sale_is_not_sold_out(rooms: FakeRooms, sale: Sale) -> None:
    sale.counts.blocked_by_schedule.update({11: 100})
    rooms.poll("vip")
    await until(lambda: rooms.poll("vip").get("seatsLeft") == 0)
    assert rooms.poll("vip")["phase"] == "OPEN"


async def test_a_number_is_at_most_two_seconds_old(
    rooms: FakeRooms, sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notice_module, "COUNT_SECONDS", 0.1)
    rooms.poll("vip")
    await until(lambda: rooms.poll("vip").get("seatsLeft") == 100)
    sale.error = Unavailable("away")
    await until(lambda: "seatsLeft" not in rooms.poll("vip"))
    sale.error = None
    await until(lambda: rooms.poll("vip").get("seatsLeft") == 100)


async def test_a_room_in_front_of_a_whole_catalogue_has_no_number(
    rooms: FakeRooms, sale: Sale
) -> None:
    sale.dates[1] = [Date(n, "2027-03-14", 10, 0) for n in range(1, 1_002)]
    rooms.poll("vip")
    rooms.poll("main")
    await until(lambda: rooms.poll("main").get("seatsLeft") == 1_500)
    assert "seatsLeft" not in rooms.poll("vip")
    assert sale.listed == {1, 2}, "the dates of the other concert are not needed"


@pytest.mark.parametrize(
    ("seats", "said"),
    [(0, 0), (1, 1), (57, 57), (99, 99), (100, 100), (129, 120), (999, 990), (19_999, 19_000)],
)
def test_a_number_is_rounded_down_to_two_digits(seats: int, said: int) -> None:
    assert rounded_down(seats) == said
