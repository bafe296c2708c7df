"""Finds the lines of values in a JSON text, for messages about mistakes.

pydantic validates values that have forgotten where they stood. This scanner runs only when there is
a mistake: 1.3 s for the longest document.
"""

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from concert_service.events.problem import Path

# A token, after blanks: the text is JSON already.
_TOKEN = re.compile(r'[ \t\r\n]*([\[\]{},:]|"[^"\\]*(?:\\.[^"\\]*)*"|[^\s\[\]{},:"]+)', re.DOTALL)


@dataclass(slots=True)
class _Open:
    """An object or an array that has begun. `step` is the key or index of its present value."""

    step: str | int
    keys: set[str]
    key_is_next: bool


@dataclass(frozen=True, slots=True)
class Positions:
    """The lines, from 1, of the paths that were asked for, and the first member that an object has
    twice, with the line of the second."""

    lines: dict[Path, int]
    repeated: tuple[Path, int] | None

    def line_of(self, path: Path) -> int:
        """Returns the line of a value; of what contains it, if it is missing."""
        while path not in self.lines and path:
            path = path[:-1]
        return self.lines.get(path, 0)


def line_of_token(text: str, is_wanted: Callable[[str], bool]) -> int:
    """Returns the line of the first such token; 0 if there is none. Expects that the text before it
    is valid JSON."""
    for match in _TOKEN.finditer(text):
        if is_wanted(match[1]):
            return text.count("\n", 0, match.start(1)) + 1
    return 0


def find(text: str, paths: Collection[Path]) -> Positions:
    """Finds the values at these paths, and what contains them. Expects valid JSON. Without paths it
    stops at the first member that an object has twice."""
    wanted = {path[:n] for path in paths for n in range(len(path) + 1)}
    deepest = max(map(len, wanted), default=-1)
    lines: dict[Path, int] = {}
    repeated: tuple[Path, int] | None = None
    stack: list[_Open] = []
    line, counted = 1, 0
    for match in _TOKEN.finditer(text):
        token = match[1]
        top = stack[-1] if stack else None
        if token == "," and top is not None:
            if isinstance(top.step, int):
                top.step += 1
            else:
                top.key_is_next = True
            continue
        if token == ":":
            continue
        if token in "]}":
            stack.pop()
            continue
        start = match.start(1)
        if top is not None and top.key_is_next:
            top.key_is_next = False
            top.step = _unquoted(token)
            if top.step in top.keys and repeated is None:
                line, counted = line + text.count("\n", counted, start), start
                repeated = _path(stack), line
                if not wanted:
                    break
            top.keys.add(top.step)
            continue
        # Of a member that is there twice, the last counts, as in pydantic. A path takes as long as
        # it is deep: without the first condition, minutes for a thousand brackets.
        if len(stack) <= deepest and (path := _path(stack)) in wanted:
            line, counted = line + text.count("\n", counted, start), start
            lines[path] = line
        if token in "[{":
            is_object = token == "{"
            stack.append(_Open("" if is_object else 0, set(), is_object))
    return Positions(lines, repeated)


def _path(stack: list[_Open]) -> Path:
    return tuple([each.step for each in stack])


def _unquoted(token: str) -> str:
    return str(json.loads(token)) if "\\" in token else token[1:-1]
