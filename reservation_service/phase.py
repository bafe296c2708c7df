"""Which phase of the migration to several seats the tables are in, and the mark of this version.

Revision 0003 expands the tables: triggers keep the rows of each seat right for what the version
before writes, which can read one seat in each reservation only. Revision 0004 contracts them: then
that version runs no more, and a reservation may have several seats (docs/adr/0045).
"""

import time
from collections.abc import Callable

from servicekit import logs
from servicekit.mysql import Database

log = logs.get(__name__)

#: What each connection of this version sets. The triggers of 0003 do nothing for a session with
#: this variable, because its statements write the rows of each seat themselves.
SESSION = {"@frontrow_writes_claims": 1}

EXPANDED = "0003"
CONTRACTED = "0004"
#: How old "not contracted yet" may be, in seconds.
READ_SECONDS = 5.0

VERSION = "SELECT version_num FROM alembic_version"


class TablesTooOld(Exception):
    """The tables lack what this version needs."""


class MigrationPhase:
    """Implements `ports.Phase` by Alembic's table. Contracted tables stay contracted."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._contracted = False
        self._read_at = clock() - READ_SECONDS

    async def several_seats(self) -> bool:
        """Whether a reservation may have several seats; right away, or at most 5 s after the
        contraction. Costs a query only before the contraction, at most about every 5 s.

        Raises TablesTooOld before the expansion, and what the database raises.
        """
        if not self._contracted and self._clock() - self._read_at >= READ_SECONDS:
            await self._read()
        return self._contracted

    async def _read(self) -> None:
        async with self._database.connection() as connection:
            row = await connection.fetch_one(VERSION)
        version = str(row.version_num) if row is not None else ""
        if version < EXPANDED:
            raise TablesTooOld(
                f"the tables are at revision {version or 'none'}, and this version needs"
                f" {EXPANDED}: run python -m servicekit.migrate reservation_service --expand"
            )
        self._read_at = self._clock()
        self._contracted = version >= CONTRACTED
        if self._contracted:
            log.info("several_seats_on", revision=version)
