"""Sets of seats and limits under concurrency, on MariaDB, with two processes' worth of services."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any

import pytest

from harness.local.stack import Stack
from reservation_service.domain import Reservation, Status
from reservation_service.service import ReservationService
from servicekit.errors import ServiceError
from servicekit.mysql import Database
from tests.fakes.reservation import UselessLocks
from tests.reservation_service.conftest import RealReservationStore, ids, make_service, new_seats

LIMITS = {"max_seats": 8, "max_seats_per_schedule": 6}


@pytest.fixture
async def services(mysql_urls: dict[str, str]) -> AsyncIterator[list[ReservationService]]:
    """Two services, each with a pool of its own, that meet in the database only."""
    url = mysql_urls["reservation"]
    async with (
        Database(url, max_size=8, acquire_timeout=10.0) as one,
        Database(url, max_size=8, acquire_timeout=10.0) as two,
    ):
        yield [
            make_service(RealReservationStore(database), locks=UselessLocks(), **LIMITS)
            for database in (one, two)
        ]


@pytest.fixture
def lenient_server(servers: Stack) -> Iterator[None]:
    """A server that stores 0 in place of a NULL, and cuts what is too long, unless told not to."""
    with servers.mariadb.administrator() as cursor:
        cursor.execute("SELECT @@global.sql_mode")
        row = cursor.fetchone()
        assert row is not None
        cursor.execute("SET GLOBAL sql_mode = ''")
        try:
            yield
        finally:
            cursor.execute("SET GLOBAL sql_mode = %s", row)


async def outcomes(calls: list[Awaitable[Reservation]]) -> list[Reservation | ServiceError]:
    """Returns each result or refusal; raises any other error."""
    results: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if not isinstance(result, Reservation | ServiceError):
            raise result
    return results


def kinds(results: list[Reservation | ServiceError]) -> Counter[str]:
    return Counter(r.code if isinstance(r, ServiceError) else "held" for r in results)


async def claims(database: Database, schedule: int) -> dict[int, int]:
    """Returns the reservation of each claimed seat of a schedule."""
    async with database.connection() as connection:
        rows = await connection.fetch_all(
            "SELECT seat_id, reservation_id FROM seat_claim"
            " WHERE schedule_id = %s AND reservation_id <> 0",
            schedule,
        )
    return {row.seat_id: row.reservation_id for row in rows}


async def live_seats(database: Database, schedule: int) -> list[tuple[int, int]]:
    """Returns the seats of the live reservations of a schedule with their reservations, once for
    each reservation that has them."""
    async with database.connection() as connection:
        rows = await connection.fetch_all(
            "SELECT s.seat_id, r.id FROM reservation r"
            " JOIN reservation_seat s ON s.reservation_id = r.id"
            " WHERE r.schedule_id = %s AND r.status IN ('HELD', 'PAYING', 'CONFIRMED')",
            schedule,
        )
    return sorted((row.seat_id, row.id) for row in rows)


async def assert_sets_are_whole(database: Database, schedule: int, held: list[Reservation]) -> None:
    """Every seat of `held` is claimed for its reservation and for no other; nothing else is."""
    expected = sorted((seat.id, r.id) for r in held for seat in r.seats)
    assert len({seat for seat, _ in expected}) == len(expected), "a seat with two owners"
    assert await live_seats(database, schedule) == expected
    assert sorted((await claims(database, schedule)).items()) == expected


@pytest.mark.parametrize("lapsed", [False, True])
async def test_300_buyers_of_overlapping_sets(
    services: list[ReservationService], database: Database, lapsed: bool
) -> None:
    """They never share a seat and never hold part of a set."""
    chance = random.Random(13)
    seats = new_seats(60)
    store = RealReservationStore(database)
    if lapsed:  # sets that cross those that are wanted
        for first in range(0, 60, 5):
            before = await services[0].hold_seats(next(ids), seats[first : first + 5], "")
            await store.lapse(before.id)
    wanted = []
    for buyer in range(300):
        first, count = chance.randrange(60), chance.randint(1, 6)
        step = chance.choice((1, 1, 7))
        chosen = [seats[(first + step * n) % 60] for n in range(count)]
        chance.shuffle(chosen)
        wanted.append((services[buyer % 2], next(ids), chosen))
    results = await outcomes(
        [service.hold_seats(user, chosen, "") for service, user, chosen in wanted]
    )
    assert kinds(results).keys() == {"held", "SEAT_HELD"}
    held = []
    for (_, user, chosen), result in zip(wanted, results, strict=True):
        if isinstance(result, Reservation):
            assert (result.user_id, [s.id for s in result.seats]) == (user, sorted(chosen))
            held.append(result)
        else:
            assert isinstance(result, ServiceError)
            named = [int(id) for id in result.metadata["conflicts"].split(",")]
            assert set(named) <= set(chosen)
    schedule = held[0].schedule_id
    await assert_sets_are_whole(database, schedule, held)
    # Whoever was refused was refused by somebody: no seat is left that a refused set consists of.
    taken = {seat.id for r in held for seat in r.seats}
    assert all(
        taken.intersection(chosen)
        for (_, _, chosen), result in zip(wanted, results, strict=True)
        if isinstance(result, ServiceError)
    )


async def test_sets_come_and_go(services: list[ReservationService], database: Database) -> None:
    """Buyers hold and cancel overlapping sets, and some of them lapse under the sweep."""
    seats = new_seats(20)
    store = RealReservationStore(database)
    held: list[Reservation] = []

    async def buyer(number: int) -> None:
        chance = random.Random(number)
        service = services[number % 2]
        for turn in range(12):
            first, count = chance.randrange(20), chance.randint(1, 5)
            chosen = [seats[(first + n) % 20] for n in range(count)]
            [result] = await outcomes([service.hold_seats(next(ids), chosen, "")])
            if isinstance(result, ServiceError):
                assert result.code == "SEAT_HELD"
                continue
            taken = await claims(database, result.schedule_id)
            assert {taken[seat.id] for seat in result.seats} == {result.id}
            if turn == 11:
                held.append(result)
            elif chance.random() < 0.5:
                await service.cancel_reservation(result.id, result.user_id)
            else:
                await store.lapse(result.id)
                if chance.random() < 0.3:
                    await service.expire_holds()

    await asyncio.gather(*(buyer(number) for number in range(16)))
    await services[0].expire_holds()
    await assert_sets_are_whole(database, (seats[0] - 1) // 150 + 1, held)


async def one_user_with_100_requests(
    services: list[ReservationService], store: RealReservationStore, times: int
) -> None:
    """Both limits, with four lapsed holds of the user's own in the way, `times` times."""
    reached: Counter[str] = Counter()
    for number in range(times):
        chance = random.Random(number)
        user, (here, there) = next(ids), (new_seats(60), new_seats(60))
        for seat in (*here[:2], *there[:2]):
            own = await services[0].hold_seat(user, seat, "")
            await store.lapse(own.id)
        calls: list[Awaitable[Reservation]] = []
        for request in range(100):
            seats = there if request % 7 == 6 else here
            count = chance.randint(1, 3)
            first = chance.randrange(60 - count)
            key = f"key {request % 40}" if request % 2 else ""
            calls.append(services[request % 2].hold_seats(user, seats[first : first + count], key))
        results = await outcomes(calls)
        assert kinds(results).keys() <= {
            "held",
            "SEAT_HELD",
            "TOO_MANY_SEATS",
            "IDEMPOTENCY_KEY_REUSED",
        }
        held = {r.id: r for r in results if isinstance(r, Reservation)}
        by_schedule: Counter[int] = Counter()
        for reservation in held.values():
            by_schedule[reservation.schedule_id] += len(reservation.seats)
            assert await store.stored(reservation.id) == Status.HELD
        assert by_schedule.total() <= 8
        assert max(by_schedule.values()) <= 6
        # Requests for one seat fill what is left.
        reached["unpaid"] += by_schedule.total() == 8
        reached["schedule"] += 6 in by_schedule.values()
    assert reached["unpaid"] > times * 0.5, reached
    assert reached["schedule"] > 0, reached


