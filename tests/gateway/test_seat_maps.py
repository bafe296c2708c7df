"""Seat maps that are formatted from packed facts, and their cache."""

import asyncio
import json
import math
import random
from collections.abc import Sequence

import pytest

from gateway.errors import ScheduleNotFound
from gateway.seat_maps import FormattedSeats, SeatMaps
from protos.frontrow.concert.v1 import concert_pb2
from servicekit.errors import Unavailable
from tests.gateway.fakes.concerts import runs, seat_layout
from tests.virtual_time import run

Seats = list[concert_pb2.Seat]


def seats_of(dice: random.Random, schedule_id: int, first_id: int, count: int) -> Seats:
    """Seats of a date: ids in any order, names and prices of any form."""
    ids = list(range(first_id, first_id + count))
    if dice.random() < 0.5:
        ids = dice.sample(range(first_id, first_id + 3 * count), count)
    names = ['"', "\\", "%", "%d", "%%d", '","status":"AVAILABLE"', '"id":%d', "é🎟", "A1"]
    return [
        concert_pb2.Seat(
            id=seat_id,
            schedule_id=schedule_id,
            seat_num=dice.choice(names) + str(number),
            price=f"{dice.randrange(3)}.50",
        )
        for number, seat_id in enumerate(ids)
    ]


class Concerts:
    """Answers like concert_service: those that are asked for, then others, `most` in all."""

    def __init__(self, dates: dict[int, Seats], most: int = 100) -> None:
        self.dates = dates
        self.most = most
        self.asked: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def load(self, schedule_ids: Sequence[int]) -> concert_pb2.GetSeatMapsResponse:
        self.asked.append(list(schedule_ids))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        known = [schedule_id for schedule_id in schedule_ids if schedule_id in self.dates]
        others = [schedule_id for schedule_id in self.dates if schedule_id not in known]
        response = concert_pb2.GetSeatMapsResponse(more=len(known) > self.most)
        for schedule_id in [*known, *others][: self.most]:
            seats = self.dates[schedule_id]
            layout = seat_layout(seats)
            if layout not in response.layouts:
                response.layouts.append(layout)
            response.seat_maps.add(
                schedule_id=schedule_id,
                layout=list(response.layouts).index(layout),
                runs=runs([seat.id for seat in seats]),
            )
        return response


def cache(
    concerts: Concerts, *, ttl: float = 60.0, max_bytes: int = 10**6, limit: float = math.inf
) -> SeatMaps:
    return SeatMaps(concerts.load, ttl=ttl, max_bytes=max_bytes, limit=lambda: limit, budget=5.0)


def hall(schedule_id: int, prefix: str = "A") -> Seats:
    """The seats of a date of a hall with 150 seats."""
    return [
        concert_pb2.Seat(
            id=1000 * schedule_id + number,
            seat_num=f"{prefix}{number}",
            price=f"{100 + number % 3}.00",
        )
        for number in range(150)
    ]


def model(seats: Seats, held: set[int], sold: set[int]) -> dict[str, object]:
    def status(seat_id: int) -> str:
        return "SOLD" if seat_id in sold else "HELD" if seat_id in held else "AVAILABLE"

    return {
        "seats": [
            {"id": s.id, "seatNum": s.seat_num, "price": s.price, "status": status(s.id)}
            for s in seats
        ],
        "currency": "KRW",
    }


@pytest.mark.parametrize("seed", range(200))
async def test_the_json_is_that_of_a_plain_model(seed: int) -> None:
    dice = random.Random(seed)
    dates = {n: seats_of(dice, n, 10**12 * n + 1, dice.choice([0, 1, 5, 40])) for n in range(1, 4)}
    maps = cache(Concerts(dates))
    for schedule_id, seats in dates.items():
        ids = [seat.id for seat in seats]
        for share in (0, 0, 0.1, 1):
            taken = {seat_id for seat_id in ids if dice.random() < share}
            held = {seat_id for seat_id in taken if dice.random() < 0.5}
            # Seats of another date, or that were removed, have no effect.
            held.add(5)
            body = (await maps.get(schedule_id)).to_json(held, taken - held)
            assert json.loads(body) == model(seats, held, taken - held)


