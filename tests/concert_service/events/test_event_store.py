"""Imports into MariaDB: what they store, keep, and tell reservation_service."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from pydantic import JsonValue

from concert_service import seat_map_repository
from concert_service.domain import EventStatus, Seat
from concert_service.events.domain import KEPT_DOCUMENTS, Imported
from concert_service.events.errors import EventChanged, EventNotFound, WrongEventStatus
from concert_service.events.reading import ValidDocument, read
from concert_service.events.repository import EventRepository
from concert_service.events.service import EventService
from concert_service.rooms.errors import RoomNotFound
from concert_service.seat_map import PackedLayout, pack_layout
from protos.frontrow.concert.v1 import concert_pb2
from servicekit.errors import InvalidRequest
from servicekit.mysql import Database, Row
from tests.concert_service.events.documents import arena, at, encoded, hamlet, put

_OF_EVENTS = "concert_id IN (SELECT id FROM concert WHERE external_id IS NOT NULL)"
_SCHEDULES_OF_EVENTS = f"schedule_id IN (SELECT id FROM schedule WHERE {_OF_EVENTS})"


class Catalogue:
    """The use cases on MariaDB, and the tables behind them."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.service = EventService(EventRepository(database))

    async def imports(
        self, document: JsonValue, *, version: int = 0, dry_run: bool = False, csv: bytes = b""
    ) -> Imported:
        found = await self.service.import_event(
            encoded(document), csv, version, "Ophelia", dry_run=dry_run
        )
        assert found.problems == ()
        return found

    async def publish(self) -> None:
        await self.service.set_status("hamlet", EventStatus.PUBLISHED, 0, dry_run=False)

    async def ask(self, sql: str, *values: object) -> list[Row]:
        async with self.database.connection() as connection:
            return list(await connection.fetch_all(sql, *values))

    async def seats(self, schedule: str = "first-night") -> dict[str, Row]:
        """The seats of a date by their labels, in seat order."""
        rows = await self.ask(
            "SELECT seat.* FROM seat JOIN schedule ON schedule.id = seat.schedule_id"
            " WHERE schedule.external_id = %s ORDER BY position, seat.id",
            schedule,
        )
        return {row.seat_num: row for row in rows}

    async def schedule(self, external_id: str = "first-night") -> Row:
        (row,) = await self.ask("SELECT * FROM schedule WHERE external_id = %s", external_id)
        return row

    async def versions(self) -> tuple[int, int]:
        """The version of the catalogue, and how many changes of concerts it knows."""
        (row,) = await self.ask(
            "SELECT version, (SELECT COUNT(*) FROM catalogue_change) AS changes FROM catalogue"
        )
        return row.version, row.changes

    async def clear(self) -> None:
        async with self.database.transaction() as t:
            await t.execute(f"DELETE FROM event_version WHERE {_OF_EVENTS}")
            await t.execute(f"DELETE FROM seat_map WHERE {_SCHEDULES_OF_EVENTS}")
            await t.execute(f"DELETE FROM seat WHERE {_SCHEDULES_OF_EVENTS}")
            await t.execute(f"DELETE FROM schedule WHERE {_OF_EVENTS}")
            await t.execute("DELETE FROM concert WHERE external_id IS NOT NULL")


@pytest.fixture
async def catalogue(mysql_urls: dict[str, str]) -> AsyncIterator[Catalogue]:
    async with Database(mysql_urls["concert"], query_timeout=30) as database:
        catalogue = Catalogue(database)
        await catalogue.clear()
        yield catalogue
        await catalogue.clear()


