"""Fills the schema with concerts to sell: `SEED=full python -m concert_service.seed`.

SEED=full (the default) makes 100 concerts with 100 schedules of 150 seats each, SEED=small makes 2
with 3 of 150. Ids are the same everywhere: concert c, schedule (c - 1) * 100 + k, seat
(schedule - 1) * 150 + n, each counted from 1. Adds what is missing and keeps existing rows, so a
run that was interrupted can be repeated; completes seats that the version before has added. Moves
schedules whose dates have passed to the coming days.
"""

import asyncio
import os
import sys
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from concert_service.changes import note_change
from concert_service.seat_map_repository import SeatMapRepository
from concert_service.settings import Settings
from servicekit import logs
from servicekit.errors import Unavailable
from servicekit.mysql import AccessDenied, Connection, Database, DatabaseError
from servicekit.settings import load

# Longer than the wait for another seeder.
QUERY_SECONDS = 150.0
NO_SUCH_TABLE = 1146

CONCERTS = 100
SCHEDULES_PER_CONCERT = 100
SEATS_PER_SCHEDULE = 150
SEATS_PER_ROW = 15

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

# The statements below share these variables of the session.
SET_CONCERT = "SET @concert = %s, @schedules = %s"

# Imported concerts have an external id; these have none, and no document that could change them.
# Their dates are in UTC.
ADD_CONCERT = """
INSERT INTO concert (id, title, venue, time_zone, room, currency, status)
SELECT @concert, %s, 'Main Hall', 'UTC', 'main', 'KRW', 'PUBLISHED'
FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM concert WHERE id = @concert)
"""

ADD_SCHEDULES = f"""
INSERT INTO schedule (id, concert_id, date, seat_count)
SELECT (@concert - 1) * {SCHEDULES_PER_CONCERT} + k.seq, @concert,
       UTC_DATE() + INTERVAL k.seq DAY, {SEATS_PER_SCHEDULE}
FROM seq_1_to_{SCHEDULES_PER_CONCERT} k
WHERE k.seq <= @schedules AND NOT EXISTS (
    SELECT 1 FROM schedule s WHERE s.id = (@concert - 1) * {SCHEDULES_PER_CONCERT} + k.seq)
"""

# The ids of the concert's schedules.
_OF_CONCERT = f"""
BETWEEN (@concert - 1) * {SCHEDULES_PER_CONCERT} + 1
    AND (@concert - 1) * {SCHEDULES_PER_CONCERT} + @schedules
"""


def _columns(n: str) -> dict[str, str]:
    """What the n-th seat of a schedule has, in SQL: rows A to J, of which three are of the first
    price category, three of the next, and four of the last. The ends of row J are accessible."""
    row = f"SUBSTRING('ABCDEFGHIJ', 1 + ({n} - 1) DIV {SEATS_PER_ROW}, 1)"
    place = f"1 + ({n} - 1) MOD {SEATS_PER_ROW}"

    def by_row(front: str, middle: str, rear: str) -> str:
        return (
            f"CASE WHEN {n} <= {3 * SEATS_PER_ROW} THEN {front}"
            f" WHEN {n} <= {6 * SEATS_PER_ROW} THEN {middle} ELSE {rear} END"
        )

    return {
        "seat_num": f"CONCAT({row}, {place})",
        "price": by_row("150000", "120000", "90000"),
        "row_name": row,
        "place": place,
        "price_category": by_row("'Front'", "'Middle'", "'Rear'"),
        "section": "'Main Hall'",
        "is_accessible": f"{n} > {9 * SEATS_PER_ROW} AND ({place}) IN (1, 2, 14, 15)",
    }


ADD_SEATS = f"""
INSERT INTO seat (id, schedule_id, position, {", ".join(_columns("n.seq"))})
SELECT (s.id - 1) * {SEATS_PER_SCHEDULE} + n.seq, s.id, n.seq,
       {", ".join(_columns("n.seq").values())}
FROM schedule s JOIN seq_1_to_{SEATS_PER_SCHEDULE} n
WHERE s.id {_OF_CONCERT} AND NOT EXISTS (SELECT 1 FROM seat WHERE seat.schedule_id = s.id)
ORDER BY s.id, n.seq
"""

