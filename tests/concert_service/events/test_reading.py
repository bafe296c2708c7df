"""A document that is broken at each possible place: which field, which line, which reason."""

import json
import time
from decimal import Decimal

import pytest
from pydantic import JsonValue, ValidationError

from concert_service.events import positions
from concert_service.events.document import (
    MAX_DOCUMENT_BYTES,
    MAX_SEATS,
    Allowance,
    EventDocument,
)
from concert_service.events.expansion import schedule_facts
from concert_service.events.problem import MAX_PROBLEMS, Problem
from concert_service.events.reading import ValidDocument, read
from tests.concert_service.events.documents import Json, at, encoded, hamlet, put

ROW_A = ("sections", 0, "rows", 0)
ROW_B = ("sections", 0, "rows", 1)
YARD = ("sections", 1, "generalAdmission")
FIRST = ("schedules", 0)

# Where a value is put, the value, and what is wrong with it.
BROKEN: list[tuple[tuple[str | int, ...], JsonValue, str]] = [
    (("externalId",), "", "Must match ^[A-Za-z0-9][A-Za-z0-9._-]*$."),
    (("externalId",), "a/b", "Must match ^[A-Za-z0-9][A-Za-z0-9._-]*$."),
    (("externalId",), "a" * 65, "Must have at most 64 characters."),
    (("externalId",), 7, "Must be a string."),
    (("title",), "", "Must not be empty."),
    (("title",), "a" * 201, "Must have at most 200 characters."),
    (("title",), "a\tb", "Must not contain control characters or line breaks."),
    (("title",), "a\u2028b", "Must not contain control characters or line breaks."),
    (("title",), "a\u0000", "Must not contain control characters or line breaks."),
    (("title",), "a\u202eb", "Must end each mark of the direction of text that it begins."),
    (("title",), "\u2067a\u202c", "Must end each mark of the direction of text with its own."),
    (("title",), " a", "Must not begin or end with a blank."),
    (("title",), None, "Must be a string."),
    (("description",), "a\rb", "Must not contain control characters or line breaks."),
    (("description",), "a" * 5_001, "Must have at most 5000 characters."),
    (("venue",), "", "Must not be empty."),
    (("timeZone",), "Seoul", "Must be the IANA name of a time zone, as in Asia/Seoul."),
    (("timeZone",), "../etc/passwd", "Must be the IANA name of a time zone, as in Asia/Seoul."),
    (("imageUrl",), "javascript:alert(1)", "Must match ^(https?://[!-~]+)?$."),
    (("currency",), "EURO", "Must be the ISO 4217 code of a currency, as in EUR."),
    (("currency",), "XAU", "Must be the ISO 4217 code of a currency, as in EUR."),
    (("currency",), "gbp", "Must be the ISO 4217 code of a currency, as in EUR."),
    (("room",), "Main", "Must match ^[a-z0-9_-]{1,64}$."),
    (("room",), "a" * 65, "Must match ^[a-z0-9_-]{1,64}$."),
    (("priceCategories",), [], "Must not be empty."),
    (("priceCategories",), {}, "Must be a list."),
    (("priceCategories", 1), 30, "Must be an object."),
    (("priceCategories", 1, "name"), "a" * 33, "Must have at most 32 characters."),
    (("priceCategories", 1, "name"), "Stalls", "There is another price category 'Stalls'."),
    (("priceCategories", 0, "price"), "49.901", "GBP has at most 2 decimal places."),
    *(
        (
            ("priceCategories", 0, "price"),
            price,
            "Must be a string of at most 12 digits, with at most 3 after a point, as in"
            ' "150000" or "49.90".',
        )
        for price in (49.9, -1, "-1", "1e3", "NaN", "1,5", "1" * 13, "1.0000", "", "٣", None)
    ),
    (("sections",), [], "Must not be empty."),
    (("sections", 0), "Stalls", "Must be an object."),
    (("sections", 0, "rows"), [], "Must not be empty."),
    (("sections", 1, "name"), "Stalls", "There is another section 'Stalls'."),
    ((*ROW_A, "name"), "a" * 17, "Must have at most 16 characters."),
    ((*ROW_A, "rank"), 0, "Must be at least 1."),
    ((*ROW_A, "rank"), 1.5, "Must be a whole number."),
    ((*ROW_A, "rank"), True, "Must be a whole number."),
    ((*ROW_A, "priceCategory"), "Box", "There is no price category 'Box'."),
    ((*ROW_A, "from"), 0, "Must be at least 1."),
    ((*ROW_A, "from"), "1", "Must be a whole number."),
    ((*ROW_A, "to"), 65_536, "Must be at most 65535."),
    ((*ROW_A, "to"), 0, "Must be at least 1."),
    ((*ROW_A, "separator"), "/", "Input should be '', '-', ' ' or '.'."),
    ((*ROW_A, "accessible", 0), 9, "The row has no seat 9."),
    ((*ROW_A, "companions", 0), 1, "Seat 1 is listed twice."),
    ((*ROW_B, "name"), "A", "There is another row of this section 'A'."),
    ((*ROW_B, "seats"), [], "Must not be empty."),
    ((*ROW_B, "seats", 0, "label"), "a" * 17, "Must have at most 16 characters."),
    ((*ROW_B, "seats", 0, "label"), "", "Must not be empty."),
    ((*ROW_B, "seats", 0, "label"), "A1", "There is another seat 'A1' in this section."),
    ((*ROW_B, "seats", 1, "place"), 1, "There is another seat in place 1 of this row."),
    ((*ROW_B, "seats", 1, "priceCategory"), "Box", "There is no price category 'Box'."),
    ((*ROW_B, "seats", 0, "accessible"), "yes", "Must be true or false."),
    ((*ROW_B, "seats", 0, "x"), 2**31, "Must be at most 2147483647."),
    ((*ROW_B, "seats", 0, "colour"), "red", "There is no such member."),
    ((*YARD, "capacity"), 0, "Must be at least 1."),
    ((*YARD, "capacity"), 50_001, "Must be at most 50000."),
    ((*YARD, "priceCategory"), "Box", "There is no price category 'Box'."),
    (("schedules",), [], "Must not be empty."),
    (("schedules", 1, "externalId"), "first-night", "There is another schedule 'first-night'."),
    *(
        (
            (*FIRST, "startsAt"),
            instant,
            "Must be a date, a time and its offset from UTC, as in 2027-03-14T19:30:00+09:00.",
        )
        for instant in ("2027-03-14", "2027-03-14T19:30:00", "tomorrow", 1_800_000_000, "")
    ),
    ((*FIRST, "startsAt"), "2027-02-30T19:30:00Z", "There is no such date or time."),
    ((*FIRST, "startsAt"), "1999-12-31T19:30:00Z", "Must be between the years 2000 and 2199."),
    ((*FIRST, "startsAt"), "9999-12-31T23:30:00-12:00", "There is no such date or time."),
    ((*FIRST, "salesUntil"), "2027-01-01T10:00:00Z", "Must be after salesFrom."),
    ((*FIRST, "cancelled"), 0, "Must be true or false."),
    ((*FIRST, "blocked", 0), "A4", "Must be an object."),
    ((*FIRST, "blocked", 0, "section"), "Box", "There is no section 'Box'."),
    ((*FIRST, "blocked", 0, "label"), "A5", "Section 'Stalls' has no seat 'A5'."),
    ((*FIRST, "seats"), [], "There is no such member."),
]


