"""Changes of event documents: merge patches, and blocking seats. No I/O."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from pydantic_core import from_json

from gateway.errors import FieldError, InvalidFields
from protos.documents import written

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Document = dict[str, Json]

# A document is small where it is deep; deeper ones are no event.
_MAX_DEPTH = 50


class HouseSeat(NamedTuple):
    """A seat, as documents name it."""

    section: str
    label: str


def parsed(document: bytes) -> Document:
    """Returns a document that concert_service has stored."""
    found = from_json(document)
    assert isinstance(found, dict)
    return found


def edited(document: bytes, edit: Callable[[Document], Document]) -> bytes:
    """Returns a document that concert_service has stored after a change. Takes a second for the
    longest one, in a thread."""
    return written(edit(parsed(document)))


def external_id_of(document: bytes) -> str:
    """Returns the external id of a document, "" if it has none: then it is no valid one."""
    try:
        found = from_json(document)
    except ValueError:
        return ""
    name = found.get("externalId") if isinstance(found, dict) else None
    return name if isinstance(name, str) else ""


def merged(document: Document, patch: Document) -> Document:
    """Applies a merge patch (RFC 7396): null removes a member, an array replaces the whole one.
    Raises InvalidFields if it would make another event of it."""
    name = patch.get("externalId", document.get("externalId"))
    if name != document.get("externalId"):
        raise InvalidFields([FieldError("externalId", "does not change")])
    result = _merge(document, patch, 0)
    assert isinstance(result, dict)
    return result


def _merge(target: Json, patch: Json, depth: int) -> Json:
    if not isinstance(patch, dict):
        return patch
    if depth > _MAX_DEPTH:
        raise InvalidFields([FieldError("body", "is nested too deeply")])
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merge(result.get(name), value, depth + 1)
    return result


def with_blocked(
    document: Document, schedule: str, seats: Collection[HouseSeat], *, blocked: bool
) -> Document:
    """Returns the document with these seats of a schedule blocked, or not. Raises InvalidFields if
    it has no such schedule; whether it has such seats, concert_service says."""
    schedules = document.get("schedules")
    assert isinstance(schedules, list)
    result: list[Json] = []
    found = False
    for each in schedules:
        assert isinstance(each, dict)
        if each.get("externalId") == schedule:
            found = True
            each = _with_blocked(each, seats, blocked)
        result.append(each)
    if not found:
        raise InvalidFields([FieldError("schedule", "no schedule of this event has it")])
    return {**document, "schedules": result}


def _with_blocked(
    schedule: Mapping[str, Json], seats: Collection[HouseSeat], blocked: bool
) -> Json:
    before = schedule.get("blocked") or []
    assert isinstance(before, list)
    asked = set(seats)
    kept = [seat for seat in before if _house_seat(seat) not in asked]
    if blocked:
        kept += [{"section": s.section, "label": s.label} for s in dict.fromkeys(seats)]
    return {**schedule, "blocked": kept}


def _house_seat(seat: Json) -> HouseSeat:
    assert isinstance(seat, dict)
    return HouseSeat(str(seat["section"]), str(seat["label"]))
