"""The repository's folder, and files that only their owner may read, written whole or not at all.

Standard library only, and Python 3.9.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

#: The top folder of the project.
REPOSITORY = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """A new file (mode 600) that takes the place of `path` when the block ends without an error.

    Until then it is `<path>.unfinished`. Raises OSError.
    """
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    try:
        with open(unfinished, "xb", opener=_private) as file:
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def write_variables(path: Path, values: Mapping[str, str]) -> None:
    """Writes NAME='value' lines; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as file:
        file.writelines(f"{name}='{value}'\n".encode() for name, value in values.items())


def read_variables(path: Path) -> dict[str, str]:
    """Reads NAME=value or NAME='value' lines, and ignores others; empty if there is no such file.

    Nothing in it is executed.
    """
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    found = {}
    for line in lines:
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            quoted = len(value) > 1 and value[0] == value[-1] == "'"
            found[name] = value[1:-1] if quoted else value
    return found