def field(path: tuple[str | int, ...]) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def line_of(document: JsonValue, path: tuple[str | int, ...]) -> int:
    """The line of a value of a document with a value on each line."""
    marked = json.loads(encoded(document))
    put(marked, path, "MARK" if not isinstance(at(marked, *path), list | dict) else ["MARK"])
    before = encoded(marked).decode().partition('"MARK"')[0]
    return before.count("\n") + (0 if isinstance(at(document, *path), list | dict) else 1)


@pytest.mark.parametrize(("path", "value", "reason"), BROKEN)
def test_a_broken_value(path: tuple[str | int, ...], value: JsonValue, reason: str) -> None:
    document = hamlet()
    put(document, path, value)
    found = read(encoded(document))
    assert isinstance(found, list)
    line = line_of(document, path)
    # A name that is wrong breaks what refers to it too.
    assert Problem(field(path), line, reason) in found


def every_member(value: JsonValue, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(value, dict):
        items: list[tuple[str | int, JsonValue]] = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return [path]
    return [path, *(found for key, item in items for found in every_member(item, (*path, key)))]


@pytest.mark.parametrize("path", every_member(hamlet())[1:], ids=field)
def test_a_broken_line_at_each_place(path: tuple[str | int, ...]) -> None:
    document = hamlet()
    put(document, path, 0.5)
    found = read(encoded(document))
    assert isinstance(found, list)
    assert (field(path), line_of(document, path)) in {(p.field, p.line) for p in found}


@pytest.mark.parametrize(
    "path",
    [
        *(("externalId",), ("title",), ("venue",), ("timeZone",), ("currency",)),
        *(("priceCategories",), ("sections",), ("schedules",)),
        *(("priceCategories", 0, "name"), ("priceCategories", 0, "price")),
        *(("sections", 0, "name"), ("sections", 0, "rows"), (*ROW_A, "name"), (*ROW_A, "from")),
        *((*ROW_A, "to"), (*ROW_A, "priceCategory"), (*ROW_B, "seats", 0, "label")),
        *((*ROW_B, "seats", 0, "place"), (*YARD, "capacity"), (*YARD, "priceCategory")),
        *((*FIRST, "externalId"), (*FIRST, "startsAt"), (*FIRST, "blocked", 0, "label")),
    ],
    ids=field,
)
def test_a_member_is_missing(path: tuple[str | int, ...]) -> None:
    document = hamlet()
    *parents, last = path
    parent = at(document, *parents)
    assert isinstance(parent, dict)
    del parent[str(last)]
    found = read(encoded(document))
    assert isinstance(found, list)
    line = line_of(document, tuple(parents)) if parents else 1
    assert Problem(field(path), line, "This is missing.") in found


def test_all_mistakes_are_named_at_once_and_none_that_follows_from_another() -> None:
    document = hamlet(currency="EURO", title="")
    put(document, ("sections", 0, "name"), 7)
    put(document, ("priceCategories", 1, "price"), "x")
    put(document, (*FIRST, "salesUntil"), "2026-01-01T00:00:00Z")
    found = read(encoded(document))
    assert isinstance(found, list)
    assert [problem.field for problem in found] == [
        *("title", "currency", "priceCategories[1].price", "sections[0].name"),
        "schedules[0].salesUntil",
    ]
    assert [p.line for p in found] == sorted(p.line for p in found)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (b"", 1, "This is not JSON: Expecting value."),
        (b'{\n "a": 1,\n}', 3, "This is not JSON: Expecting property name enclosed in double"),
        (b'{\n "a": nothing}', 2, "This is not JSON: Expecting value."),
        (b'{\n "a": "NaN", "b": NaN}', 2, "NaN is no JSON."),
        (b'{\n\n "a": -' + b"1" * 5_000 + b"}", 3, "A number has too many digits."),
        (
            b"{" + b",".join(b'"a%d": 1' % n for n in range(200)) + b"}",
            *(0, "An object has more than 100 members."),
        ),
        (b'{"\\ud800": 1,\n"\\ud800": 2}', 2, "\\ud800 is there twice."),
        (b'{\n\n "a": "\xff"}', 3, "The document is not UTF-8."),
        (b"[]", 1, "The document must be a JSON object."),
        (b"[" * 100_000, 0, "The document is nested too deeply."),
        (b'{"title": 1,\n"a": {"b": 1,\n"b": 2}}', 3, "a.b is there twice."),
        (b'{"title": 1,\n"ti\\u0074le": 2}', 2, "title is there twice."),
    ],
)
def test_what_is_no_json(text: bytes, line: int, reason: str) -> None:
    found = read(text)
    assert isinstance(found, list)
    (problem,) = found
    assert problem.line == line
    assert problem.reason.startswith(reason.rstrip("."))


