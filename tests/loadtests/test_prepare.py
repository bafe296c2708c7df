"""People who are made ready before k6 starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import UserError
from loadtests import prepare, scripts
from loadtests.prepare import Wanted
from tests.loadtests import fake_gateway
from tests.loadtests.fake_gateway import Mistakes, serving

_SEATS = fake_gateway.CONCERTS * fake_gateway.SCHEDULES * fake_gateway.SEATS
_RESERVE = "POST /concerts/reservation"


def environ(url: str) -> dict[str, str]:
    return fake_gateway.ENVIRON | {"BASE_URL": url}


def quiet(state: str, spent: float) -> None:
    """No progress."""


def test_each_holds_a_seat_of_its_own() -> None:
    with serving({}) as gateway:
        message: list[str] = []
        wanted = Wanted(people=40, holds=True, in_setup=False)
        people = prepare.make(
            wanted, 20, environ(gateway.url), lambda state, spent: message.append(state)
        )
        assert len({person.user_id for person in people}) == 40
        assert len({person.reservation_id for person in people}) == 40
        assert all(gateway.users[person.token] == person.user_id for person in people)
        assert all(1_000_000_000 <= person.user_id < 91_000_000_000 for person in people)
        # Those of the last concert: numbered like those of lib/env.js.
        ids = fake_gateway.SCHEDULE_IDS
        first = [(concert * ids) * fake_gateway.SEATS for concert in range(fake_gateway.CONCERTS)]
        each = fake_gateway.SCHEDULES * fake_gateway.SEATS
        assert all(any(0 < seat - start <= each for start in first) for seat in gateway.seats)
        assert message[-1] == "40 of 40 people ready"


def test_a_seat_that_somebody_else_has_is_no_hindrance() -> None:
    with serving({}) as gateway:
        gateway.seats = dict.fromkeys(range(1, 4), 999)
        wanted = Wanted(people=30, holds=True, in_setup=False)
        people = prepare.make(wanted, 20, environ(gateway.url), quiet)
        assert 999 not in {person.reservation_id for person in people}


@pytest.mark.parametrize(
    ("mistakes", "people", "message"),
    [
        ({}, _SEATS + 1, "Seats cannot be held before the measurement: are there any left"),
        (
            {"POST /queues/enqueue": (7, lambda status, body: (429, {"code": "QUEUE_FULL"}))},
            20,
            r"Nobody can enter the queue before the measurement: the gateway says 429 QUEUE_FULL",
        ),
        (
            {_RESERVE: (7, lambda status, body: (403, {"code": "STILL_WAITING"}))},
            20,
            "Nobody can hold a seat before the measurement: the gateway says 403 STILL_WAITING",
        ),
    ],
)
def test_a_preparation_that_fails_is_told(mistakes: Mistakes, people: int, message: str) -> None:
    wanted = Wanted(people=people, holds=True, in_setup=False)
    with serving(mistakes) as gateway, pytest.raises(UserError, match=message):
        prepare.make(wanted, 20, environ(gateway.url), quiet)


def test_a_gateway_that_is_away_is_told() -> None:
    with serving({}) as gateway:
        pass
    with pytest.raises(UserError, match=r"The gateway at .* does not answer while"):
        prepare.make(Wanted(5, False, False), 20, environ(gateway.url), quiet)


def test_who_is_not_ready_in_time_is_left_to_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    with serving({}) as gateway:
        people = prepare.make(Wanted(1_000_000, False, False), 0.2, environ(gateway.url), quiet)
    assert 0 < len(people) < 1_000_000
    said = capsys.readouterr().out
    assert f"{len(people):,} of 1,000,000 people were ready within" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(("load", "within"), [(2.5, 20), (60, 120), (1_800, 200)])
def test_how_long_it_may_take(load: float, within: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(wanted: Wanted, seconds: float, *rest: object) -> list[prepare.Person]:
        assert seconds == within
        return []

    monkeypatch.setattr(prepare, "make", nobody)
    with prepare.prepared(Wanted(4, True, False), load, environ("http://x"), quiet) as ready:
        assert ready.people == []


def test_k6_gets_a_file_that_is_gone_afterwards() -> None:
    with serving({}) as gateway:
        with prepare.prepared(Wanted(4, False, False), 1, environ(gateway.url), quiet) as ready:
            file = Path(ready.environ["PREPARED_FILE"])
            people = json.loads(file.read_text())
            assert people == [
                person.model_dump(exclude_none=True, by_alias=True) for person in ready.people
            ]
            assert people[0].keys() == {"userId", "token", "order"}
            assert file.parent.stat().st_mode & 0o077 == 0, "the tokens are nobody else's business"
        assert not file.exists()
        ready.send_home(without=1)
        assert gateway.left == {person.token for person in ready.people[1:]}


def test_what_fits_into_setup_is_left_to_setup() -> None:
    with prepare.prepared(Wanted(4, True, True), 1, environ("http://x"), quiet) as ready:
        assert (ready.people, ready.environ) == ([], {})
        ready.send_home()


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
def test_who_must_be_ready(
    script: str, settings: dict[str, str], wanted: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PROFILE", "STAGES", "VUS", "RATE", "DURATION", "PREALLOCATED_VUS"):
        monkeypatch.delenv(name, raising=False)
    assert scripts.plan(script, settings).people == wanted