async def test_one_call_brings_all_dates_of_a_concert() -> None:
    concerts = Concerts({n: hall(n) for n in range(1, 101)})
    maps = cache(concerts)
    found = [await maps.get(schedule_id) for schedule_id in range(1, 101)]
    assert concerts.asked == [[1]]
    assert len({id(seats.format) for seats in found}) == 1
    assert [seats.seat_map.id_at(7) for seats in found] == [1000 * n + 7 for n in range(1, 101)]


async def test_a_crowd_shares_calls_and_asks_for_no_date_twice() -> None:
    concerts = Concerts({n: hall(n) for n in range(1, 11)}, most=3)
    maps = cache(concerts)
    concerts.gate.clear()
    crowd = [asyncio.create_task(maps.get(n % 10 + 1)) for n in range(100)]
    await asyncio.sleep(0.01)
    assert len(concerts.asked) == 1
    concerts.gate.set()
    found = await asyncio.gather(*crowd)
    assert [seats.seat_map.id_at(0) for seats in found] == [1000 * (n % 10 + 1) for n in range(100)]
    # The first call asks for one date and brings three; the others are asked for in threes.
    assert len(concerts.asked) <= 1 + 3
    assert all(len(set(asked)) == len(asked) for asked in concerts.asked)


async def test_an_unknown_date_fails_alone_and_is_not_remembered() -> None:
    concerts = Concerts({1: hall(1)})
    maps = cache(concerts)
    results = await asyncio.gather(*map(maps.get, (1, 2, 1, 3)), return_exceptions=True)
    assert [type(result) for result in results] == [
        FormattedSeats,
        ScheduleNotFound,
        FormattedSeats,
        ScheduleNotFound,
    ]
    concerts.dates[2] = hall(2)
    assert (await maps.get(2)).seat_map.id_at(0) == 2000


async def test_a_failure_reaches_those_who_wait_and_is_not_remembered() -> None:
    concerts = Concerts({1: hall(1)})
    maps = cache(concerts)
    concerts.error = Unavailable("down")
    results = await asyncio.gather(*map(maps.get, (1, 1)), return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable, Unavailable]
    concerts.error = None
    assert (await maps.get(1)).seat_map.id_at(0) == 1000


def test_what_is_used_is_read_again_before_it_expires_and_nobody_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        concerts = Concerts({n: hall(n) for n in range(1, 11)})
        maps = cache(concerts, ttl=1.0)
        await maps.get(1)
        concerts.dates[2] = hall(50)
        await asyncio.sleep(0.85)
        # For one date of many, once.
        for schedule_id in range(1, 11):
            assert maps.cached(schedule_id) is not None
        await asyncio.sleep(0.05)
        assert len(concerts.asked) == 2
        fresh = maps.cached(2)
        assert fresh is not None
        assert fresh.seat_map.id_at(0) == 50_000
        await asyncio.sleep(0.21)
        assert maps.cached(1) is not None, "its time has begun anew"

    run(main(), monkeypatch)


def test_what_cannot_be_read_again_stays_until_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        concerts = Concerts({1: hall(1)})
        maps = cache(concerts, ttl=1.0)
        await maps.get(1)
        concerts.error = Unavailable("down")
        await asyncio.sleep(0.85)
        for _ in range(3):
            assert maps.cached(1) is not None
            await asyncio.sleep(0.01)
        assert len(concerts.asked) == 2
        await asyncio.sleep(0.15)
        with pytest.raises(Unavailable):
            await maps.get(1)

    run(main(), monkeypatch)