async def test_an_import_stores_everything(catalogue: Catalogue) -> None:
    found = await catalogue.imports(hamlet())
    assert found.event is not None
    assert (found.event.version, found.event.status, found.event.seats) == (
        1,
        EventStatus.DRAFT,
        18,
    )
    (concert,) = await catalogue.ask("SELECT * FROM concert WHERE external_id = 'hamlet'")
    assert concert.title == "Hamlet: „Sein“ 🎭"
    assert concert.description == "A play.\n\nIn five acts."
    assert (concert.room, concert.currency, concert.time_zone) == ("main", "GBP", "Europe/London")
    seats = await catalogue.seats()
    assert list(seats) == ["A1", "A2", "A3", "A4", "B1", "B1½", "GA1", "GA2", "GA3"]
    ids = [seat.id for seat in seats.values()]
    assert ids == list(range(ids[0], ids[0] + 9))
    assert [seat.price_category for seat in seats.values()][3:7] == [
        *("Stalls", "Circle", "Stalls", "Standing")
    ]
    assert [float(seat.price) for seat in seats.values()][3:7] == [49.9, 30, 49.9, 0]
    assert [seat.is_accessible for seat in seats.values()][:3] == [1, 0, 0]
    assert [seat.is_companion for seat in seats.values()][:3] == [0, 1, 0]
    assert [seat.is_general_admission for seat in seats.values()][5:] == [0, 1, 1, 1]
    assert [seat.row_rank for seat in seats.values()][3:7] == [1, 3, 3, 4]
    assert [seat.is_blocked for seat in seats.values()] == [0, 0, 0, 1, 0, 0, 0, 0, 0]
    # The clocks of London go back at 01:00 UTC of this day; the show is half past midnight.
    last = await catalogue.schedule("last-night")
    assert str(last.date) == "2027-10-31"
    assert str(last.starts_at) == "2027-10-30 23:30:00"
    assert str(last.listed_until) == "2027-11-01 00:00:00"


async def test_the_same_document_again_changes_nothing(catalogue: Catalogue) -> None:
    first = await catalogue.imports(hamlet())
    versions = await catalogue.versions()
    seats = await catalogue.seats()
    again = await catalogue.imports(hamlet())
    assert again.event == first.event
    assert list(again.changes) == []
    assert await catalogue.versions() == versions
    assert await catalogue.seats() == seats
    # Also if the answer to the first import was lost, and the caller repeats it.
    assert (await catalogue.imports(hamlet(), version=7)).event == first.event


async def test_a_dry_run_stores_nothing(catalogue: Catalogue) -> None:
    found = await catalogue.imports(hamlet(), dry_run=True)
    assert found.event is None
    assert found.changes
    assert await catalogue.ask("SELECT id FROM concert WHERE external_id IS NOT NULL") == []
    await catalogue.imports(hamlet())
    before = await catalogue.seats()
    found = await catalogue.imports(hamlet(title="Macbeth"), dry_run=True)
    assert [(c.field, c.before, c.after) for c in found.changes] == [
        ("title", json.dumps("Hamlet: „Sein“ 🎭", ensure_ascii=False), '"Macbeth"'),
    ]
    assert await catalogue.seats() == before


_CATEGORIES = ("Stalls", "Circle", "Standing")
YARD: JsonValue = {
    "name": "Yard",
    "generalAdmission": {"capacity": 4, "priceCategory": "Standing"},
}


async def test_a_mistake_stores_nothing(catalogue: Catalogue) -> None:
    await catalogue.imports(hamlet())
    before = await catalogue.seats()
    document = hamlet(title="Macbeth")
    put(document, ("schedules", 1, "startsAt"), "soon")
    found = await catalogue.service.import_event(encoded(document), b"", 0, "", dry_run=False)
    assert [problem.field for problem in found.problems] == ["schedules[1].startsAt"]
    assert await catalogue.seats() == before
    found = await catalogue.service.import_event(
        encoded(hamlet(room="nowhere")), b"", 0, "", dry_run=False
    )
    assert [(p.field, p.line) for p in found.problems] == [("room", 83)]


async def test_ids_stay_and_only_what_differs_changes(catalogue: Catalogue) -> None:
    await catalogue.imports(hamlet())
    before = await catalogue.seats()
    schedule = await catalogue.schedule()
    document = hamlet()
    put(document, ("priceCategories", 1, "price"), "35")
    put(document, ("sections", 0, "rows", 0, "to"), 5)
    put(document, ("schedules", 0, "salesUntil"), "2027-03-14T18:00:00Z")
    found = await catalogue.imports(document)
    assert [(c.field, c.before, c.after) for c in found.changes] == [
        ("priceCategories[Circle].price", '"30"', '"35"'),
        ("sections[Stalls].rows[A].to", "4", "5"),
        (
            "schedules[first-night].salesUntil",
            *('"2027-03-14T19:00:00Z"', '"2027-03-14T18:00:00Z"'),
        ),
    ]
    after = await catalogue.seats()
    assert list(after) == ["A1", "A2", "A3", "A4", "A5", "B1", "B1½", "GA1", "GA2", "GA3"]
    assert {label: seat.id for label, seat in after.items() if label != "A5"} == {
        label: seat.id for label, seat in before.items()
    }
    assert (after["B1"].price, after["B1½"].price) == (35, before["B1½"].price)
    changed = await catalogue.schedule()
    assert (changed.id, changed.seat_count) == (schedule.id, 10)
    assert str(changed.sales_until) == "2027-03-14 18:00:00"


