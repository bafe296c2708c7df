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

# Above the ids of everything that the tests make.
FIRST = 1_000_000_000

# Two reservations of each user, with one to four seats.
RESERVATIONS = (
    f"""INSERT INTO reservation (id, user_id, seat_id, schedule_id, seat_num, price, seats, status,
        held_until, lapses_at, payment_id, created_at, updated_at)
    SELECT {FIRST} + seq, {FIRST} + seq DIV 2, {FIRST} + 4 * seq, {FIRST} + seq DIV 50, 'A1',
        10 * (1 + seq % 4), 1 + seq % 4, IF(seq % 2, 'EXPIRED', 'CANCELLED'),
        NOW(6) - INTERVAL 8 DAY, NOW(6) - INTERVAL 8 DAY, NULL, NOW(6), NOW(6)
    FROM seq_{{0}}_to_{{1}}""",
    f"""INSERT INTO reservation_seat (reservation_id, seat_id, seat_num, price)
    SELECT {FIRST} + r.seq, {FIRST} + 4 * r.seq + s.seq, CONCAT('A', 1 + s.seq), 10
    FROM seq_{{0}}_to_{{1}} r JOIN seq_0_to_3 s ON s.seq <= r.seq % 4""",
    f"""INSERT IGNORE INTO buyer (user_id)
    SELECT DISTINCT {FIRST} + seq DIV 2 FROM seq_{{0}}_to_{{1}}""",
)
# What must go with its reservation.
LEFT_OVER = {
    "reservation_seat": """SELECT COUNT(*) FROM reservation_seat s
        WHERE NOT EXISTS (SELECT 1 FROM reservation r WHERE r.id = s.reservation_id)""",
    "buyer": """SELECT COUNT(*) FROM buyer b
        WHERE NOT EXISTS (SELECT 1 FROM reservation r WHERE r.user_id = b.user_id)""",
}

# Table -> its schema, the statements that fill it, which rows are old.
OLD = {
    "reservation": (
        "reservation",
        RESERVATIONS,
        "status IN ('CANCELLED', 'EXPIRED') AND lapses_at < NOW(6) - INTERVAL 7 DAY",
    ),
    "payment": (
        "payment",
        (
            f"""INSERT INTO payment (reservation_id, user_id, status, failure_code, outcome_told,
                driven_until, updated_at)
            SELECT {FIRST} + seq, 1, 'FAILED', 'PAYMENT_DECLINED', 1,
                NOW(6) - INTERVAL 2 DAY, NOW(6) - INTERVAL 2 DAY
            FROM seq_{{0}}_to_{{1}}""",
        ),
        "status = 'FAILED' AND driven_until < NOW(6) - INTERVAL 1 DAY",
    ),
    "sandbox_charge": (
        "payment",
        (
            f"""INSERT INTO sandbox_charge (payment_id, user_id, amount, status, created_at)
            SELECT {FIRST} + seq, 1, 10, 'DECLINED', NOW(6) - INTERVAL 31 DAY
            FROM seq_{{0}}_to_{{1}}""",
        ),
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

    for schema, inserts, _ in OLD.values():
        with sweeping.mariadb.administrator(schema) as cursor:
            for first in range(1, MILLION, CHUNK):
                # At once: the removal of one of these rows finds all that goes with it.
                cursor.execute("START TRANSACTION")
                for insert in inserts:
                    cursor.execute(insert.format(first, first + CHUNK - 1))
                cursor.execute("COMMIT")

    rows = old_rows(shop)
    done = asyncio.Event()
    during, _ = await asyncio.gather(buy_until(shop, done), after(REMOVAL_SECONDS))
    removed = {table: rows[table] - left for table, left in old_rows(shop).items()}
    print(
        f"p99 of holding and paying: {p99(before) * 1000:.0f} ms ({len(before)} purchases),"
        f" {p99(during) * 1000:.0f} ms during the removal ({len(during)}); {removed}"
    )
    assert min(removed.values()) > LEAST_REMOVED
    left_over = {table: shop.number("reservation", sql) for table, sql in LEFT_OVER.items()}
    assert left_over == dict.fromkeys(LEFT_OVER, 0)
    assert p99(during) < max(MOST_P99_SECONDS, 2 * p99(before))
