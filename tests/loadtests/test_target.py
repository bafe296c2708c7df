"""Which system is loaded and read: refused unless it is certainly one and the same."""

import fcntl
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local import Ports
from loadtests import command, containers, machine, target
from loadtests.containers import Cgroup, Container
from loadtests.errors import CannotTest

SETTINGS = dict.fromkeys(target._SETTINGS, "x")


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
    assert target._is_here(url) == here


def test_a_gateway_elsewhere_has_no_defaults() -> None:
    given = SETTINGS | {"PAYMENT_MYSQL_URL": "", "QUEUE_LISTEN": ""}
    with pytest.raises(CannotTest, match="another machine: set PAYMENT_MYSQL_URL, QUEUE_LISTEN to"):
        target._attached("http://192.0.2.1:8080", given, Ports())


def test_containers_here_are_no_part_of_a_gateway_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(containers, "find", None)
    monkeypatch.setattr(target, "_require_same", lambda found: None)
    found = target._attached("http://192.0.2.1:8080", SETTINGS, Ports())
    assert found.redis_url == "x"
    assert not found.containers


@pytest.mark.parametrize("token", ["", "a", "a.b.c", "a.e30.c", "a.eyJwbGFjZSI6IngifQ.c"])
def test_tokens_of_another_kind(token: str) -> None:
    with pytest.raises(CannotTest, match="another kind"):
        target._claims(token)


def test_versions_are_those_in_the_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    def docker(*arguments: str) -> str:
        """An engine whose containers run what this machine runs."""
        action, _, *command = arguments
        assert action == "exec"
        if command[0] == "python":
            command[0] = sys.executable
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return f"{command[0]}  Ver 7.4.2 for Linux"

    monkeypatch.setattr(containers, "_docker", docker)
    found = [
        Container(f"{number}", service, service, Cgroup(1), {}, {})
        for number, service in enumerate(("gateway", "mariadb", "redis"))
    ]
    rows = containers.versions(found)
    assert rows.keys() == {"python", *machine.PACKAGES, "redis-server", "mariadbd"}
    assert rows["python"] == platform.python_version()
    assert rows["redis-server"] == "7.4.2"
    monkeypatch.setattr(containers, "_docker", lambda *arguments: "")
    assert containers.versions(found)["python"] == "unknown"


def test_what_a_killed_run_left_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "LOCAL", tmp_path)
    left, used, new = (tmp_path / f"loadtest-{name}" for name in ("left", "used", "new"))
    for folder in (left, used, new):
        (folder / "data").mkdir(parents=True)
    for folder in (left, used):
        (folder / target._LOCK).touch()
    with (used / target._LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with target._scratch() as ours:
            assert {each.name for each in tmp_path.iterdir()} == {
                "loadtest-used", "loadtest-new", ours.name,
            }  # fmt: skip
            with target._scratch():
                assert ours.exists()
        assert not ours.exists()


def test_a_full_disk_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def write() -> int:
        raise OSError(28, "No space left on device", "result.json")

    assert command.run(write) == 2
    assert capsys.readouterr().err == "frontrow: No space left on device: result.json.\n"