async def test_prices_have_the_places_of_a_new_currency(catalogue: Catalogue) -> None:
    async def prices() -> set[str]:
        rows = await catalogue.ask(
            "SELECT packed FROM seat_layout JOIN seat_map ON layout = digest"
            f" WHERE {_SCHEDULES_OF_EVENTS}"
        )
        assert len(rows) == 2
        layouts = [concert_pb2.SeatLayout.FromString(row.packed) for row in rows]
        return {category.price for layout in layouts for category in layout.price_categories}

    await catalogue.imports(hamlet())
    assert await prices() == {"49.90", "30.00", "0.00"}
    await catalogue.imports(hamlet(currency="KWD"))
    assert await prices() == {"49.900", "30.000", "0.000"}
    document = hamlet()
    put(document, ("priceCategories", 1, "price"), "35")
    await catalogue.imports(document)
    assert await prices() == {"49.90", "35.00", "0.00"}


async def test_a_removed_seat_keeps_its_id_and_may_return(catalogue: Catalogue) -> None:
    await catalogue.imports(hamlet())
    await catalogue.publish()
    before = await catalogue.seats()
    schedule = (await catalogue.schedule()).id
    removed = hamlet(sections=[YARD])
    put(removed, ("schedules", 0, "blocked"), [])
    planned = await catalogue.imports(removed, dry_run=True)
    ids = [seat.id for label, seat in before.items() if label[0] in "AB"]
    assert planned.effects.removed[schedule] == ids
    assert set(planned.effects.removed) == set(planned.event.schedule_ids if planned.event else ())
    await catalogue.imports(removed)
    after = await catalogue.seats()
    assert {label for label, seat in after.items() if seat.is_removed} == {
        *("A1", "A2", "A3", "A4", "B1", "B1½")
    }
    assert (await catalogue.schedule()).seat_count == 10
    assert (await catalogue.imports(removed)).effects.removed == {}
    back = await catalogue.imports(hamlet())
    assert back.effects.released[schedule] == [id for id in ids if id != before["A4"].id]
    seats = await catalogue.seats()
    assert {label: (seat.id, seat.is_removed) for label, seat in seats.items()} == {
        **{label: (seat.id, 0) for label, seat in before.items()},
        "GA4": (seats["GA4"].id, 1),
    }


async def test_blocked_seats_are_planned_before_and_released_after(catalogue: Catalogue) -> None:
    await catalogue.imports(hamlet())
    schedule = (await catalogue.schedule()).id
    seats = await catalogue.seats()
    # Before it is published, reservation_service knows nothing.
    planned = await catalogue.imports(hamlet(), dry_run=True)
    assert planned.effects.blocked == {schedule: [seats["A4"].id]}
    _, effects = await catalogue.service.set_status(
        "hamlet", EventStatus.PUBLISHED, 0, dry_run=True
    )
    assert effects.blocked == {schedule: [seats["A4"].id]}
    await catalogue.publish()
    assert (await catalogue.imports(hamlet(), dry_run=True)).effects.blocked == {}
    document = hamlet()
    put(document, ("schedules", 0, "blocked", 0), {"section": "Yard", "label": "GA2"})
    for dry_run in (True, False):
        found = await catalogue.imports(document, dry_run=dry_run)
        assert found.effects.blocked == {schedule: [seats["GA2"].id]}
        assert found.effects.released == {schedule: [seats["A4"].id]}
    # Nobody knows whether the seat was released: every later import says so.
    again = await catalogue.imports(document)
    assert again.effects.blocked == {}
    assert again.effects.released == {schedule: [seats["A4"].id]}


