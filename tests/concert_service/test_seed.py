"""The seeder, on MariaDB."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from io import StringIO
from typing import TypeVar

import pytest
from rich.console import Console

from concert_service import seed
from concert_service.catalogue_repository import CatalogueRepository
from concert_service.seat_map_repository import SeatMapRepository
from concert_service.seat_map_service import SeatMapService
from concert_service.servicer import to_seat_maps_response
from seat_maps.decoding import SeatMapDecoder
from seat_maps.seat_map import SeatMap
from servicekit.mysql import Database
from tests.fakes.concert import today

Answer = TypeVar("Answer")


@pytest.fixture
def seeded_url(mysql_urls: dict[str, str]) -> Iterator[str]:
    """The service's schema; afterwards, the rows of the seeder are deleted."""
    yield mysql_urls["concert"]
    ask(mysql_urls["concert"], "DELETE FROM seat_map WHERE schedule_id <= 300")
    for table, most in (("seat", 45_000), ("schedule", 300), ("concert", 3)):
        ask(mysql_urls["concert"], f"DELETE FROM {table} WHERE id <= {most}")


def ask(url: str, sql: str) -> tuple[object, ...] | None:
    async def fetch() -> tuple[object, ...] | None:
        async with Database(url) as database, database.connection() as connection:
            return await connection.fetch_one(sql)

    return asyncio.run(fetch())


def run_seeder(url: str, size: seed.Size) -> str:
    out = StringIO()
    asyncio.run(seed.seed(url, size, Console(file=out, width=200)))
    return out.getvalue()


COUNTS = (
    "SELECT (SELECT COUNT(*) FROM concert WHERE id <= 3),"
    " (SELECT COUNT(*) FROM schedule WHERE id <= 300),"
    " (SELECT COUNT(*) FROM seat WHERE id <= 45000)"
)


def test_seeder_adds_what_is_missing_and_nothing_else(seeded_url: str) -> None:
    run_seeder(seeded_url, seed.SIZES["small"])
    run_seeder(seeded_url, seed.Size(3, 5))
    assert ask(seeded_url, COUNTS) == (3, 15, 2250)
    assert "Seeded" not in run_seeder(seeded_url, seed.Size(3, 5))
    assert "Seeded" not in run_seeder(seeded_url, seed.SIZES["small"])
    # The documented ids: the last seat of schedule 2 of concert 3.
    assert ask(
        seeded_url,
        "SELECT s.concert_id, seat.schedule_id, seat_num, price FROM seat"
        " JOIN schedule s ON s.id = seat.schedule_id WHERE seat.id = 201 * 150 + 150",
    ) == (3, 202, "J15", Decimal("90000.00"))
    assert ask(seeded_url, "SELECT seat_num, price FROM seat WHERE id = 1") == (
        "A1",
        Decimal("150000.00"),
    )


def test_seeder_continues_after_an_interruption(seeded_url: str) -> None:
    run_seeder(seeded_url, seed.Size(3, 5))
    ask(seeded_url, "DELETE FROM seat WHERE schedule_id = 203")
    ask(seeded_url, "DELETE FROM schedule WHERE id = 203")
    # The maps of another concert were not made.
    ask(seeded_url, "DELETE FROM seat_map WHERE schedule_id = 3")
    run_seeder(seeded_url, seed.Size(3, 5))
    assert ask(seeded_url, COUNTS) == (3, 15, 2250)


def maps_of(url: str, schedule_id: int) -> list[SeatMap]:
    """The map of a schedule, and those of the others of its concert."""

    async def read() -> list[SeatMap]:
        async with Database(url) as database:
            found = await SeatMapService(SeatMapRepository(database)).get_seat_maps(
                [schedule_id], []
            )
        return SeatMapDecoder().decode(to_seat_maps_response(found))

    return asyncio.run(read())


def is_as_documented(seat_map: SeatMap) -> bool:
    layout = seat_map.layout
    return (
        len(layout) == 150
        and layout.row_names == tuple("ABCDEFGHIJ")
        and set(layout.row_sections) == {"Main Hall"}
        and [(c.name, c.price) for c in layout.price_categories]
        == [("Front", Decimal(150_000)), ("Middle", Decimal(120_000)), ("Rear", Decimal(90_000))]
        and list(layout.places) == list(range(1, 16)) * 10
        and [layout.seat_nums[i] for i in range(150) if layout.accessible[i]]
        == ["J1", "J2", "J14", "J15"]
        and seat_map.ids()[0] == (seat_map.schedule_id - 1) * 150 + 1
    )


