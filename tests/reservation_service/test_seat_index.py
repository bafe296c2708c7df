"""The index of seat maps against a model that looks at every seat."""

import random

import pytest

from reservation_service.seat_index import Lease, SeatIndex
from seat_maps.decoding import SeatMapDecoder
from seat_maps.layout import SeatLayout
from seat_maps.seat_map import SeatMap
from tests.seat_maps.test_seat_maps import hall, response_of

LEASE = Lease(1.0, 2.0)


def layout_of(seats: int) -> SeatLayout:
    (seat_map,) = SeatMapDecoder().decode(response_of(hall(1, 1, seats)))
    return seat_map.layout


LAYOUTS = {size: layout_of(size) for size in range(1, 13)}


def map_of(schedule_id: int, ids: list[int]) -> SeatMap:
    return SeatMap(schedule_id, LAYOUTS[len(ids)], [(id, 1) for id in ids])


@pytest.mark.parametrize("seed", range(40))
def test_every_seat_is_found_in_its_schedule(seed: int) -> None:
    """Ids of one schedule that follow one another, interleave with those of others, or are far
    from each other; schedules are replaced and evicted meanwhile."""
    chance = random.Random(seed)
    index = SeatIndex(10**6)
    model: dict[int, list[int]] = {}
    free = [*range(1, 200), *range(5_000, 5_200), 10**6, 10**6 + 1]
    chance.shuffle(free)
    for step in range(30):
        schedule = chance.randrange(1, 12)
        free += model.pop(schedule, [])
        if chance.random() < 0.5:
            free.sort()
        ids = [free.pop() for _ in range(chance.randrange(1, 13))]
        model[schedule] = ids
        index.put([map_of(schedule, ids)], LEASE)
        if step % 10 == 9:
            index.evict(1.5)
        owner = {id: of for of, ids in model.items() for id in ids}
        for id in [*owner, *chance.sample(free, 20), 0, 10**7]:
            found = index.of_seat(id)
            if id in owner:
                assert found is not None
                assert found[0].seat_map.schedule_id == owner[id]
                assert found[0].seat_map.id_at(found[1]) == id
            else:
                assert found is None
    index.evict(2.0)
    assert len(index) == 0
    assert index._bytes == 0
    assert not index._starts
    assert not index._layouts


def test_the_oldest_maps_are_evicted_above_the_limit() -> None:
    sizes = 3 * 612 + 80 * 12
    index = SeatIndex(sizes)
    maps = [SeatMap(n, LAYOUTS[12], [(n * 100, 12)]) for n in range(1, 6)]
    index.put(maps[:3], LEASE)
    index.evict(0)
    assert len(index) == 3
    # Put again, the first one is the youngest.
    index.put([maps[0], maps[3]], Lease(1, 3))
    index.evict(0)
    kept = {n for n in range(1, 6) if index.of_schedule(n)}
    assert kept == {1, 3, 4}
    assert index.of_seat(205) is None
    index.evict(2.5)
    assert {n for n in range(1, 6) if index.of_schedule(n)} == {1, 4}
    # Another layout takes the room of several maps.
    index.put([SeatMap(9, LAYOUTS[11], [(900, 11)])], Lease(1, 3))
    index.evict(0)
    assert {n for n in range(1, 10) if index.of_schedule(n)} == {9}


@pytest.mark.parametrize("stride", [1, 3])
def test_ten_thousand_dates_are_found_in_few_steps(stride: int) -> None:
    index = SeatIndex(10**8)
    layout = layout_of(150)
    for n in range(10_000):
        first = 1 + n * 150 * stride
        runs = [(first, 150)] if stride == 1 else [(first + 3 * i, 1) for i in range(150)]
        index.put([SeatMap(n, layout, runs)], LEASE)
    assert len(index._starts) == 10_000
    found = index.of_seat(1 + 150 * stride * 7_777 + stride * 149)
    assert found is not None
    assert (found[0].seat_map.schedule_id, found[1]) == (7_777, 149)
    assert index.of_seat(10**12) is None