# The version before has added seats without a row. Their numbers and prices stay.
COMPLETE_SEATS = f"""
UPDATE seat SET {
    ", ".join(
        f"{column} = {value}"
        for column, value in _columns("position").items()
        if column not in ("seat_num", "price")
    )
}
WHERE schedule_id {_OF_CONCERT} AND row_name IS NULL
  AND id = (schedule_id - 1) * {SEATS_PER_SCHEDULE} + position
"""

# Every transaction that changes seats runs both: see `concert_service.seat_map`.
LOCK_SCHEDULES = f"SELECT id FROM schedule WHERE id {_OF_CONCERT} FOR UPDATE"
DELETE_MAPS = f"DELETE FROM seat_map WHERE schedule_id {_OF_CONCERT}"

# Selects the seeder's own schedules: their ids follow from their concert, which was not imported.
SEEDED = f"""
id <= {CONCERTS * SCHEDULES_PER_CONCERT} AND concert_id = 1 + (id - 1) DIV {SCHEDULES_PER_CONCERT}
AND concert_id NOT IN (SELECT id FROM concert WHERE external_id IS NOT NULL)
"""

HAS_IMPORTED = "SELECT id FROM concert WHERE external_id IS NOT NULL AND id <= %s LIMIT 1"

# A concert is added in one transaction, and so are its maps after it: if all of them exist, it is
# complete, unless the version before has added it, whose seats have no row.
COMPLETE_CONCERTS = f"""
SELECT s.concert_id
FROM (SELECT id, concert_id FROM schedule
      WHERE {SEEDED} AND (id - 1) MOD {SCHEDULES_PER_CONCERT} < %s) s
LEFT JOIN seat_map ON seat_map.schedule_id = s.id
LEFT JOIN seat first_seat ON first_seat.id = (s.id - 1) * {SEATS_PER_SCHEDULE} + 1
GROUP BY s.concert_id
HAVING COUNT(seat_map.schedule_id) = %s
   AND SUM(first_seat.id IS NOT NULL AND first_seat.row_name IS NULL) = 0
"""

COUNT_ALL = """
SELECT (SELECT COUNT(*) FROM concert) AS concerts, (SELECT COUNT(*) FROM schedule) AS schedules
"""

HAS_PAST = f"SELECT id FROM schedule WHERE {SEEDED} AND date < UTC_DATE() LIMIT 1"

MOVE_TO_COMING_DAYS = f"""
UPDATE schedule
SET date = UTC_DATE() + INTERVAL (1 + (id - 1) MOD {SCHEDULES_PER_CONCERT}) DAY
WHERE {SEEDED}
"""

LOCK = "SELECT GET_LOCK(CONCAT('frontrow-seed-', DATABASE()), 120) AS locked"

UNLOCK = "DO RELEASE_LOCK(CONCAT('frontrow-seed-', DATABASE()))"


@dataclass(frozen=True)
class Size:
    concerts: int
    schedules: int


SIZES = {"full": Size(CONCERTS, SCHEDULES_PER_CONCERT), "small": Size(2, 3)}


class CannotSeed(Exception):
    """Why seeding is impossible, in one sentence for the user."""


def title(concert: int) -> str:
    """Returns the title of the concert with this id; the first 100 are all different."""
    row, band = divmod(concert - 1, len(BANDS))
    return f"{BANDS[band]}: {PROGRAMMES[(row + band) % len(PROGRAMMES)]}"


