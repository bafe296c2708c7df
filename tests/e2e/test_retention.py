"""Of a million old rows of each kind, many are removed while fans buy."""

import asyncio
import statistics
import time
from collections.abc import Iterator

import pytest

from harness.local.ports import Ports
from harness.local.stack import Stack
from tests.e2e.shop import Shop

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

MILLION = 1_000_000
CHUNK = 100_000
BUYERS = 4
BASELINE_SECONDS = 20.0
REMOVAL_SECONDS = 120.0
# A busy machine removes 400 rows per second of each kind, one at rest several times as many.
LEAST_REMOVED = 48_000
MOST_P99_SECONDS = 0.5

OLD = {
    "reservation": (
        "reservation",
        """INSERT INTO reservation (user_id, seat_id, schedule_id, seat_num, price, status,
            held_until, lapses_at, payment_id, created_at, updated_at)
        SELECT seq, seq, seq DIV 150, 'A1', 10, IF(seq % 2, 'EXPIRED', 'CANCELLED'),
            NOW(6) - INTERVAL 8 DAY, NOW(6) - INTERVAL 8 DAY, NULL, NOW(6), NOW(6)
        FROM seq_{}_to_{}""",
        "status IN ('CANCELLED', 'EXPIRED') AND lapses_at < NOW(6) - INTERVAL 7 DAY",
    ),
    "payment": (
        "payment",
        """INSERT INTO payment (reservation_id, user_id, status, failure_code, outcome_told,
            driven_until, updated_at)
        SELECT 1000000000 + seq, 1, 'FAILED', 'PAYMENT_DECLINED', 1,
            NOW(6) - INTERVAL 2 DAY, NOW(6) - INTERVAL 2 DAY
        FROM seq_{}_to_{}""",
        "status = 'FAILED' AND driven_until < NOW(6) - INTERVAL 1 DAY",
    ),
    "sandbox_charge": (
        "payment",
        """INSERT INTO sandbox_charge (payment_id, user_id, amount, status, created_at)
        SELECT 1000000000 + seq, 1, 10, 'DECLINED', NOW(6) - INTERVAL 31 DAY
        FROM seq_{}_to_{}""",
        "created_at < NOW(6) - INTERVAL 30 DAY",
    ),
}


@pytest.fixture(scope="module")
def sweeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A system that removes old rows, more often than by default."""
    stack = Stack(
        tmp_path_factory.mktemp("sweeping"),
        Ports.free(),
        program_env={
            "queue_service": {"QUEUE_CAPACITY": "100000"},
            "reservation_service": {"RESERVATION_SWEEP_INTERVAL_SECONDS": "0.5"},
            "payment_service": {"PAYMENT_RECOVERY_INTERVAL_SECONDS": "0.5"},
            "gateway": {"GATEWAY_REQUESTS_PER_SECOND": "0"},
        },
    )
    with stack:
        stack.start(seed="small")
        yield stack
        stack.stop()


async def buy(shop: Shop, seat_id: int) -> float:
    """Holds and pays a seat; returns the seconds of both requests."""
    fan = await shop.admitted()
    began = time.monotonic()
    reservation = await fan.hold(seat_id)
    payment = await fan.pay(reservation)
    seconds = time.monotonic() - began
    assert payment.status_code == 200, payment.text
    await fan.close()
    return seconds


async def buy_until(shop: Shop, done: asyncio.Event) -> list[float]:
    """BUYERS fans at a time buy one seat after another; returns how long each purchase took."""

    async def buyer() -> list[float]:
        seconds: list[float] = []
        while not done.is_set():
            for seat_id in shop.new_schedule(50).seats:
                seconds.append(await buy(shop, seat_id))
                if done.is_set():
                    break
        return seconds

    bought = await asyncio.gather(*(buyer() for _ in range(BUYERS)))
    return [seconds for each in bought for seconds in each]


def p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]


def old_rows(shop: Shop) -> dict[str, int]:
    return {
        table: shop.number(schema, f"SELECT COUNT(*) FROM {table} WHERE {old}")
        for table, (schema, _, old) in OLD.items()
    }


async def test_a_million_old_rows_do_not_delay_fans_while_they_go(sweeping: Stack) -> None:
    shop = Shop(sweeping)

    async def after(seconds: float) -> None:
        await asyncio.sleep(seconds)
        done.set()

    done = asyncio.Event()
    before, _ = await asyncio.gather(buy_until(shop, done), after(BASELINE_SECONDS))

    for schema, insert, _ in OLD.values():
        with sweeping.mariadb.administrator(schema) as cursor:
            for first in range(1, MILLION, CHUNK):
                cursor.execute(insert.format(first, first + CHUNK - 1))

    rows = old_rows(shop)
    done = asyncio.Event()
    during, _ = await asyncio.gather(buy_until(shop, done), after(REMOVAL_SECONDS))
    removed = {table: rows[table] - left for table, left in old_rows(shop).items()}
    print(
        f"p99 of holding and paying: {p99(before) * 1000:.0f} ms ({len(before)} purchases),"
        f" {p99(during) * 1000:.0f} ms during the removal ({len(during)}); {removed}"
    )
    assert min(removed.values()) > LEAST_REMOVED
    assert p99(during) < max(MOST_P99_SECONDS, 2 * p99(before))