async def test_a_new_blocked_seat_of_a_published_event_is_hidden_until_it_is_blocked(
    catalogue: Catalogue,
) -> None:
    await catalogue.imports(hamlet())
    await catalogue.publish()
    schedule = (await catalogue.schedule()).id
    document = hamlet()
    put(document, ("sections", 0, "rows", 0, "to"), 5)
    put(document, ("schedules", 0, "blocked", 0, "label"), "A5")
    schedules = at(document, "schedules")
    assert isinstance(schedules, list)
    schedules.append(
        {
            "externalId": "extra",
            "startsAt": "2027-03-15T19:30:00Z",
            "blocked": [{"section": "Yard", "label": "GA1"}],
        }
    )
    schedules.append({"externalId": "late", "startsAt": "2027-03-15T23:00:00Z"})
    assert (await catalogue.imports(document, dry_run=True)).effects.blocked == {}
    added = await catalogue.imports(document)
    a5 = (await catalogue.seats())["A5"]
    ga1 = (await catalogue.seats("extra"))["GA1"]
    extra = (await catalogue.schedule("extra")).id
    assert added.effects.blocked == {schedule: [a5.id], extra: [ga1.id]}
    assert (a5.is_removed, ga1.is_removed) == (1, 1)
    # What one new date hides, another one sells.
    late = await catalogue.seats("late")
    assert list(late) == list(await catalogue.seats("extra"))
    assert {(seat.is_blocked, seat.is_removed) for seat in late.values()} == {(0, 0)}
    planned = await catalogue.imports(document, dry_run=True)
    assert planned.effects.blocked == added.effects.blocked
    assert (await catalogue.seats())["A5"].is_removed
    await catalogue.imports(document)
    assert not (await catalogue.seats())["A5"].is_removed
    assert (await catalogue.imports(document, dry_run=True)).effects.blocked == {}


async def test_dates_are_closed_and_reopened(catalogue: Catalogue) -> None:
    await catalogue.imports(hamlet())
    await catalogue.publish()
    first, last = (await catalogue.schedule()).id, (await catalogue.schedule("last-night")).id
    document = hamlet()
    put(document, ("schedules", 0, "cancelled"), True)
    schedules = at(document, "schedules")
    assert isinstance(schedules, list)
    del schedules[1]
    for dry_run in (True, False):
        assert (await catalogue.imports(document, dry_run=dry_run)).effects.closed == [first, last]
    assert (await catalogue.imports(document)).effects.closed == []
    found = await catalogue.imports(hamlet())
    assert (found.effects.closed, found.effects.reopened) == ([], [first, last])
    assert not (await catalogue.schedule("last-night")).is_cancelled


async def test_a_date_that_returns_has_the_seats_of_the_present_document(
    catalogue: Catalogue,
) -> None:
    await catalogue.imports(hamlet())
    schedules = at(hamlet(), "schedules")
    assert isinstance(schedules, list)
    await catalogue.imports(hamlet(schedules=schedules[:1]))
    changed = hamlet(schedules=schedules[:1])
    put(changed, ("sections", 1, "generalAdmission", "capacity"), 5)
    await catalogue.imports(changed)
    assert len(await catalogue.seats("last-night")) == 9
    await catalogue.imports({**changed, "schedules": schedules})
    assert len(await catalogue.seats("last-night")) == 11


async def test_two_operators(catalogue: Catalogue) -> None:
    """The second one learns of the first one's change, and what differs."""
    await catalogue.imports(hamlet())
    await catalogue.imports(hamlet(title="Macbeth"), version=1)
    with pytest.raises(EventChanged) as raised:
        await catalogue.imports(hamlet(title="Lear"), version=1)
    assert raised.value.metadata == {"version": "2"}
    _, _, changes = await catalogue.service.get_event("hamlet", 0, 1)
    assert [(c.field, c.after) for c in changes] == [("title", '"Macbeth"')]
    with pytest.raises(EventChanged):
        await catalogue.imports(hamlet(title="Lear"), version=1, dry_run=True)
    with pytest.raises(EventChanged):
        await catalogue.imports(hamlet(externalId="new"), version=3)


async def test_two_operators_at_once(catalogue: Catalogue) -> None:
    titles = [f"Hamlet {n}" for n in range(4)]
    found = await asyncio.gather(
        *(catalogue.imports(hamlet(title=title)) for title in titles), return_exceptions=False
    )
    assert sorted(each.event.version for each in found if each.event) == [1, 2, 3, 4]
    assert len(await catalogue.ask("SELECT id FROM seat WHERE seat_num = 'B1½'")) == 2
    results = await asyncio.gather(
        *(catalogue.imports(hamlet(title=f"{t}!"), version=4) for t in titles),
        return_exceptions=True,
    )
    assert sum(isinstance(result, EventChanged) for result in results) == 3


async def test_the_last_documents_are_kept(catalogue: Catalogue) -> None:
    for n in range(1, KEPT_DOCUMENTS + 4):
        await catalogue.imports(hamlet(title=f"Hamlet {n}"))
    event, document, _ = await catalogue.service.get_event("hamlet", 0, 0)
    assert document == encoded(hamlet(title="Hamlet 23"))  # the same bytes
    assert event.version == 23
    _, document, _ = await catalogue.service.get_event("hamlet", 4, 0)
    assert document == encoded(hamlet(title="Hamlet 4"))
    for version in (3, 24):
        with pytest.raises(EventNotFound):
            await catalogue.service.get_event("hamlet", version, 0)
    with pytest.raises(EventNotFound):
        await catalogue.service.get_event("macbeth", 0, 0)


