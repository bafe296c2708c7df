"""How MariaDB writes groups of payments: transactions, failures and locks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from reservation_service.domain import PaymentOf, PaymentOutcome, Reservation, Status
from servicekit import call_context
from servicekit.errors import Unavailable
from servicekit.mysql import Database, DatabaseError
from tests.fakes.reservation import UselessLocks
from tests.reservation_service.conftest import RealReservationStore, make_service
from tests.reservation_service.payment_steps import hold_sets, pairs, paying_sets, start


async def a_lock_wait(database: Database) -> None:
    """Returns while a transaction waits for the lock of a row."""
    async with asyncio.timeout(5.0), database.connection() as connection:
        waits = 0
        while not waits:
            row = await connection.fetch_one("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current%%'")
            assert row is not None
            waits = int(row[1])


@pytest.fixture
async def hasty(mysql_urls: dict[str, str]) -> AsyncIterator[RealReservationStore]:
    """A store that waits for a lock for one second."""
    async with Database(mysql_urls["reservation"], query_timeout=1.9) as database:
        yield RealReservationStore(database)


async def test_a_group_is_one_transaction(
    real_store: RealReservationStore, database: Database
) -> None:
    service = make_service(real_store)
    held = await hold_sets(service, 20)

    async def commits() -> int:
        async with database.connection() as connection:
            row = await connection.fetch_one("SHOW GLOBAL STATUS LIKE 'Handler_commit'")
            assert row is not None
            return int(row[1])

    begins = await service.begin_payments([start(each) for each in held])
    paying = [each for each in begins if isinstance(each, Reservation)]
    before = await commits()
    assert set(await service.confirm_payments(pairs(paying))) == {PaymentOutcome.CONFIRMED}
    in_group = await commits() - before
    assert in_group < 10, "one transaction for 20 confirmations, and what reads the status"


@pytest.mark.parametrize("step", ["begin", "confirm", "return"])
async def test_a_poisoned_item_fails_alone(
    real_store: RealReservationStore, database: Database, step: str
) -> None:
    """MariaDB refuses every change of one reservation."""
    service = make_service(real_store)
    reservations = await hold_sets(service, 4)
    if step != "begin":
        begun = await service.begin_payments([start(each) for each in reservations])
        reservations = [each for each in begun if isinstance(each, Reservation)]
    odd = reservations[2].id
    async with database.connection() as connection:
        await connection.execute(
            f"CREATE TRIGGER odd_row BEFORE UPDATE ON reservation FOR EACH ROW IF NEW.id = {odd}"
            " THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'odd'; END IF"
        )
        results: Sequence[object]
        try:
            if step == "begin":
                results = await service.begin_payments([start(each) for each in reservations])
            elif step == "confirm":
                results = await real_store.confirm(_payments(reservations))
            else:
                results = await real_store.return_to_hold(_payments(reservations))
            if step != "begin":
                call = {
                    "confirm": service.confirm_payments,
                    "return": service.return_payments_to_hold,
                }[step]
                with pytest.raises(DatabaseError):  # the consumer learns of it
                    await call(pairs(reservations))
        finally:
            await connection.execute("DROP TRIGGER odd_row")
    assert [isinstance(result, DatabaseError) for result in results] == [False, False, True, False]
    expected = {"begin": Status.PAYING, "confirm": Status.CONFIRMED, "return": Status.HELD}[step]
    before = Status.HELD if step == "begin" else Status.PAYING
    stored = [await real_store.stored(each.id) for each in reservations]
    assert stored == [expected, expected, before, expected]


def _payments(reservations: Sequence[Reservation]) -> list[PaymentOf]:
    return [PaymentOf(each.id, each.payment_id) for each in reservations]


async def test_a_locked_reservation_holds_up_no_other_group(
    hasty: RealReservationStore, real_store: RealReservationStore, database: Database
) -> None:
    service = make_service(hasty, locks=UselessLocks())
    held = await hold_sets(service, 8)
    async with database.transaction() as stuck:
        await stuck.fetch_one("SELECT id FROM reservation WHERE id = %s FOR UPDATE", held[0].id)
        behind = asyncio.create_task(service.begin_payments([start(each) for each in held[:3]]))
        await a_lock_wait(database)
        # Those of the next groups do not wait for it at all.
        async with asyncio.timeout(0.6):
            results = await service.begin_payments([start(each) for each in held[3:]])
        assert {type(result) for result in results} == {Reservation}
        locked, *others = await behind
        assert isinstance(locked, Unavailable)
        assert {type(result) for result in others} == {Reservation}
    assert await real_store.stored(held[0].id) == Status.HELD
    assert isinstance((await service.begin_payments([start(held[0])]))[0], Reservation)


@pytest.mark.parametrize("step", ["confirm", "return"])
async def test_a_locked_reservation_fails_alone_and_soon(
    real_store: RealReservationStore, database: Database, step: str
) -> None:
    service = make_service(real_store)
    paying = await paying_sets(service, 12)
    confirms = step == "confirm"
    call = service.confirm_payments if confirms else service.return_payments_to_hold
    status = Status.CONFIRMED if confirms else Status.HELD
    async with database.transaction() as stuck:
        await stuck.fetch_one("SELECT id FROM reservation WHERE id = %s FOR UPDATE", paying[3].id)
        async with asyncio.timeout(4.0):
            with pytest.raises(Unavailable):
                await call(pairs(paying))
    stored = [await real_store.stored(each.id) for each in paying]
    assert stored == [status if n != 3 else Status.PAYING for n in range(12)]
    await call(pairs(paying))
    assert await real_store.stored(paying[3].id) == status


async def test_a_caller_with_little_time_does_not_fail_its_group(
    real_store: RealReservationStore,
) -> None:
    service = make_service(real_store)
    hurried, *others = await hold_sets(service, 5)

    async def hurry() -> None:
        call_context.set_deadline(0.0)
        await service.begin_payments([start(hurried)])

    first = asyncio.create_task(hurry())
    results = await asyncio.gather(*(service.begin_payments([start(each)]) for each in others))
    assert {type(result) for [result] in results} == {Reservation}
    with contextlib.suppress(TimeoutError):
        await first
