"""What differs between two event documents, named as operators name it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import JsonValue
from pydantic_core import to_json

# Of one import: further ones are counted in the last.
MAX_CHANGES = 1_000
# A longer value, such as a section with its seats, is described by its length.
_MAX_VALUE = 2_000
# What names the items of a list; other lists differ as a whole.
_NAMES = {
    "priceCategories": ("name",),
    "sections": ("name",),
    "rows": ("name",),
    "seats": ("label",),
    "schedules": ("externalId",),
    "blocked": ("section", "label"),
}

Json = Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Change:
    """One difference: where it is, and the values before and after as JSON; empty: none."""

    field: str
    before: str
    after: str


def between(before: Json | None, after: Json) -> list[Change]:
    """Returns how the second document differs from the first, at most 1,000 differences and one
    that says how many more there are. None: there was no document."""
    if before is None:
        return [Change("", "", _text(after))]
    changes = list(_of_objects("", before, after))
    if len(changes) > MAX_CHANGES:
        more = len(changes) - MAX_CHANGES
        return [*changes[:MAX_CHANGES], Change("", "", _text(f"{more} more changes"))]
    return changes


def _of_values(field: str, key: str, before: JsonValue, after: JsonValue) -> Iterator[Change]:
    if before == after:  # valid documents never have 1 where others have true
        return
    if isinstance(before, dict) and isinstance(after, dict):
        yield from _of_objects(field, before, after)
    elif isinstance(before, list) and isinstance(after, list) and key in _NAMES:
        yield from _of_lists(field, _NAMES[key], before, after)
    else:
        yield Change(field, _text(before), _text(after))


def _of_objects(field: str, before: Json, after: Json) -> Iterator[Change]:
    for key in dict.fromkeys((*before, *after)):
        name = f"{field}.{key}" if field else key
        if key not in after:
            yield Change(name, _text(before[key]), "")
        elif key not in before:
            yield Change(name, "", _text(after[key]))
        else:
            yield from _of_values(name, key, before[key], after[key])


def _of_lists(
    field: str, names: tuple[str, ...], before: list[JsonValue], after: list[JsonValue]
) -> Iterator[Change]:
    old = {_name(item, names): item for item in before}
    new = {_name(item, names): item for item in after}
    for name in dict.fromkeys((*old, *new)):
        where = f"{field}[{' '.join(name)}]"
        if name not in new:
            yield Change(where, _text(old[name]), "")
        elif name not in old:
            yield Change(where, "", _text(new[name]))
        else:
            yield from _of_values(where, "", old[name], new[name])
    # The order of seats is a fact as well, but not that of the blocked ones.
    was, is_now = [n for n in old if n in new], [n for n in new if n in old]
    if was != is_now and names != _NAMES["blocked"]:
        yield Change(f"{field} (order)", _text(_joined(was)), _text(_joined(is_now)))


def _name(item: JsonValue, names: tuple[str, ...]) -> tuple[str, ...]:
    """Returns what names an item: a tuple, because two names may read the same together."""
    if not isinstance(item, dict):
        return ()
    return tuple([str(item.get(name, "")) for name in names])


def _joined(names: list[tuple[str, ...]]) -> list[JsonValue]:
    return [" ".join(name) for name in names]


def _text(value: JsonValue | Json) -> str:
    text = to_json(value).decode()
    if len(text) <= _MAX_VALUE:
        return text
    return to_json(f"({len(text):,} characters)").decode()
