"""Event documents to import."""

import copy
import json
from collections.abc import Iterable

from pydantic import JsonValue

Json = dict[str, JsonValue]

_HAMLET: Json = {
    "externalId": "hamlet",
    "title": "Hamlet: „Sein“ 🎭",
    "description": "A play.\n\nIn five acts.",
    "venue": "Globe",
    "timeZone": "Europe/London",
    "imageUrl": "https://example.org/hamlet.png",
    "currency": "GBP",
    "priceCategories": [
        {"name": "Stalls", "price": "49.90"},
        {"name": "Circle", "price": "30"},
        {"name": "Standing", "price": "0.00"},
    ],
    "sections": [
        {
            "name": "Stalls",
            "rows": [
                {
                    "name": "A",
                    "rank": 1,
                    "priceCategory": "Stalls",
                    "from": 1,
                    "to": 4,
                    "accessible": [1],
                    "companions": [2],
                },
                {
                    "name": "B",
                    "priceCategory": "Circle",
                    "seats": [
                        {"label": "B1", "place": 1},
                        {"label": "B1½", "place": 3, "priceCategory": "Stalls"},
                    ],
                },
            ],
        },
        {"name": "Yard", "generalAdmission": {"capacity": 3, "priceCategory": "Standing"}},
    ],
    "schedules": [
        {
            "externalId": "first-night",
            "startsAt": "2027-03-14T19:30:00Z",
            "salesFrom": "2027-01-01T10:00:00+00:00",
            "salesUntil": "2027-03-14T19:00:00Z",
            "blocked": [{"section": "Stalls", "label": "A4"}],
        },
        {"externalId": "last-night", "startsAt": "2027-10-31T00:30:00+01:00"},
    ],
}


def hamlet(**members: JsonValue) -> Json:
    """A document with every kind of row, with other members than usual."""
    return {**copy.deepcopy(_HAMLET), **members}


def encoded(document: JsonValue) -> bytes:
    """The document as an operator writes it, a value on each line."""
    return json.dumps(document, ensure_ascii=False, indent=1).encode()


def at(document: JsonValue, *path: str | int) -> JsonValue:
    """The value at this path."""
    for step in path:
        document = document[step]  # type: ignore[index]
    return document


def put(document: JsonValue, path: Iterable[str | int], value: JsonValue) -> None:
    """Sets the value at this path."""
    *parents, last = path
    parent = at(document, *parents)
    parent[last] = value  # type: ignore[index]


def arena(seats: int) -> tuple[bytes, bytes]:
    """A document with two dates, and its seats as CSV: sections of 50 rows of 40 seats."""
    lines = ["section,row,place,label,priceCategory,accessible,companion,rank,x,y"]
    for seat in range(seats):
        section, row, place = seat // 2_000, seat // 40 % 50, seat % 40 + 1
        lines.append(
            f"Block {section},{row + 1},{place},{row + 1}-{place},Seat,"
            f"{'true' if place == 1 else ''},{'true' if place == 2 else ''},{row + 1},"
            f"{place * 10},{section * 1_000 + row * 10}"
        )
    document = hamlet(
        externalId="arena", priceCategories=[{"name": "Seat", "price": "80"}], sections=[]
    )
    put(document, ("schedules", 0, "blocked"), [{"section": "Block 0", "label": "1-1"}])
    return encoded(document), ("\n".join(lines) + "\n").encode()
