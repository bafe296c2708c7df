"""Which system is tested, and the folders of stacks that were started for a test."""

import fcntl
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.local import Ports
from loadtests import containers, opening

SETTINGS = dict.fromkeys(opening._SETTINGS, "x")


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://localhost:8080", True),
        ("http://[::1]:8080", True),
        ("http://192.0.2.1:8080", False),
        ("http://no-such-host.invalid", False),
    ],
)
def test_what_is_here(url: str, here: bool) -> None:
    assert opening._is_here(url) == here


def test_a_gateway_elsewhere_has_no_defaults() -> None:
    given = SETTINGS | {"PAYMENT_MYSQL_URL": "", "QUEUE_LISTEN": ""}
    with pytest.raises(UserError, match="another machine: set PAYMENT_MYSQL_URL, QUEUE_LISTEN to"):
        opening.attached("http://192.0.2.1:8080", given, Ports())


def test_containers_here_are_no_part_of_a_gateway_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(containers, "find", None)
    found = opening.attached("http://192.0.2.1:8080", SETTINGS, Ports())
    assert found.redis_url == "x"
    assert not found.containers


def test_what_a_killed_run_left_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "LOCAL", tmp_path)
    left, used, new = (tmp_path / f"loadtest-{name}" for name in ("left", "used", "new"))
    for folder in (left, used, new):
        (folder / "data").mkdir(parents=True)
    for folder in (left, used):
        (folder / opening._LOCK).touch()
    with (used / opening._LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with opening._scratch() as ours:
            assert {each.name for each in tmp_path.iterdir()} == {
                "loadtest-used", "loadtest-new", ours.name,
            }  # fmt: skip
            with opening._scratch():
                assert ours.exists()
        assert not ours.exists()
