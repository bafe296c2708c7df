"""The k6 scripts against a gateway that makes mistakes: a run that is not right must fail."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from loadtests import scripts
from loadtests.scripts import Ran
from tests.loadtests import fake_gateway
from tests.loadtests.fake_gateway import Body, Mistakes, schedules, seats, serving

_OURS = ("PROFILE", "STAGES", "VUS", "RATE", "DURATION", "PREALLOCATED_VUS", "PREPARED_FILE")
_ENTER, _RESERVE = "POST /queues/enqueue", "POST /concerts/reservation"


def ran(
    script: str,
    folder: Path,
    mistakes: Mistakes,
    *,
    lets_in: bool = True,
    remembers: bool = False,
    **settings: str,
) -> Ran:
    """Runs a script, with two users for half a second unless `settings` say otherwise."""
    environ = {name: value for name, value in os.environ.items() if name not in _OURS}
    environ |= {"PROFILE": "smoke", "STAGES": "100ms:2,400ms:2", "THINK_SECONDS": "0.1"}
    with serving(mistakes, lets_in=lets_in, remembers=remembers) as gateway:
        environ |= {**fake_gateway.ENVIRON, "BASE_URL": gateway.url, **settings}
        return scripts.run(script, folder, environ)


def broken(ran: Ran) -> set[str]:
    """The limits that did not hold."""
    return {
        f"{metric} {limit}"
        for metric, values in ran.metrics.items()
        for limit, is_broken in values.thresholds.items()
        if is_broken
    }


def test_a_run_in_which_all_is_right(tmp_path: Path) -> None:
    found = ran("journey", tmp_path, {})
    assert found.passed, broken(found)
    assert found.metrics["journeys_bought"].count > 0


def test_a_threshold_that_does_not_hold(tmp_path: Path) -> None:
    found = ran("concerts", tmp_path, {}, MAX_AVG_MS="0.001")
    assert not found.passed
    assert broken(found) == {"http_req_duration{phase:run} avg<0.001"}


def replaced(**fields: object) -> Any:
    return lambda status, body: (status, body | fields)


_PAST = "2020-01-01T00:00:00Z"
_NOW_HELD = {"seats": [seat | {"status": "HELD"} for seat in seats(1)]}


@pytest.mark.parametrize(
    ("script", "mistakes"),
    [
        # The first is what setup() looks at.
        ("concerts", {"GET /concerts": (1, replaced(concerts=[{"id": 1, "title": "T"}]))}),
        ("schedules", {"GET /concerts/2/schedules": (1, replaced(schedules=schedules(3)))}),
        ("schedules", {"GET /concerts/.*": (3, replaced(schedules=[]))}),
        ("seats", {"GET .*/1/seats": (1, replaced(seats=seats(2)))}),
        ("seats", {"GET .*/1/seats": (1, replaced(seats=seats(1)[:-1]))}),
        ("reserve", {_RESERVE: (0, replaced(heldUntil=_PAST))}),
        ("reserve", {_RESERVE: (0, lambda status, body: (409, {"code": "SEAT_LOST"}))}),
        ("pay", {"POST .*/pay": (0, replaced(reservationId=999_999))}),
        ("enqueue", {_ENTER: (1, replaced(order=-1))}),
    ],
)
def test_a_mixed_up_body_is_a_wrong_reply(script: str, mistakes: Mistakes, tmp_path: Path) -> None:
    # One date of seats, and enough requests that a random concert is the second one for certain.
    found = ran(
        script,
        tmp_path,
        mistakes,
        MAX_FAILED="0.01",
        SCHEDULES_OF_SEATS="1",
        STAGES="100ms:2,1s:2",
    )
    assert found.metrics["wrong_replies{phase:run}"].passes > 0
    assert "wrong_replies{phase:run} rate<0.01" in broken(found)


@pytest.mark.parametrize(
    ("script", "mistakes"),
    [
        # Two of five dates have passed.
        ("schedules", {"GET /concerts/2/schedules": (0, replaced(schedules=schedules(2, 2)))}),
        ("seats", {"GET .*/1/seats": (1, replaced(**_NOW_HELD))}),
    ],
)
def test_another_right_body_is_right(script: str, mistakes: Mistakes, tmp_path: Path) -> None:
    found = ran(script, tmp_path, mistakes)
    assert found.passed, broken(found)


def away(status: int, body: Body) -> tuple[int, Body]:
    return 503, {"code": "UNAVAILABLE"}


def test_a_run_that_measured_nothing_fails(tmp_path: Path) -> None:
    """Nobody was made ready, and nobody gets in but the one whom setup() tries it with."""
    file = tmp_path / "people.json"
    file.write_text("[]")
    found = ran("concerts", tmp_path, {_ENTER: (1, away)}, PREPARED_FILE=str(file))
    assert broken(found) == {
        "http_reqs{phase:run,name:concerts} count>0",
        "wrong_replies{phase:prepare} rate==0",
    }


def test_a_journey_in_which_nobody_is_let_in_fails(tmp_path: Path) -> None:
    found = ran("journey", tmp_path, {}, lets_in=False, MAX_WAIT_SECONDS="0.5", POLL_SECONDS="0.1")
    assert {"journeys_bought count>=1", "journeys_failed rate<0.02"} <= broken(found)
    assert found.metrics["wrong_replies"].passes == 0, "each reply was right"


def test_a_run_in_which_no_seat_is_won_fails(tmp_path: Path) -> None:
    sold = (0, lambda status, body: (409, {"code": "SEAT_SOLD"}))
    found = ran("reserve", tmp_path, {_RESERVE: sold})
    assert broken(found) == {"seats_won{phase:run} count>0"}


def test_a_rush_without_a_queue_is_none(tmp_path: Path) -> None:
    """All 10 (for k6, 9) buy, but at once."""
    found = ran(
        "journey", tmp_path, {}, PROFILE="rush", STAGES="500ms:20,250ms:20",
        PREALLOCATED_VUS="10",
        MAX_AVG_MS="5000", MAX_P99_MS="5000",
    )  # fmt: skip
    assert broken(found) == {"journey_waited med>1000", "journey_polls avg>2"}
    assert "count>=8" in found.metrics["journeys_bought"].thresholds


def test_a_line_in_which_nobody_stands_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^order: Nobody has to stand in line: [^\n]+ capacity\.$"):
        ran("order", tmp_path, {})
    found = ran("order", tmp_path, {}, lets_in=False)
    assert found.passed, broken(found)


def test_polls_that_are_answered_from_memory_are_not_measured(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^order: .* GATEWAY_ENFORCE_PACE=false\.$"):
        ran("order", tmp_path, {}, lets_in=False, remembers=True)


def test_people_from_a_file_and_those_who_come_late(tmp_path: Path) -> None:
    """The second one's hold has ended, and there is no third one: both are made in the run."""
    people = [
        {"userId": 1, "token": "a.x.b", "order": 0, "reservationId": 7, "heldUntil": held}
        for held in ("2100-01-01T00:00:00Z", _PAST)
    ]
    file = tmp_path / "people.json"
    file.write_text(json.dumps(people))
    # The first one's token is one that the gateway never gave.
    found = ran("pay", tmp_path, {}, PREPARED_FILE=str(file), STAGES="100ms:1,1s:1")
    metrics = found.metrics
    assert metrics["prepared_late"].count == metrics["iterations"].count - 1
    assert metrics["wrong_replies{phase:run}"].passes == 1


def test_k6_reaches_the_gateway_without_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checked by its settings: for a gateway at 127.0.0.1 k6 never uses one."""

    class Spawned(Exception):
        pass

    def spawn(_: list[str], *, env: dict[str, str], **__: object) -> None:
        raise Spawned(env["NO_PROXY"], env["no_proxy"], env["http_proxy"])

    monkeypatch.setattr(scripts, "spawn", spawn)
    environ = {"http_proxy": "http://127.0.0.1:1", "no_proxy": ""}
    with pytest.raises(Spawned) as spawned:
        scripts.execute(["seats"], environ, tmp_path / "log")
    assert spawned.value.args == ("*", "*", "http://127.0.0.1:1")
