"""The command with which anybody checks a draw."""

import hashlib
from pathlib import Path

import jwt
import pytest
import typer
from typer.testing import CliRunner, Result

from room_view import verify_draw
from tests.room_view import described_draw

SEED = bytes(range(32))
NUMBERS = [1_000_000 * 4096 + 7 * n for n in range(500)]

app = typer.Typer()
app.command()(verify_draw.main)


def token(number: object) -> str:
    claims = {"room": "main", "place": number, "user": 1, "epoch": 1, "iat": 1}
    return jwt.encode(claims, "k" * 32, algorithm="HS256")


@pytest.fixture
def published(tmp_path: Path) -> dict[str, str]:
    """The options with what a draw has published, for the place of rank 8."""
    path = tmp_path / "numbers.txt"
    path.write_text("".join(f"{number}\n" for number in NUMBERS))
    return {
        "--token": token(described_draw.order(SEED, "lottery 7 ✓", NUMBERS)[7]),
        "--seed": SEED.hex(),
        "--numbers": str(path),
        "--public-value": "lottery 7 ✓",
        "--seed-sha256": hashlib.sha256(SEED).hexdigest().upper(),
        "--cohort-sha256": described_draw.list_hash(NUMBERS),
        "--cohort-size": "500",
    }


def run(options: dict[str, str]) -> Result:
    return CliRunner().invoke(app, [word for pair in options.items() for word in pair])


def test_prints_the_rank_and_the_hashes(published: dict[str, str]) -> None:
    result = run(published)
    assert result.exit_code == 0, result.output
    assert "has rank 8 of 500." in result.output
    assert result.output.count("(as published)") == 2


def test_needs_no_published_hash(published: dict[str, str]) -> None:
    for option in ("--seed-sha256", "--cohort-sha256", "--cohort-size"):
        del published[option]
    result = run(published)
    assert result.exit_code == 0
    assert "has rank 8 of 500." in result.output
    assert "published" not in result.output


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("--seed-sha256", "0" * 64, "The hash of the seed is not the published one."),
        ("--cohort-sha256", "0" * 64, "The hash of the list is not the published one."),
        ("--cohort-size", "499", "The list has 500 places, not 499."),
        ("--seed", "00" * 32, "The hash of the seed is not the published one."),
        ("--seed", "00" * 31, "The seed must have 64 hexadecimal digits."),
        ("--token", token(NUMBERS[0] + 1), "is not in the list: it took no part"),
        ("--token", token("7"), "The token is not an access token"),
        ("--token", token(True), "The token is not an access token"),
        ("--token", "a.b.c", "The token is not an access token"),
        ("--token", "x", "The token is not an access token"),
        ("--numbers", "/no/such/file", "No such file"),
    ],
)
def test_says_what_is_wrong(
    published: dict[str, str], option: str, value: str, problem: str
) -> None:
    result = run(published | {option: value})
    assert result.exit_code == 1
    assert problem in result.output
    assert "has rank" not in result.output


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1\nx\n", "Line 2 of the list is not a place number."),
        ("1\n\n2\n", "Line 2 of the list is not a place number."),
        (f"{2**53}\n", "Line 1 of the list is not a place number."),
        ("1\n3\n3\n", "Line 3 of the list is not greater than the one before."),
        ("-1\n", "Line 1 of the list is not a place number."),
    ],
)
def test_names_the_line_of_the_list_that_is_wrong(text: str, problem: str) -> None:
    with pytest.raises(verify_draw.BadInput, match=problem):
        verify_draw.read_numbers(text)