def test_half_a_surrogate_pair_is_no_character() -> None:
    found = read(encoded(hamlet(title="MARK")).replace(b"MARK", b"a\\ud800b"))
    assert isinstance(found, list)
    assert [problem.field for problem in found] == ["title"]


def test_coordinates_are_of_every_seat_or_of_none() -> None:
    document = hamlet()
    put(document, (*ROW_A, "x"), 1)
    found = read(encoded(document))
    assert isinstance(found, list)
    assert [problem.field for problem in found] == ["sections[0].rows[0].y"]
    put(document, (*ROW_A, "y"), 1)
    found = read(encoded(document))
    assert isinstance(found, list)
    assert [problem.field for problem in found] == ["sections[0].rows[1].seats[0]"]


def test_a_short_document_with_billions_of_seats() -> None:
    document = hamlet()
    rows: list[JsonValue] = [
        {"name": f"R{n}", "priceCategory": "Stalls", "from": 1, "to": 65_535, "separator": "-"}
        for n in range(2_000)
    ]
    put(document, ("sections", 0, "rows"), rows)
    found = read(encoded(document))
    assert isinstance(found, list)
    assert "sections" in {problem.field for problem in found}
    assert len(found) <= 3


def test_at_most_a_thousand_mistakes() -> None:
    blocked: list[JsonValue] = [{"section": "Stalls", "label": f"Z{n}"} for n in range(2_000)]
    document = hamlet()
    put(document, (*FIRST, "blocked"), blocked)
    found = read(encoded(document))
    assert isinstance(found, list)
    assert len(found) == 1_000