def test_what_could_not_be_read_again_is_tried_again_after_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        concerts = Concerts({1: hall(1)})
        maps = cache(concerts, ttl=30.0)
        await maps.get(1)
        concerts.error = Unavailable("down")
        await asyncio.sleep(25)
        for _ in range(10):
            assert maps.cached(1) is not None
            await asyncio.sleep(0.05)
        assert len(concerts.asked) == 2
        concerts.error = None
        await asyncio.sleep(1)
        assert maps.cached(1) is not None
        await asyncio.sleep(10)
        assert len(concerts.asked) == 3
        assert maps.cached(1) is not None, "its time has begun anew"

    run(main(), monkeypatch)


async def test_a_layout_that_responses_share_counts_once() -> None:
    dates = {
        n: [concert_pb2.Seat(id=1000 * n + i, seat_num=f"A{i}", price="1.00") for i in range(150)]
        for n in range(1, 51)
    }
    concerts = Concerts(dates, most=1)
    # A layout takes 24 kB, and a date 0.6.
    maps = cache(concerts, max_bytes=60_000)
    for schedule_id in dates:
        await maps.get(schedule_id)
    assert all(maps.cached(schedule_id) for schedule_id in dates)
    while maps._loaded:
        maps._drop(maps._loaded.popleft())
    assert maps._weight == 0


@pytest.mark.parametrize(("ttl", "limit"), [(0.2, math.inf), (60.0, 0.2)])
def test_nothing_outlives_its_time_or_the_day(
    ttl: float, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        concerts = Concerts({1: hall(1)})
        maps = cache(concerts, ttl=ttl, limit=limit)
        await maps.get(1)
        assert maps.cached(1) is not None
        concerts.dates[1] = hall(9)
        await asyncio.sleep(0.21)
        assert maps.cached(1) is None
        assert (await maps.get(1)).seat_map.id_at(0) == 9000

    run(main(), monkeypatch)


async def test_without_a_time_nothing_is_kept() -> None:
    concerts = Concerts({1: hall(1)})
    maps = cache(concerts, ttl=0)
    for _ in range(2):
        assert (await maps.get(1)).seat_map.id_at(0) == 1000
    assert maps.cached(1) is None
    assert concerts.asked == [[1], [1]]


async def test_the_oldest_make_room() -> None:
    concerts = Concerts({n: hall(n, f"{n}-") for n in range(1, 51)}, most=1)
    # A date takes 24 kB with its layout, which is no other's.
    maps = cache(concerts, max_bytes=300_000)
    for schedule_id in range(1, 51):
        await maps.get(schedule_id)
    kept = [n for n in range(1, 51) if maps.cached(n)]
    assert 8 <= len(kept) <= 15
    assert kept == list(range(51 - len(kept), 51))
    assert maps._weight <= 300_000
    # One that is larger by itself is not kept, and is returned all the same.
    maps = cache(concerts, max_bytes=1_000)
    assert (await maps.get(1)).seat_map.id_at(0) == 1000
    assert (maps.cached(1), maps._weight) == (None, 0)


async def test_a_date_that_was_loaded_again_stays_when_its_older_copy_goes() -> None:
    concerts = Concerts({n: hall(n, f"{n}-") for n in range(1, 4)}, most=2)
    maps = cache(concerts, max_bytes=60_000)
    await maps.get(1)  # brings 2
    concerts.most = 1
    maps._seats.pop(2)
    await maps.get(2)
    await maps.get(3)  # in the place of 1 and the older 2
    assert [n for n in (1, 2, 3) if maps.cached(n)] == [2, 3]


async def test_a_map_with_another_number_of_ids_than_seats_is_refused() -> None:
    async def load(_: Sequence[int]) -> concert_pb2.GetSeatMapsResponse:
        response = await Concerts({1: hall(1)}).load([1])
        response.seat_maps[0].runs[0].count -= 1
        return response

    maps = SeatMaps(load, ttl=60, max_bytes=10**6, limit=lambda: math.inf, budget=5)
    with pytest.raises(ValueError, match="another number of seats"):
        await maps.get(1)
