"""Reads event documents, and finds every mistake in them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydantic import JsonValue, ValidationError

from concert_service.events import positions, rules, seats_csv
from concert_service.events.document import TAGS, Allowance, EventDocument
from concert_service.events.problem import (
    MAX_PROBLEMS,
    Findings,
    Path,
    Problem,
    in_order,
    to_field,
)
from concert_service.events.seats_csv import CsvSeats
from protos.documents import written

# The sentence for those of pydantic's errors whose own speak of inputs.
_REASONS = {
    "missing": "This is missing.",
    "extra_forbidden": "There is no such member.",
    "model_type": "Must be an object.",
    "dict_type": "Must be an object.",
    "list_type": "Must be a list.",
    "string_type": "Must be a string.",
    "int_type": "Must be a whole number.",
    "bool_type": "Must be true or false.",
    "string_unicode": "Half of a surrogate pair is no character.",
    "string_pattern_mismatch": "Must match {pattern}.",
    "string_too_short": "Must not be empty.",
    "string_too_long": "Must have at most {max_length} characters.",
    "too_short": "Must not be empty.",
    "too_long": "Must have at most {max_length} items.",
    "greater_than_equal": "Must be at least {ge}.",
    "less_than_equal": "Must be at most {le}.",
}


# No object of a document has more than 20.
_MAX_MEMBERS = 100
_MAX_DIGITS = 4_300


@dataclass(frozen=True, slots=True)
class ValidDocument:
    """A document without mistakes, and the JSON to store: the text that was read, or one that has
    the seats of a CSV file too."""

    event: EventDocument
    text: bytes


class _NotJson(Exception):
    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.problem = Problem("", line, reason)


def read(document: bytes, csv: bytes = b"") -> ValidDocument | list[Problem]:
    """Returns the document, or everything that is wrong with it, at most 1,000 mistakes. Takes
    0.6 s for 20,000 seats in CSV."""
    try:
        text, value = _parse(document)
    except _NotJson as error:
        return [error.problem]
    if not isinstance(value, dict):
        return [Problem("", 1, "The document must be a JSON object.")]
    seats = seats_csv.read(csv) if csv else CsvSeats()
    origin = _merge(value, seats) if csv else None
    findings = Findings()
    event = None
    try:
        event = EventDocument.model_validate(value, context=Allowance(MAX_PROBLEMS))
    except ValidationError as error:
        for each in error.errors(include_url=False, include_input=False):
            reason = _REASONS.get(each["type"], "").format(**each.get("ctx", {})) or each["msg"]
            findings.add(
                tuple(step for step in each["loc"] if step not in TAGS),
                reason if reason.endswith(".") else f"{reason}.",
            )
    rules.check(value, findings, complete=not seats.problems)
    located = _Located(text, origin, seats)
    problems = seats.problems + located.problems(findings)
    if problems or event is None:
        return in_order(problems)
    if csv:
        sections = value["sections"]
        assert isinstance(sections, list)
        assert origin is not None
        kept = sections[: len(origin)]
        value["sections"] = [*kept, *seats_csv.compact(sections[len(origin) :])]
        event = None  # before the next one: each takes 1 kB a seat
        # From the compact form, so that the same document gives the same seats later.
        event = EventDocument.model_validate(value)
        document = written(value)
    return ValidDocument(event, document)


def parse(document: bytes) -> Mapping[str, JsonValue]:
    """Returns the JSON of a document that was stored. Raises ValueError for other bytes."""
    try:
        _, value = _parse(document)
    except _NotJson as error:
        raise ValueError(str(error)) from error
    if not isinstance(value, dict):
        raise ValueError("The document is no JSON object.")
    return value


def _parse(document: bytes) -> tuple[str, JsonValue]:
    """Raises _NotJson."""
    try:
        text = document.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = document.count(b"\n", 0, error.start) + 1
        raise _NotJson(line, "The document is not UTF-8.") from error
    repeated = False

    def collect(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
        nonlocal repeated
        if len(pairs) > _MAX_MEMBERS:
            raise _NotJson(0, f"An object has more than {_MAX_MEMBERS} members.")
        collected = dict(pairs)
        repeated |= len(collected) != len(pairs)
        return collected

    def refuse(name: str) -> JsonValue:
        line = positions.line_of_token(text, lambda token: token == name)
        raise _NotJson(line, f"{name} is no JSON.")

    try:
        value: JsonValue = json.loads(text, object_pairs_hook=collect, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise _NotJson(error.lineno, f"This is not JSON: {error.msg}.") from error
    except ValueError as error:
        # Of Python's own limit: more digits take too long to read.
        line = positions.line_of_token(
            text, lambda token: token[0] in "-123456789" and len(token) > _MAX_DIGITS
        )
        raise _NotJson(line, "A number has too many digits.") from error
    except RecursionError as error:
        raise _NotJson(0, "The document is nested too deeply.") from error
    if repeated:
        found = positions.find(text, ()).repeated
        assert found is not None
        path, line = found
        raise _NotJson(line, f"{to_field(path)} is there twice.")
    return text, value


def _merge(value: dict[str, JsonValue], seats: CsvSeats) -> list[int]:
    """Puts the seats of the CSV file in place of the sections that have seats; returns the indexes
    in the document of the sections that stay."""
    sections = value.get("sections", [])
    if not isinstance(sections, list):
        return []  # a mistake, which the model names
    kept = [
        index
        for index, section in enumerate(sections)
        if not isinstance(section, dict) or "rows" not in section
    ]
    value["sections"] = [*(sections[index] for index in kept), *seats.sections]
    return kept


class _Located:
    """Says where mistakes are."""

    def __init__(self, text: str, origin: list[int] | None, seats: CsvSeats) -> None:
        self._text = text
        self._origin = origin
        self._seats = seats

    def problems(self, findings: Findings) -> list[Problem]:
        """Returns the mistakes with their lines."""
        in_csv: list[Problem] = []
        in_document: list[tuple[Path, str]] = []
        for path, reason in findings.found:
            where = self._place(path)
            if isinstance(where, Problem):
                in_csv.append(replace(where, reason=reason))
            else:
                in_document.append((where, reason))
        if not in_document:
            return in_csv
        found = positions.find(self._text, [path for path, _ in in_document])
        return in_csv + [
            Problem(to_field(path), found.line_of(path), reason) for path, reason in in_document
        ]

    def _place(self, path: Path) -> Path | Problem:
        """Returns the path in the document, or the place in the CSV file without a reason."""
        if self._origin is None or path[:1] != ("sections",) or len(path) < 2:
            return path
        index = path[1]
        if not isinstance(index, int):
            return path
        if index < len(self._origin):
            return ("sections", self._origin[index], *path[2:])
        column, line = self._seats.place(("sections", index - len(self._origin), *path[2:]))
        return Problem(column, line, "", in_csv=True)


assert MAX_PROBLEMS <= 1_000  # as ImportEventResponse promises
