"""The upgrade with a million reservations, while the version before writes 210 times a second."""

import asyncio

import pytest
from pymysql.cursors import Cursor

from tests.reservation_service.upgrade.fans import Fans
from tests.reservation_service.upgrade.rollout import roll_out
from tests.reservation_service.upgrade.versions import Versions

RESERVATIONS = 1_000_000
#: Stories of fans in a second: each holds a seat, most do two more things, and the sweep expires
#: what they leave. Together 210 writes.
STORIES = 85.0
#: A change of a table may make writers wait for a second, and those have to be served then. The
#: backfill makes them wait for a batch.
MOST_SECONDS = 3.0

# Seats that are not for sale any more. Half have a live reservation, as after many sales.
FILL = f"""
INSERT INTO reservation (user_id, seat_id, schedule_id, seat_num, price, status, held_until,
                         lapses_at, created_at, updated_at)
SELECT seq % 300000 + 1, seq % 500000 + 1000001, seq % 500000 DIV 150 + 10001,
       CONCAT('A', seq % 150 + 1), 100, IF(seq > 500000, 'CONFIRMED', 'EXPIRED'),
       NOW(6), NOW(6), NOW(6), NOW(6)
FROM seq_1_to_{RESERVATIONS}
"""
#: Locks of a transaction take memory, so that one for all would end the server.
BATCH = 50_000


def fill(cursor: Cursor) -> None:
    for first in range(1, RESERVATIONS + 1, BATCH):
        cursor.execute(f"{FILL} WHERE seq BETWEEN {first} AND {first + BATCH - 1}")


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_million_reservations_are_upgraded_while_fans_shop(
    versions: Versions, fans: Fans, capsys: pytest.CaptureFixture[str]
) -> None:
    await asyncio.to_thread(versions.start_version_before, fill)
    fans.rate = STORIES
    waits = await roll_out(versions, fans, seconds=10, check_seconds=30)
    shown = ", ".join(f"{phase} {wait * 1000:.0f}" for phase, wait in waits.items())
    with capsys.disabled():
        print(f"\nlongest wait for an answer, ms: {shown}; {fans.writes_per_second:.0f} writes/s")
    assert max(waits.values()) < MOST_SECONDS