def test_text_of_any_script_is_kept_as_it_is() -> None:
    title = "مسرحية \u2067„Hamlet“\u2069 𝔥𝔞𝔪𝔩𝔢𝔱 👩🏽‍🎤 ' \" \\ %s <b>"
    found = read(b"\xef\xbb\xbf" + encoded(hamlet(title=title)))
    assert isinstance(found, ValidDocument)
    assert found.event.title == title


@pytest.mark.parametrize(
    ("currency", "price"),
    [("JPY", "1500.00"), ("KWD", "1.125"), ("KRW", "150000"), ("GBP", "0"), ("EUR", "1.500")],
)
def test_prices_of_each_currency(currency: str, price: str) -> None:
    document = hamlet(currency=currency)
    for n in range(3):
        put(document, ("priceCategories", n, "price"), price)
    found = read(encoded(document))
    assert isinstance(found, ValidDocument)
    assert found.event.price_categories[0].price == Decimal(price)


# --- seats as CSV -----------------------------------------------------------------------------


HEADER = "section,row,place,label,priceCategory,accessible,companion,rank,x,y"
LINES = [
    "Stalls,A,1,A1,Stalls,true,,1,,",
    "Stalls,A,2,A2,Stalls,,yes,1,,",
    "Stalls,B,1,B1,Circle,,,,,",
]


def seats(*lines: str, header: str = HEADER) -> bytes:
    return ("\n".join([header, *lines]) + "\n").encode()


def without_blocks() -> Json:
    document = hamlet()
    put(document, (*FIRST, "blocked"), [])
    return document


CSV_BROKEN = [
    ("Stalls,A,x,A3,Stalls,,,1,,", "place", "Must be a whole number."),
    ("Stalls,A,1.5,A3,Stalls,,,1,,", "place", "Must be a whole number."),
    ("Stalls,A,,A3,Stalls,,,1,,", "place", "Must be a whole number."),
    ("Stalls,A,0,A3,Stalls,,,1,,", "place", "Must be at least 1."),
    ("Stalls,A,2,A3,Stalls,,,1,,", "place", "There is another seat in place 2 of this row."),
    ("Stalls,A,3,A1,Stalls,,,1,,", "label", "There is another seat 'A1' in this section."),
    ("Stalls,A,3,,Stalls,,,1,,", "label", "Must not be empty."),
    ("Stalls,A,3,A\u202e3,Stalls,,,1,,", "label", "Must end each mark of the direction"),
    ("Stalls,A,3,A3,Box,,,1,,", "priceCategory", "There is no price category 'Box'."),
    ("Stalls,A,3,A3,,,,1,,", "priceCategory", "Must not be empty."),
    ("Stalls,A,3,A3,Stalls,maybe,,1,,", "accessible", "Must be true or false."),
    ("Stalls,A,3,A3,Stalls,,2,1,,", "companion", "Must be true or false."),
    ("Stalls,A,3,A3,Stalls,1,1,1,,", "companion", "A seat is either accessible or a companion's."),
    ("Stalls,A,3,A3,Stalls,,,2,,", "rank", "Another line of this row has another rank."),
    ("Stalls,A,3,A3,Stalls,,,first,,", "rank", "Must be a whole number."),
    ("Stalls,A,3,A3,Stalls,,,1,1,", "y", "A seat has both x and y, or none of them."),
    ("Stalls,A,3,A3,Stalls,,,1,a,1", "x", "Must be a whole number."),
    ("Stalls,A,3,A3,Stalls,,,1,1", "", "The line has 9 cells, the header has 10."),
    (",A,3,A3,Stalls,,,1,,", "section", "Must not be empty."),
    ("Stalls,,3,A3,Stalls,,,1,,", "row", "Must not be empty."),
    ("Yard,A,3,A3,Stalls,,,1,,", "section", "There is another section 'Yard'."),
]