async def test_one_user_with_100_requests_never_exceeds_a_limit(
    services: list[ReservationService], real_store: RealReservationStore
) -> None:
    await one_user_with_100_requests(services, real_store, times=6)


@pytest.mark.long
async def test_one_user_with_100_requests_never_exceeds_a_limit_hundreds_of_times(
    services: list[ReservationService], real_store: RealReservationStore
) -> None:
    await one_user_with_100_requests(services, real_store, times=300)


async def test_a_payment_that_frees_the_limit_of_its_user(
    services: list[ReservationService], real_store: RealReservationStore
) -> None:
    """A user pays for six seats while 20 requests want more: at most eight are ever unpaid."""
    for _ in range(5):
        user, (here, there) = next(ids), (new_seats(6), new_seats(40))
        bought = await services[0].hold_seats(user, here, "")
        payment = next(ids)
        await services[0].begin_payment(bought.id, user, payment, 0)
        results = await asyncio.gather(
            *(services[n % 2].hold_seat(user, there[n], "") for n in range(20)),
            services[1].confirm_payment(bought.id, payment),
            *(services[n % 2].hold_seat(user, there[n], "") for n in range(20, 40)),
            return_exceptions=True,
        )
        held = [r for r in results if isinstance(r, Reservation)]
        assert 2 <= len(held) <= 6  # of a schedule
        assert await real_store.stored(bought.id) == Status.CONFIRMED


@pytest.mark.usefixtures("lenient_server")
async def test_a_lenient_server_sells_no_seat_twice(
    services: list[ReservationService], database: Database
) -> None:
    """Not to a group, whose statements insert several rows."""
    seats = new_seats(4)
    held = [await services[0].hold_seats(next(ids), [seat], "") for seat in seats[:2]]
    results = await outcomes(
        [services[1].hold_seats(next(ids), [seat], "") for seat in reversed(seats)]
    )
    assert kinds(results) == {"held": 2, "SEAT_HELD": 2}
    held += [result for result in results if isinstance(result, Reservation)]
    await assert_sets_are_whole(database, held[0].schedule_id, held)
