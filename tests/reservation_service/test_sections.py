"""Sections, and places of general admission, among the best available seats."""

import asyncio
import random
from collections import Counter
from dataclasses import replace

import pytest

from reservation_service.best_seats import Hall, Wish
from reservation_service.domain import BestAvailable, Reservation
from reservation_service.errors import NotEnoughSeats
from reservation_service.seat_search import ATTEMPTS
from servicekit.mysql import Database
from tests.fakes.reservation import (
    SEATS_PER_SCHEDULE,
    FakeReservationStore,
    FakeSeatDirectory,
    UselessLocks,
)
from tests.reservation_service.conftest import ids, make_service, new_seats, schedule_of
from tests.reservation_service.test_best_available_races import CountingStore
from tests.reservation_service.test_best_seats import (
    SmallHall,
    best_by_brute_force,
    needless_by_brute_force,
    small_hall,
)

# Row 0 has 120 places of general admission, rows 1 and 2 have 15 seats each.
CLUB = Hall(
    [0] * 120 + [1] * 15 + [2] * 15,
    [*range(1, 121), *range(1, 16), *range(1, 16)],
    ["Standing"] * 120 + ["Balcony"] * 30,
    [False] * SEATS_PER_SCHEDULE,
    ["Floor", "Left", "Right"],
    {0},
)


def halls(chance: random.Random, *, taken: tuple[float, ...]) -> SmallHall:
    """Some rows are areas of general admission."""
    hall = small_hall(chance, rows=4, places=7, taken=chance.choice(taken))
    rows = range(max(row for row, _ in hall.places) + 1)
    general = frozenset(row for row in rows if chance.random() < 0.4)
    sections = tuple(f"area {row}" if row in general else chance.choice("XY") for row in rows)
    return replace(hall, sections=sections, general=general)


@pytest.mark.parametrize("split", [False, True])
def test_the_best_of_3000_small_halls_with_areas(split: bool) -> None:
    chance = random.Random(16)
    kinds: Counter[str] = Counter()
    for _ in range(1000 if split else 3000):
        hall = halls(chance, taken=(0.0, 0.3, 0.6))
        section = chance.choice(("", "", "", *set(hall.sections), "Z"))
        category = chance.choice(("", "", "A"))
        wish = Wish(chance.randint(1, 5), category, chance.random() < 0.2, split, section)
        best = best_by_brute_force(hall, wish)
        assert hall.best(wish) == best, (hall, wish)
        kinds["none" if best is None else "area" if hall.is_general(best[0]) else "seats"] += 1
    assert min(kinds.values()) > 100, kinds


def test_places_are_never_single() -> None:
    chance = random.Random(17)
    found = 0
    for _ in range(2000):
        hall = halls(chance, taken=(0.0, 0.3))
        if not hall.free:
            continue
        count = chance.randint(1, min(len(hall.free), 4))
        chosen = frozenset(chance.sample(sorted(hall.free), count))
        assert hall.left_single(chosen) == needless_by_brute_force(hall, chosen), (hall, chosen)
        found += any(map(hall.is_general, chosen))
    assert found > 500


async def test_places_are_assigned_in_order() -> None:
    service = make_service(
        FakeReservationStore(), directory=FakeSeatDirectory(hall=CLUB), refuse_single_seats=True
    )
    first, *_ = new_seats(1)

    async def hold(wish: Wish) -> list[int]:
        best = BestAvailable(schedule_of(first), wish)
        held = await service.hold_best_available(next(ids), best, "")
        return [seat.id - first for seat in held.seats]

    assert await hold(Wish(2, section="Floor")) == [0, 1]
    # Somebody chose places, and left one between them.
    await service.hold_seats(next(ids), [first + 2, first + 4], "")
    assert await hold(Wish(3, section="Floor")) == [3, 5, 6]
    assert await hold(Wish(2, section="Right")) == [135 + 6, 135 + 7]
    # The best row is the floor's.
    assert await hold(Wish(1)) == [7]
    assert await hold(Wish(1, price_category="Balcony")) == [120 + 7]
    for missing in (
        Wish(16, section="Left"),
        Wish(1, section="left"),
        Wish(1, "Balcony", section="Floor"),
    ):
        with pytest.raises(NotEnoughSeats):
            await hold(missing)


async def test_a_key_is_of_a_section() -> None:
    service = make_service(FakeReservationStore(), directory=FakeSeatDirectory(hall=CLUB))
    schedule = schedule_of(new_seats(1)[0])
    wishes = [Wish(1), Wish(1, section="Floor"), Wish(1, section="Left"), Wish(1, "Floor")]
    assert len({BestAvailable(schedule, wish).request for wish in wishes}) == len(wishes)
    user = next(ids)
    best = BestAvailable(schedule, wishes[1])
    held = [await service.hold_best_available(user, best, "key") for _ in range(2)]
    assert held[0].id == held[1].id


async def test_300_buyers_of_places_at_two_services(mysql_urls: dict[str, str]) -> None:
    """Nobody is refused while there are places, and the last one is sold."""
    directory = FakeSeatDirectory(hall=CLUB)
    url = mysql_urls["reservation"]
    async with (
        Database(url, max_size=8, acquire_timeout=10.0) as one,
        Database(url, max_size=8, acquire_timeout=10.0) as two,
    ):
        stores = [CountingStore(one), CountingStore(two)]
        services = [
            make_service(store, directory=directory, locks=UselessLocks()) for store in stores
        ]
        schedule = schedule_of(new_seats(1)[0])
        best = BestAvailable(schedule, Wish(1, section="Floor"))
        first_user = next(ids) * 1000
        results = await asyncio.gather(
            *(services[n % 2].hold_best_available(first_user + n, best, "") for n in range(300)),
            return_exceptions=True,
        )
        claims = await stores[0].claims(schedule)
    held = [each for each in results if isinstance(each, Reservation)]
    assert {type(each) for each in results} == {Reservation, NotEnoughSeats}
    assert len(held) == len(claims) == 120
    attempts = stores[0].attempts + stores[1].attempts
    assert max(attempts.values()) < ATTEMPTS
