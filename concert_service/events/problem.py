"""Mistakes in an event document, and where they are."""

from collections.abc import Iterable
from dataclasses import dataclass, field

# Keys and indexes from the root of the document to a value.
Path = tuple[str | int, ...]

MAX_PROBLEMS = 1_000
# Of a key that a path shows: one that no document has may be as long as the file.
_MAX_KEY = 64


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where it is, the line of the file (from 1; 0: unknown), what is wrong, and
    whether the file is the CSV of the seats."""

    field: str
    line: int
    reason: str
    in_csv: bool = False


@dataclass(slots=True)
class Findings:
    """Collects mistakes by their path in the document."""

    found: list[tuple[Path, str]] = field(default_factory=list)

    def add(self, path: Path, reason: str) -> None:
        """Adds a mistake, unless there are enough to show."""
        if len(self.found) < MAX_PROBLEMS:
            self.found.append((path, reason))


def to_field(path: Path) -> str:
    """Writes a path as operators read it: schedules[2].startsAt; empty for the whole document."""
    parts: list[str] = []
    for step in path:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        else:
            key = _readable(step)
            parts.append(f".{key}" if parts else key)
    return "".join(parts)


def _readable(key: str) -> str:
    """Returns a key as it is if it can be shown: not half of a surrogate pair, no control
    character, not too long."""
    shown = key if key.isprintable() else ascii(key[:_MAX_KEY])[1:-1]
    return shown if len(shown) <= _MAX_KEY else f"{shown[:_MAX_KEY]}…"


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Returns the mistakes by line, those of the document before those of the CSV file; at most
    1,000."""
    return sorted(problems, key=lambda p: (p.in_csv, p.line))[:MAX_PROBLEMS]