def test_seeded_schedules_share_a_layout_and_have_maps(seeded_url: str) -> None:
    run_seeder(seeded_url, seed.Size(3, 5))
    assert ask(seeded_url, "SELECT COUNT(*), COUNT(DISTINCT layout) FROM seat_map") == (15, 1)
    maps = maps_of(seeded_url, 103)
    assert [seat_map.schedule_id for seat_map in maps] == [103, 101, 102, 104, 105]
    assert all(is_as_documented(seat_map) for seat_map in maps)


def test_seeder_completes_what_the_version_before_has_added(seeded_url: str) -> None:
    run_seeder(seeded_url, seed.Size(2, 5))
    ask(seeded_url, "DELETE FROM seat_map WHERE schedule_id <= 300")
    ask(
        seeded_url,
        "UPDATE seat SET row_name = NULL, place = NULL, price_category = NULL, section = '',"
        " is_accessible = 0 WHERE id <= 45000",
    )
    # Read before the seeder runs: the rows follow from the numbers, the categories from the prices.
    before = maps_of(seeded_url, 1)[0].layout
    assert before.row_names == tuple("ABCDEFGHIJ")
    assert list(before.places) == list(range(1, 16)) * 10
    assert [c.name for c in before.price_categories] == ["150000.00", "120000.00", "90000.00"]
    run_seeder(seeded_url, seed.Size(2, 5))
    assert all(is_as_documented(seat_map) for seat_map in maps_of(seeded_url, 1))
    assert all(is_as_documented(seat_map) for seat_map in maps_of(seeded_url, 101))
    assert "Seeded" not in run_seeder(seeded_url, seed.Size(2, 5))


def test_seeder_moves_past_dates_to_the_coming_days(seeded_url: str) -> None:
    run_seeder(seeded_url, seed.Size(3, 5))
    ask(seeded_url, "UPDATE schedule SET date = date - INTERVAL 30 DAY WHERE id <= 300")
    assert "Moved 15 schedules" in run_seeder(seeded_url, seed.Size(3, 5))
    assert ask(seeded_url, "SELECT MIN(date), MAX(date) FROM schedule WHERE id <= 300") == (
        today() + timedelta(days=1),
        today() + timedelta(days=5),
    )


def test_seeder_reports_errors_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEED", "medium")
    assert seed.main() == 2
    assert "SEED must be full or small" in capsys.readouterr().err
    monkeypatch.setenv("SEED", "small")
    monkeypatch.setenv("CONCERT_MYSQL_URL", "mysql://concert:secret@127.0.0.1:1/concert")
    assert seed.main() == 2
    error = capsys.readouterr().err
    assert "127.0.0.1:1" in error
    assert "secret" not in error
    assert len(error.splitlines()) == 1


def test_seeder_tells_who_follows_the_catalogue(seeded_url: str) -> None:
    def changed(size: seed.Size) -> list[int]:
        """The concerts that a run of the seeder has changed, by what it told."""
        before = version()
        run_seeder(seeded_url, size)
        return [concert for concert in changes_after(before) if concert <= 3]

    def version() -> int:
        return asyncio.run(with_catalogue(lambda catalogue: catalogue.news(None))).version

    def changes_after(before: int) -> list[int]:
        found = asyncio.run(with_catalogue(lambda catalogue: catalogue.changes_after(before)))
        return [concert.id for concert in found.concerts]

    async def with_catalogue(
        work: Callable[[CatalogueRepository], Awaitable[Answer]],
    ) -> Answer:
        async with Database(seeded_url) as database:
            return await work(CatalogueRepository(database))

    assert changed(seed.Size(2, 5)) == [1, 2]
    assert changed(seed.Size(2, 5)) == []
    assert changed(seed.Size(3, 5)) == [3]
    ask(seeded_url, "UPDATE schedule SET date = date - INTERVAL 30 DAY WHERE id <= 300")
    assert changed(seed.Size(3, 5)) == [1, 2, 3]


def test_seeder_leaves_imported_events_alone(seeded_url: str) -> None:
    run_seeder(seeded_url, seed.Size(2, 5))
    ask(seeded_url, "INSERT INTO concert (id, title, external_id) VALUES (3, 'Mine', 'mine')")
    # An id that the seeder would give to a date of concert 3.
    ask(
        seeded_url,
        "INSERT INTO schedule (id, concert_id, date, seat_count)"
        " VALUES (201, 3, UTC_DATE() - INTERVAL 1 DAY, 0)",
    )
    assert "Moved" not in run_seeder(seeded_url, seed.Size(2, 5))
    with pytest.raises(seed.CannotSeed, match="Imported events"):
        run_seeder(seeded_url, seed.Size(3, 5))
    assert ask(seeded_url, COUNTS) == (3, 11, 1500)
