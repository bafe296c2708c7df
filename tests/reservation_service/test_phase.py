"""The phase of the migration to several seats, as a program of this version learns it."""

from collections.abc import AsyncIterator

import pytest

from harness.local.stack import Stack
from reservation_service.phase import CONTRACTED, EXPANDED, MigrationPhase, TablesTooOld
from servicekit.errors import Unavailable
from servicekit.mysql import Database


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Revision:
    """The table in which Alembic stores the revision, in a schema of its own."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def set(self, version: str) -> None:
        async with self.database.connection() as connection:
            await connection.execute(
                "CREATE OR REPLACE TABLE alembic_version (version_num VARCHAR(32))"
            )
            await connection.execute("INSERT INTO alembic_version VALUES (%s)", version)


@pytest.fixture
async def revision(servers: Stack, mysql_urls: dict[str, str]) -> AsyncIterator[Revision]:
    servers.mariadb.create_database("phase", "phase")
    url = f"mysql://phase:phase@{servers.mariadb.address}/phase"
    async with Database(url, max_size=2) as database:
        yield Revision(database)


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_several_seats_wait_for_the_contraction(revision: Revision, clock: Clock) -> None:
    phase = MigrationPhase(revision.database, clock=clock)
    await revision.set(EXPANDED)
    assert not await phase.several_seats()
    await revision.set(CONTRACTED)
    clock.now += 4.9
    assert not await phase.several_seats(), "read at most every 5 s"
    clock.now += 0.2
    assert await phase.several_seats()


async def test_contracted_tables_are_read_once(revision: Revision, clock: Clock) -> None:
    phase = MigrationPhase(revision.database, clock=clock)
    await revision.set("0005")
    assert await phase.several_seats()
    await revision.set(EXPANDED)
    clock.now += 1000
    assert await phase.several_seats()


async def test_tables_that_are_too_old_are_refused(revision: Revision, clock: Clock) -> None:
    phase = MigrationPhase(revision.database, clock=clock)
    await revision.set("0002")
    for _ in range(2):
        with pytest.raises(TablesTooOld, match="--expand"):
            await phase.several_seats()
    await revision.set(EXPANDED)
    assert not await phase.several_seats(), "asked again, without a pause"


async def test_without_a_database_the_phase_is_unknown(clock: Clock) -> None:
    async with Database("mysql://u:p@127.0.0.1:1/s") as nowhere:
        with pytest.raises(Unavailable):
            await MigrationPhase(nowhere, clock=clock).several_seats()
