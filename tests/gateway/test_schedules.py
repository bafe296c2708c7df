"""The dates of concerts and their states: who waits for a call, and how many calls there are."""

import asyncio
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic_core import from_json

from gateway import schedules as schedules_module
from gateway.schedules import Schedules
from protos.frontrow.concert.v1 import concert_pb2
from protos.frontrow.reservation.v1 import reservation_pb2
from servicekit.errors import NotFound, ServiceError, Unavailable

TTL = 5.0


class Services:
    """Every concert has `per_concert` dates of one seat: 1000 * concert + n. Concert 0 does not
    exist."""

    def __init__(self) -> None:
        self.per_concert = 100
        self.sold: set[int] = set()
        self.listed: list[int] = []
        self.counts: list[list[int]] = []
        self.error: ServiceError | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def ListSchedules(
        self, request: concert_pb2.ListSchedulesRequest, **_: object
    ) -> concert_pb2.ListSchedulesResponse:
        self.listed.append(request.concert_id)
        if not request.concert_id:
            raise NotFound("There is no such concert.")
        first = 1000 * request.concert_id
        response = concert_pb2.ListSchedulesResponse()
        for n in range(self.per_concert):
            response.schedules.add(id=first + n, date="2026-12-24", seat_count=1)
        return response

    async def CountSoldSeats(
        self, request: reservation_pb2.CountSoldSeatsRequest, **_: object
    ) -> reservation_pb2.CountSoldSeatsResponse:
        self.counts.append(list(request.schedule_ids))
        sold = self.sold & set(request.schedule_ids)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return reservation_pb2.CountSoldSeatsResponse(sold_by_schedule=dict.fromkeys(sold, 1))

    def counted(self) -> list[list[int]]:
        """The concerts of each call since the last question."""
        calls, self.counts = self.counts, []
        return [sorted({schedule_id // 1000 for schedule_id in call}) for call in calls]


class Clock:
    """What `gateway.schedules` takes for time.monotonic()."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def services() -> Services:
    return Services()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(schedules_module, "time", clock)
    return clock


def opened(services: Services, ttl: float = TTL, limit: float = math.inf) -> Schedules:
    clients = cast(Any, SimpleNamespace(concert=services, reservation=services))
    return Schedules(clients, facts_ttl=30, ttl=ttl, budget=5.0, limit=lambda: limit)


def sold_out(body: bytes | None) -> list[int]:
    assert body is not None
    dates = from_json(body)["schedules"]
    return [date["id"] for date in dates if date["status"] == "SOLD_OUT"]


async def settle() -> None:
    """Lets calls in progress end: none of them waits for anything but the event loop."""
    for _ in range(20):
        await asyncio.sleep(0)


async def load_one_by_one(schedules: Schedules, concert_ids: Sequence[int]) -> None:
    for concert_id in concert_ids:
        await schedules.get(concert_id)
        assert schedules.cached(concert_id) is not None


async def test_a_crowd_waits_for_few_calls(services: Services) -> None:
    schedules = opened(services)
    services.sold = {7_003}
    services.gate.clear()
    crowd = [asyncio.create_task(schedules.get(1))]
    await settle()
    crowd += [asyncio.create_task(schedules.get(n)) for n in range(1, 26) for _ in range(4)]
    await settle()
    services.gate.set()
    bodies = await asyncio.gather(*crowd)
    assert [len(from_json(body)["schedules"]) for body in bodies] == [100] * 101
    assert [sold_out(body) for body in bodies].count([7_003]) == 4
    assert max(len(call) for call in services.counts) <= 1_000
    # By then the second batch waited: the rest of 25 concerts, 10 at a time.
    assert services.counted()[0] == [1]
    assert sorted(services.listed) == list(range(1, 26)), "each once"


async def test_concerts_in_use_are_counted_again_together_and_nobody_waits(
    services: Services, clock: Clock
) -> None:
    schedules = opened(services)
    await load_one_by_one(schedules, range(1, 31))
    assert services.counted() == [[n] for n in range(1, 31)]
    clock.now += 0.49 * TTL
    assert schedules.cached(30) is not None
    await settle()
    assert services.counted() == [], "not before half of the time"
    services.sold = {30_001}
    clock.now += 0.35 * TTL
    for concert_id in range(1, 31):
        assert schedules.cached(concert_id) is not None
        await settle()
    calls = services.counted()
    assert [len(call) for call in calls] == [10, 10, 10]
    assert sorted(n for call in calls for n in call) == list(range(1, 31)), "each once"
    assert sold_out(schedules.cached(30)) == [30_001]
    # These stay together.
    clock.now += 0.85 * TTL
    for concert_id in range(1, 31):
        assert schedules.cached(concert_id) is not None
        await settle()
    assert [len(call) for call in services.counted()] == [10, 10, 10]


async def test_a_concert_that_nobody_asks_for_is_not_counted_again(
    services: Services, clock: Clock
) -> None:
    schedules = opened(services)
    await schedules.get(1)
    await load_one_by_one(schedules, [2, 3])
    services.counted()
    clock.now += 0.9 * TTL
    assert schedules.cached(2) is not None
    await settle()
    assert services.counted() == [[2, 3]]


async def test_states_are_at_most_as_old_as_their_time_from_the_call_on(
    services: Services, clock: Clock
) -> None:
    schedules = opened(services)
    services.gate.clear()
    load = asyncio.create_task(schedules.get(1))
    await settle()
    services.sold = {1_000}
    clock.now += 0.4 * TTL
    services.gate.set()
    assert sold_out(await load) == []
    services.error = Unavailable("down")
    clock.now += 0.59 * TTL
    assert sold_out(schedules.cached(1)) == []
    await settle()
    clock.now += 0.02 * TTL
    assert schedules.cached(1) is None
    with pytest.raises(Unavailable):
        await schedules.get(1)
    services.error = None
    assert sold_out(await schedules.get(1)) == [1_000]


async def test_a_count_that_failed_is_not_tried_again_before_the_value_has_expired(
    services: Services, clock: Clock
) -> None:
    schedules = opened(services)
    await load_one_by_one(schedules, [1, 2])
    services.counted()
    services.error = Unavailable("down")
    clock.now += 0.9 * TTL
    for _ in range(5):
        assert schedules.cached(1) is not None
        assert schedules.cached(2) is not None
        await settle()
    assert services.counted() == [[1, 2]]


async def test_one_count_at_a_time_runs_ahead(services: Services, clock: Clock) -> None:
    schedules = opened(services)
    services.per_concert = 600
    await load_one_by_one(schedules, [1, 2])
    services.counted()
    services.gate.clear()
    clock.now += 0.9 * TTL
    for _ in range(3):
        assert schedules.cached(1) is not None
        assert schedules.cached(2) is not None
        await settle()
    assert services.counted() == [[1]], "two have more dates than a call counts"
    services.gate.set()
    await settle()
    assert schedules.cached(2) is not None
    await settle()
    assert services.counted() == [[2]]


async def test_a_concert_that_does_not_exist_fails_by_itself(services: Services) -> None:
    schedules = opened(services)
    results = await asyncio.gather(*map(schedules.get, [1, 0, 2]), return_exceptions=True)
    assert [type(result) for result in results] == [bytes, NotFound, bytes]
    assert services.counted() == [[1, 2]]


async def test_a_failed_count_reaches_all_that_wait_for_it(services: Services) -> None:
    schedules = opened(services)
    services.error = Unavailable("down")
    results = await asyncio.gather(*map(schedules.get, [1, 0, 2]), return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable, NotFound, Unavailable]


async def test_the_limit_of_the_owner_shortens_the_time(services: Services, clock: Clock) -> None:
    schedules = opened(services, limit=1.0)
    await schedules.get(1)
    clock.now += 0.99
    assert schedules.cached(1) is not None
    clock.now += 0.02
    assert schedules.cached(1) is None


async def test_no_time_means_that_nothing_is_known(services: Services) -> None:
    schedules = opened(services, ttl=0)
    for _ in range(3):
        await schedules.get(1)
        assert schedules.cached(1) is None
    assert services.counted() == [[1]] * 3
    assert services.listed == [1]


async def test_the_oldest_make_room(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules_module, "_STATES_BYTES", 20_000)
    schedules = opened(services)
    await load_one_by_one(schedules, range(1, 11))
    cached = [n for n in range(1, 11) if schedules.cached(n) is not None]
    assert cached == list(range(11 - len(cached), 11))
    assert 2 <= len(cached) <= 5
