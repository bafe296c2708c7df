"""The revision that removes the table of the outbox: what the version before left in it is sent."""

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from alembic.config import Config
from alembic.script import Script
from sqlalchemy import Connection

import servicekit.migrate
from harness.local.stack import Stack
from payment_service import events
from payment_service.domain import Event, EventKind, Payment, Status
from payment_service.errors import ChargeAmountDiffers, PaymentDeclined, ReservationExpired
from payment_service.outbox import OutboxRepository, shard_of
from payment_service.rows import get
from servicekit import ddl
from servicekit.errors import Unavailable
from servicekit.migrate import _pending, migrate
from servicekit.mysql import Database

SUCCEEDED, FAILED, REFUNDED = Status.SUCCEEDED, Status.FAILED, Status.REFUNDED
OUTCOME, REFUND = EventKind.OUTCOME, EventKind.REFUND
PRICE = Decimal("150000.00")
EARLIER = datetime(2026, 11, 1, 12, tzinfo=UTC)

_numbers = itertools.count(1)


@dataclass
class Expanded:
    """The tables of payment_service as the version before uses them, beside the new columns."""

    url: str
    database: Database

    async def leaves(
        self, status: Status, *kinds: EventKind, failure_code: str = "", reservation_id: int = 0
    ) -> Payment:
        """The version before finishes a payment, and these of its events stay in the outbox."""
        reservation_id = reservation_id or next(_numbers)
        async with self.database.transaction() as transaction:
            row = await transaction.fetch_one(
                """INSERT INTO payment (reservation_id, user_id, status, amount, failure_code,
                    room, place_number, driven_until, created_at, updated_at)
                VALUES (%s, 7, %s, %s, %s, 'main', 17, %s, %s, %s) RETURNING id""",
                reservation_id,
                status,
                None if status is FAILED else PRICE,
                failure_code,
                *[EARLIER.replace(tzinfo=None)] * 3,
            )
            assert row is not None
            payment = await get(transaction, row.id)
            assert payment is not None
            for event in events.unsent(payment, EventKind(sum(kinds)), EARLIER):
                await transaction.execute(
                    """INSERT INTO outbox (shard, event_id, reservation_id, payment_id, payload)
                    VALUES (%s, %s, %s, %s, %s)""",
                    shard_of(reservation_id),
                    event.event_id,
                    reservation_id,
                    payment.id,
                    event.payload,
                )
        return payment

    async def left(self) -> list[tuple[str, int, bytes]]:
        """What is in the outbox, in order."""
        async with self.database.connection() as connection:
            rows = await connection.fetch_all(
                "SELECT event_id, payment_id, payload FROM outbox ORDER BY payment_id, id"
            )
        return [(row.event_id, row.payment_id, row.payload) for row in rows]

    async def unsent(self) -> list[Event]:
        """The events that the relay of this version would send, in order."""
        async with OutboxRepository(self.database).oldest(100, set(), older_than=0) as batch:
            return list(batch.events)

    async def tables(self) -> set[str]:
        async with self.database.connection() as connection:
            return {row[0] for row in await connection.fetch_all("SHOW TABLES")}

    def contract(self) -> None:
        assert migrate("payment_service", self.url)


@pytest.fixture
async def shop(
    servers: Stack, mysql_urls: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Expanded]:
    schema = f"contracted{next(_numbers)}"
    servers.mariadb.create_database(schema, schema)
    url = f"mysql://{schema}:{schema}@{servers.mariadb.address}/{schema}"
    with monkeypatch.context() as patch:
        patch.setattr(servicekit.migrate, "_pending", _before_0004)
        migrate("payment_service", url)
    async with Database(url) as database:
        async with database.connection() as connection:
            # This version reads it. 0005 adds it where it is missing.
            await connection.execute(
                """ALTER TABLE payment
                ADD COLUMN currency CHAR(3) CHARACTER SET ascii NOT NULL DEFAULT 'KRW'"""
            )
        yield Expanded(url, database)


def _before_0004(config: Config, connection: Connection) -> list[Script]:
    return [each for each in _pending(config, connection) if each.revision < "0004"]


def as_left(sent: list[Event]) -> list[tuple[str, int, bytes]]:
    return [(event.event_id, event.payment_id, event.payload) for event in sent]


async def leave_every_kind(shop: Expanded) -> None:
    await shop.leaves(SUCCEEDED, OUTCOME)
    for error in (PaymentDeclined, ChargeAmountDiffers, ReservationExpired, Unavailable):
        await shop.leaves(FAILED, OUTCOME, failure_code=error.code)
    await shop.leaves(REFUNDED, REFUND)
    await shop.leaves(REFUNDED, OUTCOME, REFUND)
    # Two payments of a reservation.
    again = await shop.leaves(FAILED, OUTCOME, failure_code=PaymentDeclined.code)
    await shop.leaves(SUCCEEDED, OUTCOME, reservation_id=again.reservation_id)


async def test_what_the_outbox_has_left_is_sent_and_nothing_else(shop: Expanded) -> None:
    await leave_every_kind(shop)
    # Everything of these is sent.
    for status in (Status.INITIATED, SUCCEEDED, FAILED, REFUNDED):
        await shop.leaves(status)
    left = await shop.left()
    assert len(left) == 10
    shop.contract()
    assert "outbox" not in await shop.tables()
    assert as_left(await shop.unsent()) == left


async def test_what_this_version_has_not_sent_stays_unsent(shop: Expanded) -> None:
    """It marks its events in the columns, also before the table is removed."""
    own = await shop.leaves(SUCCEEDED)
    both = await shop.leaves(REFUNDED, REFUND)
    async with shop.database.connection() as connection:
        for payment, kind in ((own, OUTCOME), (both, OUTCOME)):
            await connection.execute(
                "UPDATE payment SET unsent = %s, unsent_shard = %s WHERE id = %s",
                kind.value,
                shard_of(payment.reservation_id),
                payment.id,
            )
    shop.contract()
    assert [(event.payment_id, event.kind) for event in await shop.unsent()] == [
        (own.id, OUTCOME),
        (both.id, OUTCOME),
        (both.id, REFUND),
    ]


@pytest.mark.parametrize("dropped", [False, True])
async def test_an_interrupted_run_is_repeated(
    shop: Expanded, monkeypatch: pytest.MonkeyPatch, dropped: bool
) -> None:
    """It ends before or after the table is removed, and in both cases before that is recorded."""
    await leave_every_kind(shop)
    left = await shop.left()
    change_tables = ddl.change_tables

    def interrupted(*statements: str) -> None:
        if dropped:
            change_tables(*statements)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ddl, "change_tables", interrupted)
        with pytest.raises(KeyboardInterrupt):
            shop.contract()
    assert ("outbox" in await shop.tables()) is not dropped
    # A relay has sent some meanwhile; those whose rows are left are sent twice, as after any crash.
    first = (await shop.unsent())[0]
    await OutboxRepository(shop.database).mark_sent([first])
    shop.contract()
    assert "outbox" not in await shop.tables()
    assert as_left(await shop.unsent()) == (left[1:] if dropped else left)
