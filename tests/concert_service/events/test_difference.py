"""What differs between two documents, as operators read it."""

import json

from pydantic import JsonValue

from concert_service.events.difference import MAX_CHANGES, Change, between
from tests.concert_service.events.documents import at, hamlet, put


def test_the_same_document() -> None:
    assert between(hamlet(), hamlet()) == []


def test_a_new_document_is_one_change() -> None:
    (change,) = between(None, hamlet())
    assert (change.field, change.before) == ("", "")


def test_items_are_named_and_not_counted() -> None:
    after = hamlet(room="hamlet-room")
    del after["imageUrl"]
    put(after, ("priceCategories", 2, "price"), "1")
    put(after, ("sections", 0, "rows", 1, "seats", 1, "place"), 2)
    schedules = at(after, "schedules")
    assert isinstance(schedules, list)
    put(after, ("schedules", 0, "blocked"), [{"section": "Yard", "label": "GA1"}])
    schedules.append({"externalId": "extra", "startsAt": "2027-03-15T19:30:00Z"})
    assert between(hamlet(), after) == [
        Change("imageUrl", '"https://example.org/hamlet.png"', ""),
        Change("priceCategories[Standing].price", '"0.00"', '"1"'),
        Change("sections[Stalls].rows[B].seats[B1½].place", "3", "2"),
        Change(
            "schedules[first-night].blocked[Stalls A4]", '{"section":"Stalls","label":"A4"}', ""
        ),
        Change("schedules[first-night].blocked[Yard GA1]", "", '{"section":"Yard","label":"GA1"}'),
        Change("schedules[extra]", "", '{"externalId":"extra","startsAt":"2027-03-15T19:30:00Z"}'),
        Change("room", "", '"hamlet-room"'),
    ]


def test_the_order_of_rows_is_a_fact_and_that_of_blocked_seats_is_not() -> None:
    after = hamlet()
    rows = at(after, "sections", 0, "rows")
    assert isinstance(rows, list)
    rows.reverse()
    assert between(hamlet(), after) == [
        Change("sections[Stalls].rows (order)", '["A","B"]', '["B","A"]')
    ]
    blocked: list[JsonValue] = [{"section": "Yard", "label": f"GA{n}"} for n in (1, 2)]
    before, after = hamlet(), hamlet()
    put(before, ("schedules", 0, "blocked"), blocked)
    put(after, ("schedules", 0, "blocked"), blocked[::-1])
    assert between(before, after) == []


def test_names_that_read_the_same_together_are_two() -> None:
    seats: list[JsonValue] = [
        {"section": "Box", "label": "A 1"},
        {"section": "Box A", "label": "1"},
    ]
    before, after = hamlet(), hamlet()
    put(before, ("schedules", 0, "blocked"), seats)
    put(after, ("schedules", 0, "blocked"), seats[1:])
    assert between(before, after) == [
        Change("schedules[first-night].blocked[Box A 1]", '{"section":"Box","label":"A 1"}', "")
    ]


def test_long_values_and_many_changes_are_cut() -> None:
    long, longer = hamlet(description="a" * 3_000), hamlet(description="b" * 4_000)
    (change,) = between(long, longer)
    assert (change.before, change.after) == ('"(3,002 characters)"', '"(4,002 characters)"')
    blocked: list[JsonValue] = [
        {"section": "Stalls", "label": f"A{n}"} for n in range(MAX_CHANGES + 5)
    ]
    after = hamlet()
    put(after, ("schedules", 0, "blocked"), blocked)
    changes = between(hamlet(), after)
    assert len(changes) == MAX_CHANGES + 1
    assert json.loads(changes[-1].after) == "4 more changes"
