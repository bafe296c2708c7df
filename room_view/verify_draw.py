"""Recomputes the rank of a place in a draw, without a network: see docs/draw.md.

python -m room_view.verify_draw --token TOKEN --seed SEED --numbers FILE
"""

import base64
import binascii
import hashlib
import json
import re
import sys
from array import array
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from room_view.draw import Draw, cohort_sha256, draw_key

_MAX_NUMBER = 2**53


class BadInput(Exception):
    """What was given is not what a draw publishes; the message says what and where."""


def main(
    token: Annotated[str, typer.Option(help="The access token of the place.")],
    seed: Annotated[str, typer.Option(help="The seed, hexadecimal.")],
    numbers: Annotated[Path, typer.Option(help="The list: a place number on each line.")],
    public_value: Annotated[str, typer.Option(help="The public value, if there is one.")] = "",
    seed_sha256: Annotated[str, typer.Option(help="What was published before.")] = "",
    cohort_sha256: Annotated[str, typer.Option(help="What was published at the closing.")] = "",
    cohort_size: Annotated[int, typer.Option(help="What was published at the closing.")] = -1,
) -> None:
    """Prints the rank of a place and the hashes, from which it follows. Fails if they are not the
    published ones, or if the place is not in the list."""
    try:
        secret = read_seed(seed)
        number = read_token(token)
        cohort = read_numbers(numbers.read_text(encoding="utf-8"))
    except (BadInput, OSError, UnicodeDecodeError) as error:
        _fail(str(error))
    rank = verify(
        secret,
        public_value,
        cohort,
        number,
        {"seed": seed_sha256.lower(), "list": cohort_sha256.lower()},
        None if cohort_size < 0 else cohort_size,
    )
    print(f"The place {number} has rank {rank + 1} of {len(cohort):,}.")


def verify(
    seed: bytes,
    public_value: str,
    cohort: "array[int]",
    number: int,
    published: dict[str, str],
    published_size: int | None = None,
) -> int:
    """Returns the rank of a place, from 0, after printing the hashes of the seed and of the list.
    `published` has what they must be, hexadecimal; empty: not checked. Ends the program with status
    1 if something is not as published."""
    found = {"seed": hashlib.sha256(seed).hexdigest(), "list": cohort_sha256(cohort).hex()}
    wrong = []
    for what, digest in found.items():
        said = "as published" if digest == published[what] else "NOT as published"
        print(f"SHA-256 of the {what}: {digest}{f' ({said})' if published[what] else ''}")
        if published[what] and digest != published[what]:
            wrong.append(f"The hash of the {what} is not the published one.")
    print(f"Places in the list: {len(cohort):,}")
    if published_size is not None and published_size != len(cohort):
        wrong.append(f"The list has {len(cohort):,} places, not {published_size:,}.")
    rank = Draw(cohort, draw_key(seed, public_value)).rank(number)
    if rank is None:
        wrong.append(f"The place {number} is not in the list: it took no part in the draw.")
    if wrong or rank is None:
        _fail(" ".join(wrong))
    return rank


def read_seed(seed: str) -> bytes:
    """Returns the bytes of a seed. Raises BadInput."""
    if not re.fullmatch("[0-9a-fA-F]{64}", seed):
        raise BadInput("The seed must have 64 hexadecimal digits.")
    return bytes.fromhex(seed)


def read_token(token: str) -> int:
    """Returns the place number that an access token states. Only the waiting room can check its
    signature. Raises BadInput."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        number = claims["place"]
    except (IndexError, binascii.Error, ValueError, TypeError, KeyError):
        number = None
    if type(number) is not int or not 0 < number < _MAX_NUMBER:
        raise BadInput("The token is not an access token of a waiting room.")
    return number


def read_numbers(text: str) -> "array[int]":
    """Returns the numbers of a list that has one on each line, in ascending order. Raises
    BadInput."""
    numbers = array("q")
    for line, word in enumerate(text.splitlines(), 1):
        if not re.fullmatch("[0-9]{1,16}", word.strip()) or int(word) >= _MAX_NUMBER:
            raise BadInput(f"Line {line} of the list is not a place number.")
        if numbers and int(word) <= numbers[-1]:
            raise BadInput(f"Line {line} of the list is not greater than the one before.")
        numbers.append(int(word))
    return numbers


def _fail(problem: str) -> NoReturn:
    print(f"error: {problem}", file=sys.stderr)
    raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
