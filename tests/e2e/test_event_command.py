"""The command for events, and the demo of an example, against the running system."""

import asyncio
import json
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from harness import demo, event_demo
from harness.admin_client import AdminClient, connect
from harness.cli import app, run_app
from harness.local.stack import PYTHON, Stack

EXAMPLES = event_demo.EXAMPLES
Run = Callable[..., int]


@pytest.fixture(scope="module")
def key(stack: Stack) -> str:
    """An API key with the role operator."""
    return subprocess.run(
        [PYTHON, "-m", "concert_service.keys", "create", "--name", "e2e", "--role", "operator"],
        check=True,
        capture_output=True,
        text=True,
        env=stack.environment("concert_service"),
    ).stdout.strip()


@pytest.fixture(scope="module")
def admin_url(stack: Stack) -> str:
    return f"http://{stack.environment('gateway')['GATEWAY_ADMIN_LISTEN']}"


@pytest.fixture
def event(key: str, admin_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `event …` and returns its exit status."""
    monkeypatch.setenv("FRONTROW_ADMIN_KEY", key)
    monkeypatch.setenv("FRONTROW_ADMIN_URL", admin_url)
    return lambda *arguments: run_app(app, ["event", *map(str, arguments)])


def test_an_event_from_its_file_to_its_end(
    event: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    club = EXAMPLES / "club.json"
    assert event("import", club, "--dry-run") == 0
    assert "club: new, version 0." in capsys.readouterr().out
    assert event("import", club) == 0
    assert "club: draft, version 1.\n  everything is new" in capsys.readouterr().out
    assert event("import", club) == 0
    assert "Nothing differs." in capsys.readouterr().out

    exported = tmp_path / "club.json"
    assert event("export", "club", "-o", exported) == 0
    assert exported.read_bytes() == club.read_bytes()

    exported.write_text(exported.read_text().replace("24.50", "26"))
    assert event("import", exported, "--version", 1) == 0
    assert "  priceCategories[Standing].price: 24.50 → 26\n" in capsys.readouterr().out
    assert event("import", club, "--version", 1) == 2
    refused = capsys.readouterr().err
    assert "EVENT_CHANGED" in refused
    assert "priceCategories[Standing].price: 24.50 → 26" in refused

    assert event("publish", "club") == 0
    assert event("list") == 0
    assert any(
        line.split()[:5] == ["club", "PUBLISHED", "3", "2", "400"]
        for line in capsys.readouterr().out.splitlines()
    )
    assert event("cancel", "club") == 2
    assert event("cancel", "club", "--yes") == 0
    assert "club is cancelled, version 4." in capsys.readouterr().out
    assert event("import", club) == 2
    assert event("export", "nothing") == 2
    assert "WRONG_EVENT_STATUS" in capsys.readouterr().err


def test_each_mistake_is_named_with_file_line_and_field(
    event: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads((EXAMPLES / "club.json").read_text())
    document |= {"externalId": "broken", "currency": "EURO"}
    file, seats = tmp_path / "broken.json", tmp_path / "seats.csv"
    file.write_text(json.dumps(document, indent=1))
    seats.write_text("section,row,place,label,priceCategory\nBalcony,A,one,A1,Standing\n")
    assert event("import", file, "--seats", seats) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{file}:8: currency: Must be the ISO 4217 code of a currency, as in EUR.",
        f"{seats}:2: place: Must be a whole number.",
    ]
    seats.write_text("section,row,place,label,priceCategory\nBalcony,A,1,A1,Standing\n")
    file.write_text(json.dumps(document | {"currency": "EUR"}))
    assert event("import", file, "--seats", seats) == 0
    assert event("export", "broken") == 0
    assert '"Balcony"' in capsys.readouterr().out


async def test_the_demo_of_the_theatre(
    stack: Stack,
    key: str,
    admin_url: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_demo, "_OPENS_AFTER", timedelta(seconds=4))
    async with connect(admin_url, key) as http:
        concert_id = await event_demo.open_event(AdminClient(http), "theatre", room="theatre")
    await asyncio.wait_for(demo.buy(stack.gateway_url, concert_id), 30)
    output = capsys.readouterr().out
    assert "1 people gather; the room opens at" in output
    # Neither of the two at an end of the first row, which are accessible and a companion's.
    assert "of seat A10, A11, held" in output
    assert "Done: the ticket is bought." in output
