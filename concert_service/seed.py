"""Fills the schema with concerts to sell: `SEED=full python -m concert_service.seed`.

SEED=full (the default) gives 100 concerts of 100 schedules of 150 seats, SEED=small 2 of 3 of
150. Ids are the same everywhere: concert c, schedule (c - 1) * 100 + k, seat
(schedule - 1) * 150 + n, each counted from 1. What is there is left alone and what is missing is
added, so that a run that was cut short is simply started again; schedules whose dates have
passed are moved to the coming days.
"""

import os
import sys
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import pymysql
from pymysql.constants import ER
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from concert_service.settings import ConcertSettings
from servicekit.settings import load

SCHEDULES_A_CONCERT = 100
SEATS_A_SCHEDULE = 150
SEATS_A_ROW = 15

BANDS = (
    "The Paper Lighthouses",
    "Velvet Tramway",
    "Nine Quiet Harbours",
    "Copper Birch Quartet",
    "Marble Pigeons",
    "Salt & Semaphore",
    "The Late Cartographers",
    "Orchard Static",
    "Hollow Meridian",
    "Lantern Street Choir",
    "Six Minute Winter",
    "The Borrowed Umbrellas",
    "Glass Ferry",
    "Tin Cathedral",
    "Amber Switchboard",
    "The Unhurried Foxes",
    "Northbound Piano Club",
    "Cinder & Clover",
    "Moss Radio Orchestra",
    "The Second Balcony",
)
PROGRAMMES = (
    "Songs for Empty Stations",
    "The Long Way Home",
    "Live in the Round",
    "Anniversary Tour",
    "An Evening Unplugged",
)

ADD_CONCERT = "INSERT INTO concert (id, title) VALUES (%(concert)s, %(title)s)"

ADD_SCHEDULES = f"""
INSERT INTO schedule (id, concert_id, date, seat_count)
SELECT (%(concert)s - 1) * {SCHEDULES_A_CONCERT} + k.seq, %(concert)s,
       UTC_DATE() + INTERVAL k.seq DAY, {SEATS_A_SCHEDULE}
FROM seq_1_to_{SCHEDULES_A_CONCERT} k
WHERE k.seq <= %(schedules)s AND NOT EXISTS (
    SELECT 1 FROM schedule s WHERE s.id = (%(concert)s - 1) * {SCHEDULES_A_CONCERT} + k.seq)
"""

# Rows A to J: the front three, the middle three and the rest have a price each.
ADD_SEATS = f"""
INSERT INTO seat (id, schedule_id, position, seat_num, price)
SELECT (s.id - 1) * {SEATS_A_SCHEDULE} + n.seq, s.id, n.seq,
       CONCAT(SUBSTRING('ABCDEFGHIJ', 1 + (n.seq - 1) DIV {SEATS_A_ROW}, 1),
              1 + (n.seq - 1) MOD {SEATS_A_ROW}),
       CASE WHEN n.seq <= 3 * {SEATS_A_ROW} THEN 150000
            WHEN n.seq <= 6 * {SEATS_A_ROW} THEN 120000
            ELSE 90000 END
FROM schedule s JOIN seq_1_to_{SEATS_A_SCHEDULE} n
WHERE s.id > (%(concert)s - 1) * {SCHEDULES_A_CONCERT}
  AND s.id <= (%(concert)s - 1) * {SCHEDULES_A_CONCERT} + %(schedules)s
  AND NOT EXISTS (SELECT 1 FROM seat WHERE seat.schedule_id = s.id)
ORDER BY s.id, n.seq
"""

# Only what this seeder made: its ids tell the concert.
SEEDED = f"id <= %(last)s AND concert_id = 1 + (id - 1) DIV {SCHEDULES_A_CONCERT}"

# A concert is added in one transaction, so its schedules tell that it is complete.
SCHEDULES_BY_CONCERT = f"""
SELECT concert_id, COUNT(*) FROM schedule
WHERE {SEEDED} AND (id - 1) MOD {SCHEDULES_A_CONCERT} < %(schedules)s GROUP BY concert_id
"""

COUNT_PAST = f"SELECT COUNT(*) FROM schedule WHERE {SEEDED} AND date < UTC_DATE()"

MOVE_TO_COMING_DAYS = f"""
UPDATE schedule
SET date = UTC_DATE() + INTERVAL (1 + (id - 1) MOD {SCHEDULES_A_CONCERT}) DAY
WHERE {SEEDED}
"""