@pytest.mark.parametrize(("line", "column", "reason"), CSV_BROKEN)
@pytest.mark.parametrize("position", [2, 3])
def test_a_broken_line_of_csv(line: str, column: str, reason: str, position: int) -> None:
    lines = [*LINES[:position], line, *LINES[position:]]
    found = read(encoded(without_blocks()), seats(*lines))
    assert isinstance(found, list)
    assert [(p.field, p.line, p.in_csv) for p in found] == [(column, position + 2, True)]
    assert found[0].reason.startswith(reason)


@pytest.mark.parametrize(
    ("data", "line", "column", "reason"),
    [
        (b"\n", 1, "", "The file is empty."),
        (seats(*LINES, header=HEADER.replace("label", "name")), 1, "label", "This column is"),
        (seats(*LINES, header=f"{HEADER},x"), 1, "x", "This column is there twice."),
        (seats(LINES[0]) + b"\xff", 3, "", "The file is not UTF-8."),
        (seats(LINES[0], '"Stalls,A'), 3, "", "This is not CSV"),
    ],
)
def test_what_is_no_csv_of_seats(data: bytes, line: int, column: str, reason: str) -> None:
    found = read(encoded(without_blocks()), data)
    assert isinstance(found, list)
    mistakes = [(p.line, p.field) for p in found if p.in_csv and p.reason.startswith(reason)]
    assert (line, column) in mistakes


def test_mistakes_of_both_files_are_named_with_their_lines() -> None:
    document = hamlet(currency="EURO")
    put(document, (*YARD, "capacity"), 0)
    found = read(encoded(document), seats(LINES[0], "Stalls,A,x,A2,Stalls,,,1,,"))
    assert isinstance(found, list)
    assert [(p.field, p.in_csv) for p in found] == [
        ("currency", False),
        ("sections[1].generalAdmission.capacity", False),
        ("place", True),
    ]
    assert found[1].line == line_of(document, (*YARD, "capacity"))


@pytest.mark.parametrize("separator", [",", ";"])
def test_csv_replaces_the_sections_with_seats(separator: str) -> None:
    data = seats(*LINES).replace(b",", separator.encode())
    found = read(encoded(without_blocks()), data)
    assert isinstance(found, ValidDocument)
    document = json.loads(found.text)
    yard, stalls = document["sections"]
    assert yard == at(hamlet(), "sections", 1)
    assert stalls["name"] == "Stalls"
    assert stalls["rows"] == [
        {
            "name": "A",
            "rank": 1,
            "priceCategory": "Stalls",
            "from": 1,
            "to": 2,
            "accessible": [1],
            "companions": [2],
        },
        {"name": "B", "priceCategory": "Circle", "from": 1, "to": 1},
    ]
    # What was stored is a document that needs no CSV.
    again = read(found.text)
    assert isinstance(again, ValidDocument)
    assert again.event == found.event


def test_rows_that_do_not_count_are_listed() -> None:
    lines = ['"Stalls, left",A,1,"A ""1""",Stalls,,,,5,7', '"Stalls, left",A,3,A3,Circle,,,,9,7']
    document = hamlet(sections=[])
    put(document, (*FIRST, "blocked"), [{"section": "Stalls, left", "label": 'A "1"'}])
    found = read(encoded(document), seats(*lines))
    assert isinstance(found, ValidDocument)
    (section,) = json.loads(found.text)["sections"]
    assert section["name"] == "Stalls, left"
    assert section["rows"][0]["seats"] == [
        {"place": 1, "label": 'A "1"', "priceCategory": "Stalls", "x": 5, "y": 7},
        {"place": 3, "label": "A3", "priceCategory": "Circle", "x": 9, "y": 7},
    ]


# --- instants -----------------------------------------------------------------------------------


def test_an_hour_that_the_clocks_repeat_is_no_riddle() -> None:
    """A sale that opens in the second of two half past ones."""
    document = hamlet()
    put(document, ("schedules", 1, "salesFrom"), "2027-10-31T01:30:00+00:00")
    put(document, ("schedules", 1, "salesUntil"), "2027-10-31T01:30:00+01:00")
    found = read(encoded(document))
    assert isinstance(found, list)
    assert [(p.field, p.reason) for p in found] == [
        ("schedules[1].salesUntil", "Must be after salesFrom.")
    ]
    put(document, ("schedules", 1, "salesFrom"), "2027-10-31T01:30:00+01:00")
    put(document, ("schedules", 1, "salesUntil"), "2027-10-31T01:30:00+00:00")
    assert isinstance(read(encoded(document)), ValidDocument)