async def seed(mysql_url: str, size: Size, console: Console) -> None:
    """Adds what is missing. Raises CannotSeed."""
    server = f"MariaDB at {urlsplit(mysql_url).netloc.rpartition('@')[2]}"
    try:
        async with Database(mysql_url, max_size=2, query_timeout=QUERY_SECONDS) as database:
            await _fill(database, size, console)
    except AccessDenied as error:
        raise CannotSeed(
            f"{server} refuses access (error {error.number}): check CONCERT_MYSQL_URL."
        ) from error
    except (Unavailable, TimeoutError) as error:
        raise CannotSeed(
            f"{server} is unavailable: start it, or set CONCERT_MYSQL_URL to its address; then run"
            " this again."
        ) from error
    except DatabaseError as error:
        if error.number != NO_SUCH_TABLE:
            raise
        raise CannotSeed(
            "The tables do not exist yet: run `python -m servicekit.migrate concert_service`."
        ) from error


async def _fill(database: Database, size: Size, console: Console) -> None:
    # Two seeders at once would conflict on their keys; the second one finds nothing missing.
    async with database.connection() as lock:
        row = await lock.fetch_one(LOCK)
        if row is None or row.locked != 1:
            raise CannotSeed("Another seeder has been running for two minutes: wait for its end.")
        try:
            async with database.connection() as connection:
                if await connection.fetch_one(HAS_IMPORTED, size.concerts) is not None:
                    raise CannotSeed(
                        "Imported events have the ids that the seeder gives: seed an empty schema"
                        " first, then import events."
                    )
                moved = await _move_past_schedules(connection, console)
                missing = await _missing_concerts(connection, size)
            await _add_concerts(database, missing, size, console)
            if changed := range(1, CONCERTS + 1) if moved else missing:
                await database.run(partial(note_change, concert_ids=changed))
        finally:
            await lock.execute(UNLOCK)
    async with database.connection() as connection:
        found = await connection.fetch_one(COUNT_ALL)
    assert found is not None
    # Without the seats: to count a million of them delays the start.
    console.print(f"The database has {found.concerts} concerts and {found.schedules:,} schedules.")


async def _move_past_schedules(connection: Connection, console: Console) -> bool:
    """Returns whether it has moved any."""
    if await connection.fetch_one(HAS_PAST) is None:
        return False
    moved = await connection.execute(MOVE_TO_COMING_DAYS)
    console.print(f"Moved {moved:,} schedules to the coming days.")
    return True


async def _missing_concerts(connection: Connection, size: Size) -> list[int]:
    """Lists the ids of the concerts that are missing or incomplete."""
    rows = await connection.fetch_all(COMPLETE_CONCERTS, size.schedules, size.schedules)
    complete = {row.concert_id for row in rows}
    return [concert for concert in range(1, size.concerts + 1) if concert not in complete]


async def _add_concerts(
    database: Database, concerts: list[int], size: Size, console: Console
) -> None:
    maps = SeatMapRepository(database)
    done = size.concerts - len(concerts)
    with _progress(console) as progress:
        bar = progress.add_task("concerts", total=size.concerts, completed=done)
        for concert in concerts:
            await database.execute_transaction(
                (SET_CONCERT, concert, size.schedules),
                (ADD_CONCERT, title(concert)),
                (ADD_SCHEDULES,),
                (LOCK_SCHEDULES,),
                (COMPLETE_SEATS,),
                (ADD_SEATS,),
                (DELETE_MAPS,),
            )
            first = (concert - 1) * SCHEDULES_PER_CONCERT + 1
            await maps.make_maps(range(first, first + size.schedules))
            done += 1
            progress.update(bar, completed=done)
            if not console.is_terminal and (done % 10 == 0 or done == size.concerts):
                console.print(f"Seeded {done} of {size.concerts} concerts.")


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
    """Seeds as SEED and CONCERT_MYSQL_URL say; returns the exit status."""
    wanted = os.environ.get("SEED") or "full"
    try:
        if wanted not in SIZES:
            raise CannotSeed(f"SEED must be full or small, not {wanted!r}.")
        url = load(Settings).mysql_url
        asyncio.run(seed(url, SIZES[wanted], Console(highlight=False)))
    except CannotSeed as error:
        print(f"concert_service.seed: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("concert_service.seed: stopped; run it again to continue.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    # An error is one sentence on standard error and nothing else.
    logs.configure("CRITICAL")
    sys.exit(main())
