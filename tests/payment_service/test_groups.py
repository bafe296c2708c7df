"""Payments that are at the same step at the same time: groups on MariaDB, and what goes wrong with
them."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import pytest

from payment_service import events, groups
from payment_service.domain import (
    Admission,
    Attempt,
    Charge,
    ChargeStatus,
    Money,
    Outcome,
    Payment,
    PayOrder,
    Status,
)
from payment_service.groups import GROUP_SECONDS, LOCK_WAIT_SECONDS, MAX_PATIENT
from payment_service.outbox import CommittedEvents, OutboxRepository
from payment_service.providers.sandbox import SandboxProvider
from payment_service.repository import PaymentRepository
from servicekit import call_context
from servicekit.errors import Unavailable
from servicekit.mysql import Connection, Database, DatabaseError, TransactionAborted
from servicekit.mysql_protocol import Result

# The tests share a schema, so each has reservations of its own.
reservation_ids = itertools.count(random.randrange(1, 1 << 40))

PRICE = Decimal("150000.00")
COUNT = 20
# The first two of a crowd are written at once and by themselves, the others as one group.
SIZES = [1, 1, COUNT - 2]


@dataclass
class Packets:
    """What MariaDB receives; `after` is called for each packet when it has been run."""

    sql: list[str] = field(default_factory=list)
    before: Callable[[str], None] = lambda _: None
    after: Callable[[str], None] = lambda _: None

    def sizes(self, start: str, each: str) -> list[int]:
        """Returns how often `each` occurs in every packet with `start`."""
        return [sql.count(each) for sql in self.sql if start in sql]


@pytest.fixture
def packets(monkeypatch: pytest.MonkeyPatch) -> Packets:
    packets = Packets()
    query = Connection._query

    async def observed(self: Connection, sql: str, timeout: float) -> list[Result]:
        packets.sql.append(sql)
        packets.before(sql)
        results = await query(self, sql, timeout)
        packets.after(sql)
        return results

    monkeypatch.setattr(Connection, "_query", observed)
    return packets


@pytest.fixture
async def database(mysql_urls: dict[str, str]) -> AsyncIterator[Database]:
    async with Database(mysql_urls["payment"]) as database:
        yield database


@pytest.fixture
def payments(database: Database) -> PaymentRepository:
    return PaymentRepository(database, CommittedEvents())


def new_order(room: str = "main") -> PayOrder:
    number = next(reservation_ids)
    return PayOrder(number, 42, admission=Admission(room, number))


async def create(payments: PaymentRepository, order: PayOrder) -> Attempt:
    return await payments.create_payment(order, lease_seconds=60, answer_seconds=60)


async def created(payments: PaymentRepository, count: int = COUNT) -> list[Payment]:
    attempts = await asyncio.gather(*(create(payments, new_order()) for _ in range(count)))
    assert all(attempt.created for attempt in attempts)
    return [attempt.payment for attempt in attempts]


def succeeded(reason: str = "") -> Outcome:
    return Outcome(Status.SUCCEEDED, PRICE, decline_reason=reason)


async def record(
    payments: PaymentRepository, payment: Payment, outcome: Outcome | None = None
) -> Payment:
    event = events.succeeded(payment, PRICE)
    return await payments.record_outcome(payment, outcome or succeeded(), event)


async def statuses(payments: PaymentRepository, ids: Sequence[int]) -> list[Status]:
    found = [await payments.get_payment(id_) for id_ in ids]
    return [payment.status for payment in found if payment is not None]


async def unsent(database: Database, ids: Sequence[int]) -> list[int]:
    async with OutboxRepository(database).oldest(100_000, set(), older_than=0) as batch:
        return sorted(e.payment_id for e in batch.events if e.payment_id in ids)


class TestCreation:
    async def test_orders_that_come_together_are_one_insert(
        self, payments: PaymentRepository, packets: Packets
    ) -> None:
        orders = [new_order() for _ in range(COUNT)]
        attempts = await asyncio.gather(*(create(payments, order) for order in orders))
        # In any order: the first two open connections.
        assert sorted(packets.sizes("INSERT INTO payment", "INITIATED")) == SIZES
        assert [a.payment.reservation_id for a in attempts] == [o.reservation_id for o in orders]
        for attempt in attempts:
            assert await payments.get_payment(attempt.payment.id) == attempt.payment

    async def test_orders_for_one_reservation_create_one_payment(
        self, payments: PaymentRepository
    ) -> None:
        orders = [new_order() for _ in range(4)]
        attempts = await asyncio.gather(
            *(create(payments, orders[number % 4]) for number in range(40))
        )
        for number, order in enumerate(orders):
            mine = attempts[number::4]
            assert sum(attempt.created for attempt in mine) == 1
            assert len({attempt.payment.id for attempt in mine}) == 1
            assert mine[0].payment.reservation_id == order.reservation_id

    async def test_a_bad_order_fails_alone(self, payments: PaymentRepository) -> None:
        orders = [new_order("x" * 65 if number == 9 else "main") for number in range(COUNT)]
        attempts = await asyncio.gather(
            *(create(payments, order) for order in orders), return_exceptions=True
        )
        assert isinstance(attempts.pop(9), DatabaseError)
        assert all(isinstance(a, Attempt) and a.created for a in attempts)

    async def test_a_payment_that_another_replica_creates_meanwhile_is_found(
        self, database: Database, payments: PaymentRepository
    ) -> None:
        """Its transaction holds the unique key that the statement of the group needs."""
        orders = [new_order() for _ in range(COUNT)]
        contested = orders[9]
        async with asyncio.TaskGroup() as tasks, database.transaction() as transaction:
            await transaction.execute(
                "INSERT INTO payment (reservation_id, user_id, driven_until)"
                " VALUES (%s, %s, NOW(6) + INTERVAL 1 MINUTE)",
                contested.reservation_id,
                contested.user_id,
            )
            creating = [tasks.create_task(create(payments, order)) for order in orders]
            others = [task for task in creating if task is not creating[9]]
            done, _ = await asyncio.wait(others, timeout=LOCK_WAIT_SECONDS + 8)
            assert len(done) == COUNT - 1
            assert not creating[9].done()
        assert all(task.result().created for task in others)
        assert not creating[9].result().created

    async def test_locked_keys_of_lone_orders_hold_up_themselves_only(
        self, database: Database, payments: PaymentRepository
    ) -> None:
        contested = [new_order() for _ in range(2)]
        async with asyncio.TaskGroup() as tasks, database.transaction() as transaction:
            for order in contested:
                await transaction.execute(
                    "INSERT INTO payment (reservation_id, user_id, driven_until)"
                    " VALUES (%s, %s, NOW(6) + INTERVAL 1 MINUTE)",
                    order.reservation_id,
                    order.user_id,
                )
            creating = [tasks.create_task(create(payments, order)) for order in contested]
            async with asyncio.timeout(GROUP_SECONDS / 2):
                await asyncio.sleep(0)  # they find that a group may start
                for _ in range(3):
                    assert (await create(payments, new_order())).created
                await created(payments)
            assert not any(task.done() for task in creating)
        assert not any(task.result().created for task in creating)


class TestOutcome:
    async def test_outcomes_that_come_together_are_one_transaction(
        self, database: Database, payments: PaymentRepository, packets: Packets
    ) -> None:
        mine = await created(payments)
        packets.sql.clear()
        ended = await asyncio.gather(*(record(payments, payment) for payment in mine))
        assert packets.sizes("UPDATE payment", "UPDATE payment") == SIZES
        assert sum(sql.count("COMMIT") for sql in packets.sql) == 1
        for payment in ended:
            stored = await payments.get_payment(payment.id)
            assert stored == payment
        assert await unsent(database, [p.id for p in mine]) == sorted(p.id for p in mine)

    async def test_a_driver_without_lease_changes_nothing_in_a_group(
        self, payments: PaymentRepository
    ) -> None:
        mine = await created(payments)
        stale = mine[9]
        mine[9] = Payment(**{**vars(stale), "attempts": 5})
        ended = await asyncio.gather(*(record(payments, payment) for payment in mine))
        assert ended.pop(9) == stale
        assert {payment.status for payment in ended} == {Status.SUCCEEDED}

    async def test_a_bad_outcome_fails_alone(self, payments: PaymentRepository) -> None:
        mine = await created(payments)
        ended = await asyncio.gather(
            *(
                record(payments, payment, succeeded("x" * 65 if number == 9 else ""))
                for number, payment in enumerate(mine)
            ),
            return_exceptions=True,
        )
        assert isinstance(ended.pop(9), DatabaseError)
        assert all(isinstance(p, Payment) and p.finished for p in ended)
        assert await statuses(payments, [mine[9].id]) == [Status.INITIATED]

    async def test_after_a_deadlock_each_is_written_by_itself(
        self, database: Database, payments: PaymentRepository, packets: Packets
    ) -> None:
        mine = await created(payments)

        def abort(sql: str) -> None:
            if sql.count("UPDATE payment") > 1:
                raise TransactionAborted

        packets.sql.clear()
        packets.before = abort
        ended = await asyncio.gather(*(record(payments, payment) for payment in mine))
        assert {payment.status for payment in ended} == {Status.SUCCEEDED}
        assert packets.sizes("UPDATE payment", "UPDATE payment") == [*SIZES, *[1] * SIZES[-1]]
        assert await unsent(database, [p.id for p in mine]) == sorted(p.id for p in mine)

    async def test_a_locked_payment_holds_up_itself_only(
        self, database: Database, payments: PaymentRepository
    ) -> None:
        mine = await created(payments)
        async with asyncio.TaskGroup() as tasks, database.transaction() as transaction:
            await transaction.execute("SELECT * FROM payment WHERE id = %s FOR UPDATE", mine[9].id)
            ending = [tasks.create_task(record(payments, payment)) for payment in mine]
            others = [task for task in ending if task is not ending[9]]
            done, _ = await asyncio.wait(others, timeout=LOCK_WAIT_SECONDS + 8)
            assert len(done) == COUNT - 1
            # Meanwhile other groups are written.
            later = await created(payments, 3)
            await asyncio.gather(*(record(payments, payment) for payment in later))
            assert not ending[9].done()
        assert {task.result().status for task in ending} == {Status.SUCCEEDED}

    @pytest.mark.parametrize("locked", [2, MAX_PATIENT + 2])
    async def test_locked_payments_that_come_alone_hold_up_themselves_only(
        self, database: Database, payments: PaymentRepository, packets: Packets, locked: int
    ) -> None:
        """They occupy neither the groups in flight nor the connections."""
        stuck = await created(payments, locked)
        healthy = await created(payments)
        ids = [payment.id for payment in stuck]
        async with asyncio.TaskGroup() as tasks, database.transaction() as transaction:
            await transaction.execute("SELECT * FROM payment WHERE id IN %s FOR UPDATE", ids)
            packets.sql.clear()
            both_sent = asyncio.Event()

            def sent(_: str) -> None:
                if packets.sizes("UPDATE payment", "UPDATE payment") == [1, 1]:
                    both_sent.set()

            # Each of the two groups that may be in flight has one, which is locked.
            packets.before = sent
            ending = [tasks.create_task(record(payments, payment)) for payment in stuck[:2]]
            await both_sent.wait()
            ending += [tasks.create_task(record(payments, payment)) for payment in stuck[2:]]
            async with asyncio.timeout(GROUP_SECONDS / 2):
                for payment in healthy[:3]:
                    assert (await record(payments, payment)).finished
                await asyncio.gather(*(record(payments, payment) for payment in healthy[3:]))
            assert not any(task.done() for task in ending)
        assert {task.result().status for task in ending} == {Status.SUCCEEDED}

    async def test_a_payment_that_stays_locked_fails_in_time(
        self, database: Database, payments: PaymentRepository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(groups, "PATIENCE_SECONDS", 0.5)
        [mine] = await created(payments, 1)
        async with database.transaction() as transaction:
            await transaction.execute("SELECT * FROM payment WHERE id = %s FOR UPDATE", mine.id)
            with pytest.raises(TransactionAborted):
                await record(payments, mine)
        assert (await record(payments, mine)).status is Status.SUCCEEDED

    async def test_a_lost_answer_after_the_commit_loses_no_event(
        self, database: Database, payments: PaymentRepository, packets: Packets
    ) -> None:
        mine = await created(payments)

        def lose(sql: str) -> None:
            if sql.count("UPDATE payment") > 1:
                raise Unavailable("The connection was lost.")

        packets.after = lose
        ended = await asyncio.gather(
            *(record(payments, payment) for payment in mine), return_exceptions=True
        )
        assert [isinstance(e, Unavailable) for e in ended] == [False] * 2 + [True] * (COUNT - 2)
        ids = [payment.id for payment in mine]
        assert await statuses(payments, ids) == [Status.SUCCEEDED] * COUNT
        assert await unsent(database, ids) == sorted(ids)

    async def test_a_caller_that_leaves_ends_nothing(
        self, database: Database, payments: PaymentRepository, packets: Packets
    ) -> None:
        mine = await created(payments)
        ending = [asyncio.create_task(record(payments, payment)) for payment in mine]

        def leave(sql: str) -> None:
            if sql.count("UPDATE payment") > 1:
                ending[9].cancel()

        packets.before = leave
        ended = await asyncio.gather(*ending, return_exceptions=True)
        assert isinstance(ended.pop(9), asyncio.CancelledError)
        assert all(isinstance(p, Payment) and p.finished for p in ended)
        ids = [payment.id for payment in mine]
        assert await unsent(database, ids) == sorted(ids)

    async def test_the_deadline_of_a_caller_is_its_own(self, payments: PaymentRepository) -> None:
        mine = await created(payments)

        async def hurried(payment: Payment) -> Payment:
            call_context.set_deadline(0)
            return await record(payments, payment)

        tasks = [
            asyncio.create_task(hurried(p) if number == 2 else record(payments, p))
            for number, p in enumerate(mine)
        ]
        assert {p.status for p in await asyncio.gather(*tasks)} == {Status.SUCCEEDED}


def price(payment: Payment) -> Money:
    return Money(PRICE + payment.id % 7)


class TestBook:
    async def test_charges_that_come_together_are_one_statement(
        self, database: Database, payments: PaymentRepository, packets: Packets
    ) -> None:
        mine = await created(payments)
        provider = SandboxProvider(database)
        packets.sql.clear()
        charges = await asyncio.gather(*(provider.charge(p.id, p.user_id, price(p)) for p in mine))
        assert packets.sizes("INSERT INTO sandbox_charge", "INTERVAL") == SIZES
        assert charges == [Charge(ChargeStatus.APPROVED, price(p)) for p in mine]
        for payment, charge in zip(mine, charges, strict=True):
            assert await provider.get_charge(payment.id) == charge

    async def test_a_bad_charge_fails_alone(
        self, database: Database, payments: PaymentRepository
    ) -> None:
        mine = await created(payments)
        provider = SandboxProvider(database)
        amounts = [Money(Decimal("1e20") if number == 9 else PRICE) for number in range(COUNT)]
        charges = await asyncio.gather(
            *(
                provider.charge(payment.id, payment.user_id, amount)
                for payment, amount in zip(mine, amounts, strict=True)
            ),
            return_exceptions=True,
        )
        assert isinstance(charges.pop(9), DatabaseError)
        assert charges == [Charge(ChargeStatus.APPROVED, Money(PRICE))] * (COUNT - 1)

    async def test_a_slow_charge_holds_up_itself_only(
        self, database: Database, payments: PaymentRepository
    ) -> None:
        """It is written with the others, and then takes its own time."""
        mine = await created(payments)
        provider = SandboxProvider(database)
        slow = 99504 * 1_000_000
        charging = [
            asyncio.create_task(provider.charge(p.id, slow if number == 9 else p.user_id, price(p)))
            for number, p in enumerate(mine)
        ]
        done, pending = await asyncio.wait(charging, timeout=1)
        assert pending == {charging[9]}
        assert {task.result().status for task in done} == {ChargeStatus.APPROVED}
        charging[9].cancel()
        await asyncio.wait(pending)
