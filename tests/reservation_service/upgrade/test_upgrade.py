"""The version before several seats and this one write to the same tables, from the expansion to the
contraction, and no claim differs from its reservation at any moment."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from servicekit import client
from servicekit.dead_letters import describe
from servicekit.kafka import Producer
from tests.reservation_service.upgrade.agreement import disagreements
from tests.reservation_service.upgrade.fans import Fans, missing, stub_of
from tests.reservation_service.upgrade.versions import Versions

RATE = 60.0
ENDINGS = ("let the hold lapse", "cancelled", "never charged", "declined", "paid late", "paid")


@pytest.fixture
async def fans(versions: Versions, redis_url: str, kafka_bootstrap: str) -> AsyncIterator[Fans]:
    await versions.create_topics()
    async with Producer(kafka_bootstrap) as producer:
        yield Fans(producer, versions.payments, RATE)


async def test_both_versions_write_from_the_expansion_to_the_contraction(
    versions: Versions, fans: Fans, kafka_bootstrap: str
) -> None:
    await asyncio.to_thread(versions.start_version_before)
    async with (
        client.connect(versions.old.address) as old,
        client.connect(versions.new.address) as new,
    ):
        fans.stubs = [stub_of(old)]
        async with fans.shopping():
            await asyncio.sleep(1)
            await asyncio.to_thread(versions.expand)
            agree(versions)
            await asyncio.to_thread(versions.new.start)
            fans.stubs = [stub_of(old), stub_of(new)]
            await agree_for(versions, seconds=4)
            fans.stubs = [stub_of(new)]
            assert await asyncio.to_thread(versions.old.stop)
            agree(versions)
            await asyncio.to_thread(versions.contract)
            await agree_for(versions, seconds=2)
    assert missing(ENDINGS, fans.outcomes) == set()
    await every_success_counts(versions, fans)
    assert await describe(f"{versions.payments}.dlq", kafka_bootstrap) == []
    agree(versions)


async def agree_for(versions: Versions, *, seconds: float) -> None:
    for _ in range(round(seconds / 0.5)):
        await asyncio.sleep(0.5)
        await asyncio.to_thread(agree, versions)


def agree(versions: Versions) -> None:
    with versions.tables.cursor() as cursor:
        assert disagreements(cursor) == {}


async def every_success_counts(versions: Versions, fans: Fans) -> None:
    """Waits until each payment that succeeded has its seat, or is known to have lost it."""
    deadline = time.monotonic() + 30
    while waiting := await asyncio.to_thread(unapplied, versions, fans.paid):
        assert time.monotonic() < deadline, waiting
        await asyncio.sleep(0.2)


def unapplied(versions: Versions, paid: dict[int, int]) -> dict[int, int]:
    with versions.tables.cursor() as cursor:
        cursor.execute("SELECT id, payment_id FROM reservation WHERE status = 'CONFIRMED'")
        applied = set(cursor.fetchall())
        cursor.execute("SELECT reservation_id, payment_id FROM lost_seat")
        applied |= set(cursor.fetchall())
    return {id: payment for id, payment in paid.items() if (id, payment) not in applied}