@pytest.mark.parametrize(
    ("zone", "starts_at", "day", "listed_until"),
    [
        # A show that starts after midnight is one of its own date.
        ("Asia/Seoul", "2027-03-14T15:30:00Z", "2027-03-15", "2027-03-15T15:00:00"),
        # A day of 23 hours, one of 25, and one whose midnight does not exist.
        ("Europe/Berlin", "2027-03-28T20:00:00+02:00", "2027-03-28", "2027-03-28T22:00:00"),
        ("Europe/Berlin", "2027-10-31T20:00:00+01:00", "2027-10-31", "2027-10-31T23:00:00"),
        ("Asia/Beirut", "2027-03-27T20:00:00+02:00", "2027-03-27", "2027-03-27T22:00:00"),
        ("Pacific/Kiritimati", "2027-03-14T23:00:00+14:00", "2027-03-14", "2027-03-14T10:00:00"),
    ],
)
def test_the_date_is_that_of_the_venue(
    zone: str, starts_at: str, day: str, listed_until: str
) -> None:
    schedules: list[JsonValue] = [{"externalId": "x", "startsAt": starts_at}]
    found = read(encoded(hamlet(timeZone=zone, schedules=schedules)))
    assert isinstance(found, ValidDocument)
    facts = schedule_facts(found.event, found.event.schedules[0])
    assert facts.date.isoformat() == day
    assert facts.listed_until.isoformat() == f"{listed_until}+00:00"


@pytest.mark.parametrize("key", ["x" * 3_000_000, "\u202e", "\x1b[2J"])
def test_a_key_is_shown_so_that_messages_and_terminals_survive_it(key: str) -> None:
    found = read(encoded(hamlet(**{key: 1})))
    assert isinstance(found, list)
    (problem,) = found
    assert problem.reason == "There is no such member."
    assert len(problem.field) <= 65
    assert problem.field.isprintable()


def test_names_that_look_the_same_are_there_twice() -> None:
    """é as one character, and as two."""
    document = hamlet()
    put(document, ("sections", 0, "rows", 1, "seats", 0, "label"), "\u00e91")
    put(document, ("sections", 0, "rows", 1, "seats", 1, "label"), "e\u03011")
    found = read(encoded(document))
    assert isinstance(found, list)
    assert [problem.field for problem in found] == ["sections[0].rows[1].seats[1].label"]
    put(document, ("sections", 0, "rows", 1, "seats", 1, "label"), "\u00c91")  # É
    assert isinstance(read(encoded(document)), ValidDocument)


def test_mistakes_without_end_take_no_memory_without_end() -> None:
    """What refuses the document stops the search for more: each mistake takes 1.5 kB."""
    document = hamlet()
    put(document, ("sections", 0, "rows", 1, "seats"), [{}] * 20_000)
    with pytest.raises(ValidationError) as raised:
        EventDocument.model_validate(document, context=Allowance(MAX_PROBLEMS))
    assert MAX_PROBLEMS <= raised.value.error_count() < MAX_PROBLEMS + 20
    found = read(encoded(document))
    assert isinstance(found, list)
    assert len(found) == MAX_PROBLEMS


def test_deep_json_is_read_in_the_time_of_flat_json() -> None:
    text = b'{"x": ' + b"[" * 900 + b"1," * 100_000 + b"1" + b"]" * 900 + b"}"
    began = time.process_time()
    assert positions.find(text.decode(), [("x",)]).lines == {(): 1, ("x",): 1}
    assert time.process_time() - began < 2  # 0.2 s; it was 6 s


def test_seats_of_any_label_fit_into_a_document() -> None:
    """Seats whose labels follow no rule are written one by one: also the most of a hall fit."""
    seats = "\n".join(
        f"Block {n // 500},{n // 40 % 50},{n % 40 + 1},Seat {n * 7 % 1_000},Seat,,,,{n},{n}"
        for n in range(1_000)
    )
    header = "section,row,place,label,priceCategory,accessible,companion,rank,x,y"
    document = hamlet(priceCategories=[{"name": "Seat", "price": "80"}], sections=[])
    put(document, ("schedules", 0, "blocked"), [])
    found = read(encoded(document), f"{header}\n{seats}\n".encode())
    assert isinstance(found, ValidDocument)
    assert found.text.count(b"\n") > 1_000
    assert len(found.text) < MAX_DOCUMENT_BYTES * 1_000 / MAX_SEATS
