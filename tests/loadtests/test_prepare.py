"""People who are prepared before k6 starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import UserError
from loadtests import prepare, scripts
from loadtests.scripts import Wanted
from tests.loadtests import fake_gateway
from tests.loadtests.fake_gateway import Mistakes, serving

_SEATS = fake_gateway.CONCERTS * fake_gateway.SCHEDULES * fake_gateway.SEATS
_RESERVE = "POST /concerts/reservation"


def environ(url: str, **settings: str) -> dict[str, str]:
    return fake_gateway.ENVIRON | {"BASE_URL": url, "PROFILE": "smoke"} | settings


def test_each_holds_a_seat_of_its_own(tmp_path: Path) -> None:
    with serving({}) as gateway:
        gateway.seats = dict.fromkeys(range(1, 4), 999)
        wanted = Wanted(people=30, holds=True, in_setup=False)
        people = [
            json.loads(each) for each in prepare.prepare(wanted, 20, environ(gateway.url), tmp_path)
        ]
    held = {person["reservationId"] for person in people}
    assert len(held) == len({person["userId"] for person in people}) == 30
    assert 999 not in held, "somebody else holds these"
    assert all(gateway.users[person["token"]] == person["userId"] for person in people)
    assert all(1_000_000_000 <= person["userId"] < 91_000_000_000 for person in people)


@pytest.mark.parametrize(
    ("mistakes", "people", "message"),
    [
        ({}, _SEATS + 1, r"^prepare: Seats cannot be held: are there any left\?$"),
        (
            {"POST /queues/enqueue": (7, lambda status, body: (429, {"code": "QUEUE_FULL"}))},
            20,
            r"^prepare: Somebody got no place in the queue \(status 429: .*QUEUE_FULL",
        ),
        (
            {_RESERVE: (7, lambda status, body: (403, {"code": "STILL_WAITING"}))},
            20,
            r"^prepare: Seats cannot be held \(status 403: .*STILL_WAITING",
        ),
    ],
)
def test_a_preparation_that_fails_is_one_sentence(
    mistakes: Mistakes, people: int, message: str, tmp_path: Path
) -> None:
    wanted = Wanted(people=people, holds=True, in_setup=False)
    with serving(mistakes) as gateway, pytest.raises(UserError, match=message):
        prepare.prepare(wanted, 20, environ(gateway.url), tmp_path)


def test_an_unavailable_gateway_is_one_sentence(tmp_path: Path) -> None:
    with serving({}) as gateway:
        pass
    with pytest.raises(UserError, match=r"\(status 0: .*connection refused\)"):
        prepare.prepare(Wanted(5, False, False), 20, environ(gateway.url), tmp_path)


def test_who_is_not_ready_in_time_is_left_to_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving({}) as gateway:
        wanted = Wanted(1_000_000, False, False)
        people = prepare.prepare(wanted, 1, environ(gateway.url), tmp_path)
    assert 0 < len(people) < 1_000_000
    said = capsys.readouterr().out
    assert f"{len(people):,} of 1,000,000 people were ready within" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(("load", "within"), [(2.5, 20), (60, 120), (1_800, 200)])
def test_how_long_it_may_take(load: float, within: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(wanted: Wanted, seconds: float, *rest: object) -> list[str]:
        assert seconds == within
        return []

    monkeypatch.setattr(prepare, "prepare", nobody)
    with prepare.prepared(Wanted(4, True, False), load, {}) as settings:
        assert Path(settings["PREPARED_FILE"]).read_text() == "[]"


def test_k6_gets_a_private_file_that_is_deleted_and_its_people_leave(tmp_path: Path) -> None:
    with serving({}) as gateway:
        ours = environ(gateway.url, STAGES="100ms:2,200ms:2")
        with prepare.prepared(Wanted(4, False, False), 1, ours) as settings:
            file = Path(settings["PREPARED_FILE"])
            assert file.parent.stat().st_mode & 0o077 == 0, "the tokens are nobody else's business"
            people = json.loads(file.read_text())
            assert scripts.run("concerts", tmp_path, {**ours, **settings}).passed
        assert not file.exists()
    assert len(people) == 4
    assert {person["token"] for person in people} <= gateway.left


def test_what_fits_into_setup_is_left_to_setup() -> None:
    with prepare.prepared(Wanted(4, True, True), 1, {}) as settings:
        assert settings == {}


@pytest.mark.parametrize(
    ("script", "settings", "wanted"),
    [
        ("pay", {}, Wanted(3_900, True, True)),
        ("pay", {"PROFILE": "x10"}, Wanted(39_000, True, False)),
        ("seats", {"PROFILE": "x10"}, Wanted(1_500, False, False)),
        ("order", {"STAGES": "3s:400,12s:400"}, Wanted(400, False, True)),
        ("pay", {"STAGES": "3s:400,12s:400"}, Wanted(5_800, True, False)),
        ("pay", {"PREPARED_MEGABYTES": "0", "PROFILE": "smoke"}, Wanted(45, True, False)),
        ("journey", {"PROFILE": "x10"}, Wanted(0, False, True)),
        ("enqueue", {"PROFILE": "x10"}, Wanted(0, False, True)),
    ],
)
def test_who_must_be_ready(script: str, settings: dict[str, str], wanted: Wanted) -> None:
    assert scripts.plan(script, settings).people == wanted