async def test_states_of_an_event(catalogue: Catalogue) -> None:
    await catalogue.imports(hamlet())
    with pytest.raises(EventNotFound):
        await catalogue.service.set_status("macbeth", EventStatus.PUBLISHED, 0, dry_run=False)
    with pytest.raises(EventChanged):
        await catalogue.service.set_status("hamlet", EventStatus.PUBLISHED, 5, dry_run=False)
    await catalogue.publish()
    await catalogue.publish()
    event, effects = await catalogue.service.set_status(
        "hamlet", EventStatus.CANCELLED, 2, dry_run=False
    )
    assert (event.version, event.status) == (3, EventStatus.CANCELLED)
    assert effects.closed == event.schedule_ids
    for status in (EventStatus.PUBLISHED, EventStatus.DRAFT):
        with pytest.raises(WrongEventStatus):
            await catalogue.service.set_status("hamlet", status, 0, dry_run=False)
    with pytest.raises(WrongEventStatus):
        await catalogue.imports(hamlet(title="Macbeth"))
    assert (await catalogue.imports(hamlet())).effects.reopened == []
    event, _ = await catalogue.service.set_status("hamlet", EventStatus.ARCHIVED, 0, dry_run=False)
    assert event.status is EventStatus.ARCHIVED


async def test_an_event_is_published_only_if_its_room_is_there(catalogue: Catalogue) -> None:
    async with catalogue.database.connection() as connection:
        await connection.execute(
            "INSERT INTO room (name, version, definition) VALUES ('hamlet-room', 1, '')"
        )
    try:
        await catalogue.imports(hamlet(room="hamlet-room"))
        async with catalogue.database.connection() as connection:
            await connection.execute("UPDATE room SET is_removed = 1 WHERE name = 'hamlet-room'")
        with pytest.raises(RoomNotFound):
            await catalogue.publish()
        # Nor does a published event get a room that somebody removes during the import.
        await catalogue.imports(hamlet())
        await catalogue.publish()
        document = read(encoded(hamlet(room="hamlet-room")))
        assert isinstance(document, ValidDocument)
        with pytest.raises(RoomNotFound):
            await EventRepository(catalogue.database).import_event(document, 0, "", dry_run=False)
        (concert,) = await catalogue.ask("SELECT room FROM concert WHERE external_id = 'hamlet'")
        assert concert.room == "main"
    finally:
        async with catalogue.database.connection() as connection:
            await connection.execute("DELETE FROM room WHERE name = 'hamlet-room'")


async def test_events_are_listed_page_by_page(catalogue: Catalogue) -> None:
    names = ["A", "B-2", "a", "b.1"]
    for name in reversed(names):
        await catalogue.imports(hamlet(externalId=name))
    first, token = await catalogue.service.list_events(3, "")
    rest, end = await catalogue.service.list_events(3, token)
    assert [event.external_id for event in (*first, *rest)] == names
    assert end == ""
    for wrong in ("!", "QQ==", "ü"):
        with pytest.raises(InvalidRequest):
            await catalogue.service.list_events(3, wrong)


async def test_seats_are_packed_while_other_calls_go_on(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def pack(schedule_id: int, seats: Sequence[Seat]) -> PackedLayout:
        threads.append(threading.current_thread())
        return pack_layout(schedule_id, seats)

    monkeypatch.setattr(seat_map_repository, "pack_layout", pack)
    # A price that nothing else has: a layout that is known is not packed again.
    price = str(time.time_ns() % 10**12)
    await catalogue.imports(
        hamlet(priceCategories=[{"name": name, "price": price} for name in _CATEGORIES])
    )
    assert threads
    assert threading.main_thread() not in threads


@pytest.mark.long
async def test_twenty_thousand_seats_take_less_than_five_seconds(catalogue: Catalogue) -> None:
    document, csv = arena(20_000)
    for title in ("import", "again", "price"):
        if title == "price":
            document = document.replace(b'"80"', b'"81"')
        began = time.monotonic()
        found = await catalogue.service.import_event(document, csv, 0, "Ophelia", dry_run=False)
        took = time.monotonic() - began
        print(f"{title}: {took:.2f} s")
        assert found.problems == ()
        assert found.event is not None
        assert found.event.seats == 40_000
        assert took < 5, title
