"""Crowds that ask for the best available seats of one date, on MariaDB and Redis."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest
from redis.asyncio import Redis

from reservation_service.best_seats import Wish
from reservation_service.domain import BestAvailable, Hold, HoldTerms, Reservation
from reservation_service.errors import NotEnoughSeats
from reservation_service.locks import RedisSeatLocks
from reservation_service.ports import HoldResult, SeatLocks
from reservation_service.seat_search import ATTEMPTS
from reservation_service.service import ReservationService
from servicekit import redis_client
from servicekit.mysql import Database
from tests.fakes.reservation import UselessLocks
from tests.fakes.reservation.seats import FakeSeatMap
from tests.reservation_service.conftest import (
    RealReservationStore,
    ids,
    make_service,
    new_seats,
    schedule_of,
)

BUYERS = 300


class CountingStore(RealReservationStore):
    """Counts the holds of each user."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.attempts: Counter[int] = Counter()

    async def hold_group(
        self, holds: Sequence[Hold], terms: HoldTerms, *, contended: bool = False
    ) -> Sequence[HoldResult]:
        self.attempts.update(hold.user_id for hold in holds)
        return await super().hold_group(holds, terms, contended=contended)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    # Patient, so that a slow test machine does not turn locks off.
    async with redis_client.connect(redis_url, timeout=5.0) as client:
        yield client
        await client.connection_pool.disconnect()


@pytest.fixture(params=["redis locks", "useless locks"])
async def stores_and_services(
    request: pytest.FixtureRequest, mysql_urls: dict[str, str], redis: Redis
) -> AsyncIterator[tuple[list[CountingStore], list[ReservationService]]]:
    """Two instances of reservation_service, each with its connections."""
    urls = [mysql_urls["reservation"]] * 2
    async with (
        Database(urls[0], max_size=8, acquire_timeout=10.0) as one,
        Database(urls[1], max_size=8, acquire_timeout=10.0) as other,
    ):
        stores = [CountingStore(one), CountingStore(other)]
        yield stores, [make_service(store, locks=_locks(request.param, redis)) for store in stores]


def _locks(kind: str, redis: Redis) -> SeatLocks:
    return UselessLocks() if kind == "useless locks" else RedisSeatLocks(redis, lock_seconds=10)


@pytest.mark.parametrize("within_seconds", [0.0, 0.5])
async def test_300_buyers_of_the_best_seats_at_two_services(
    stores_and_services: tuple[list[CountingStore], list[ReservationService]],
    within_seconds: float,
) -> None:
    """They want sets of one to six seats, of any category or of one, some also in several rows, of
    a hall of 150 seats."""
    stores, services = stores_and_services
    schedule_id = schedule_of(new_seats(1)[0])
    chance = random.Random(13)
    wishes = [
        Wish(
            chance.randint(1, 6),
            chance.choice(("", "", "VIP", "STANDARD")),
            allow_split=chance.random() < 0.2,
        )
        for _ in range(BUYERS)
    ]
    first_user = next(ids) * 1000

    async def buy(n: int, wish: Wish) -> Reservation:
        await asyncio.sleep(within_seconds * n / BUYERS)
        best = BestAvailable(schedule_id, wish)
        return await services[n % 2].hold_best_available(first_user + n, best, "")

    results = await asyncio.gather(
        *(buy(n, wish) for n, wish in enumerate(wishes)), return_exceptions=True
    )

    # A set has as many seats as were asked for, and no seat is in two sets.
    holder: dict[int, int] = {}
    refused = []
    for wish, result in zip(wishes, results, strict=True):
        if not isinstance(result, Reservation):
            assert isinstance(result, NotEnoughSeats), result
            refused.append(wish)
            continue
        assert len(result.seats) == wish.count
        for seat in result.seats:
            assert holder.setdefault(seat.id, result.id) == result.id
    assert await stores[0].claims(schedule_id) == holder
    assert len(holder) > 100
    assert refused

    # Nobody cancels, so what is free at the end was free all the time: whoever was refused would
    # be refused now as well.
    seat_map = FakeSeatMap(schedule_id)
    taken = seat_map.hall.seats(seat_map.indexes_of(holder))
    for wish in refused:
        assert seat_map.hall.best(taken, wish) is None, wish

    attempts = stores[0].attempts + stores[1].attempts
    assert max(attempts.values()) < ATTEMPTS


async def test_one_request_that_is_sent_to_both_services_at_once(
    stores_and_services: tuple[list[CountingStore], list[ReservationService]],
) -> None:
    """With an idempotency key, each user gets one set."""
    stores, services = stores_and_services
    schedule_id = schedule_of(new_seats(1)[0])
    best = BestAvailable(schedule_id, Wish(3))
    first_user = next(ids) * 1000
    results = await asyncio.gather(
        *(
            service.hold_best_available(first_user + n, best, "key")
            for n in range(20)
            for service in services
        ),
        return_exceptions=True,
    )
    held = {r.id: {seat.id for seat in r.seats} for r in results if isinstance(r, Reservation)}
    codes = {getattr(r, "code", None) for r in results if not isinstance(r, Reservation)}
    assert codes <= {"IN_PROGRESS"}
    assert len(held) == 20
    assert await stores[0].claims(schedule_id) == {
        seat_id: id for id, seat_ids in held.items() for seat_id in seat_ids
    }
