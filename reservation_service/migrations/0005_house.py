"""What the house has, closed schedules, the currency of a reservation, prices with three places.

Expanding: the version before goes on serving. It reads a seat of the house as sold, because the
house's claims name a reservation that is CONFIRMED (docs/adr/0056-house-and-closures.md); it knows
no closed schedules, so it goes on selling them.

May be interrupted anywhere, and repeated. MariaDB 10.11 copies the two tables whose prices change,
and whoever writes to them waits meanwhile: 24 s and 5 s for a million reservations of a seat, on
two busy cores. A table whose prices have three places already is left alone.
"""

from servicekit.ddl import change_tables

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    change_tables(
        # A row means that nobody may hold a seat of the schedule.
        """
        CREATE TABLE IF NOT EXISTS closed_schedule (
            schedule_id BIGINT NOT NULL PRIMARY KEY,
            closed_at DATETIME(6) NOT NULL
        ) ENGINE = InnoDB
        """,
        # How many seats the house has: as many claims name its reservation.
        """
        ALTER TABLE schedule_sales ADD COLUMN IF NOT EXISTS blocked INT NOT NULL DEFAULT 0,
            ALGORITHM = INSTANT
        """,
        # ISO 4217. The version before sells in KRW.
        """
        ALTER TABLE reservation
            ADD COLUMN IF NOT EXISTS currency CHAR(3) CHARACTER SET ascii COLLATE ascii_bin
                NOT NULL DEFAULT 'KRW',
            ALGORITHM = INSTANT
        """,
        "ALTER TABLE reservation MODIFY price DECIMAL(15, 3) NOT NULL",
        "ALTER TABLE reservation_seat MODIFY price DECIMAL(15, 3) NOT NULL",
    )