@dataclass(frozen=True)
class Size:
    concerts: int
    schedules: int


SIZES = {"full": Size(100, SCHEDULES_A_CONCERT), "small": Size(2, 3)}


class CannotSeed(Exception):
    """Why there is nothing to be done, in one sentence for a person."""


def title(concert: int) -> str:
    """The title of the concert with this id; all of the first 100 differ."""
    row, band = divmod(concert - 1, len(BANDS))
    return f"{BANDS[band]}: {PROGRAMMES[(row + band) % len(PROGRAMMES)]}"


def seed(mysql_url: str, size: Size, console: Console) -> None:
    """Adds what is missing. Raises CannotSeed."""
    parts = urlsplit(mysql_url)
    try:
        connection = pymysql.connect(
            host=parts.hostname or "127.0.0.1",
            port=parts.port or 3306,
            user=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            database=parts.path.lstrip("/"),
            charset="utf8mb4",
            connect_timeout=5,
        )
    except pymysql.err.OperationalError as error:
        raise CannotSeed(
            f"MariaDB at {parts.hostname}:{parts.port or 3306} does not let us in"
            f" (error {error.args[0]}): start it, or set CONCERT_MYSQL_URL to where it is."
        ) from error
    try:
        with connection:
            _fill(connection, size, console)
    except pymysql.err.ProgrammingError as error:
        if error.args[0] != ER.NO_SUCH_TABLE:
            raise
        raise CannotSeed(
            "The tables are not there yet: run `python -m servicekit.migrate concert_service`."
        ) from error
    except (pymysql.err.OperationalError, pymysql.err.InterfaceError) as error:
        raise CannotSeed(
            f"MariaDB went away or refused (error {error.args[0]}): run this again to go on."
        ) from error


def _fill(
    connection: "pymysql.Connection[pymysql.cursors.Cursor]", size: Size, to: Console
) -> None:
    with connection.cursor() as cursor:
        # Two seeders at once would trip over each other's keys; the second finds all done.
        cursor.execute("SELECT GET_LOCK(CONCAT('frontrow-seed-', DATABASE()), 120)")
        if cursor.fetchone() != (1,):
            raise CannotSeed("Another seeder has been at work for two minutes: let it finish.")
        values: dict[str, object] = {
            "last": SIZES["full"].concerts * SCHEDULES_A_CONCERT,
            "schedules": size.schedules,
        }
        cursor.execute(COUNT_PAST, values)
        if cursor.fetchone() != (0,):
            moved = cursor.execute(MOVE_TO_COMING_DAYS, values)
            connection.commit()
            to.print(f"Moved {moved:,} schedules to the coming days.")
        cursor.execute(SCHEDULES_BY_CONCERT, values)
        complete = {concert for concert, count in cursor.fetchall() if count == size.schedules}
        missing = [c for c in range(1, size.concerts + 1) if c not in complete]
        cursor.execute("SELECT id FROM concert")
        known = {concert for (concert,) in cursor.fetchall()}
        with _progress(to) as progress:
            bar = progress.add_task(
                "concerts", total=size.concerts, completed=size.concerts - len(missing)
            )
            for done, concert in enumerate(missing, start=size.concerts - len(missing) + 1):
                values |= {"concert": concert, "title": title(concert)}
                if concert not in known:
                    cursor.execute(ADD_CONCERT, values)
                cursor.execute(ADD_SCHEDULES, values)
                cursor.execute(ADD_SEATS, values)
                connection.commit()
                progress.update(bar, completed=done)
                if not to.is_terminal and (done % 10 == 0 or done == size.concerts):
                    to.print(f"Seeded {done} of {size.concerts} concerts.")
    seats = size.concerts * size.schedules * SEATS_A_SCHEDULE
    to.print(
        f"{size.concerts} concerts, {size.concerts * size.schedules:,} schedules,"
        f" {seats:,} seats are there."
    )


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("Seeding"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("concerts"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


def main() -> int:
    """Seeds as the environment says; returns the exit status."""
    wanted = os.environ.get("SEED") or "full"
    try:
        if wanted not in SIZES:
            raise CannotSeed(f"SEED must be full or small, not {wanted!r}.")
        seed(load(ConcertSettings).mysql_url, SIZES[wanted], Console(highlight=False))
    except CannotSeed as error:
        print(f"concert_service.seed: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("concert_service.seed: stopped; run it again to go on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
