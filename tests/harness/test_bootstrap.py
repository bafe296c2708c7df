"""The set-up script on machines that lack something: PATH has only a few commands."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
# What the script needs before it can decide anything.
COMMANDS = ["bash", "cat", "cut", "dirname", "env", "flock", "head", "id", "java", "mkdir", "sed"]
COMMANDS += ["chmod", "grep", "ln", "python3", "rm", "sha256sum", "tail", "tee"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A fresh clone, as far as the script reads it."""
    for name in ("harness/bootstrap.sh", "deploy/config/kafka/pom.xml", "requirements.lock"):
        copy = tmp_path / "tree" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, copy)
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in COMMANDS:
        (commands / name).symlink_to(shutil.which(name) or pytest.skip(f"no {name} here"))
    return tmp_path / "tree"


def command(tree: Path, name: str, script: str) -> None:
    path = tree.parent / "bin" / name
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def sudo(tree: Path, script: str) -> Path:
    """A sudo for a user who is not root; returns the file that records its arguments."""
    recorded = tree.parent / "recorded"
    command(tree, "id", "echo 1000")
    command(tree, "apt-get", "exit 1")
    command(tree, "sudo", f'echo "$*" >> {recorded}; case "$*" in {script} esac')
    return recorded


def bootstrap(tree: Path, stdin: int = subprocess.DEVNULL) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tree / "harness/bootstrap.sh", "run"],
        env={"PATH": str(tree.parent / "bin")},
        stdin=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@pytest.mark.parametrize(
    ("commands", "reason"),
    [
        ({}, "no apt-get"),
        ({"apt-get": "echo apt-get was called; exit 1"}, "neither root nor sudo is at hand"),
    ],
    ids=["no-apt", "no-root"],
)
def test_it_names_what_it_cannot_install(tree: Path, commands: dict[str, str], reason: str) -> None:
    for name, script in ({"id": "echo 1000"} | commands).items():
        command(tree, name, script)
    done = bootstrap(tree)
    assert done.returncode == 2
    for text in (reason, "redis-tools", "maven", "make up"):
        assert text in done.stderr
    assert "apt-get was called" not in done.stdout + done.stderr


def test_redis_is_installed_without_a_service_of_the_system(tree: Path) -> None:
    checker = tree.parent / "bin" / "redis-check-rdb"
    says = 'case $0 in *redis-server) echo "Redis server v=7";; esac'
    made = f"echo '{says}' >{checker}; chmod 755 {checker}"
    recorded = sudo(tree, f"*apt-get\\ install*) {made} ;;")
    command(tree, "python3", "exit 1")  # the script ends there
    assert bootstrap(tree).returncode == 2
    (step,) = [step for step in recorded.read_text().splitlines() if "apt-get install" in step]
    assert {"redis-tools", "redis-server"} & {*step.split()} == {"redis-tools"}
    assert (tree / ".local" / "bin" / "redis-server").readlink() == checker


def test_a_failure_of_apt_names_its_log(tree: Path) -> None:
    sudo(tree, "*apt-get\\ install*) echo 'E: no such luck'; exit 100 ;;")
    done = bootstrap(tree)
    assert done.returncode == 2
    assert "E: no such luck" in done.stderr
    assert "apt could not install " in done.stderr
    assert ".local/setup/apt.log" in done.stderr
    logs = [tree / ".local" / "setup" / name for name in ("apt.log", "apt-update.log")]
    assert {log.stat().st_mode & 0o777 for log in logs} == {0o600}


NO_PASSWORD_NO_SUDO = "-n\\ true) exit 1 ;;"


def test_without_a_terminal_sudo_does_not_ask(tree: Path) -> None:
    recorded = sudo(tree, NO_PASSWORD_NO_SUDO)
    done = bootstrap(tree)
    assert done.returncode == 2
    assert "neither root nor sudo is at hand" in done.stderr
    assert recorded.read_text().splitlines() == ["-n true"]


@pytest.mark.parametrize("may", [True, False], ids=["a-sudoer", "no-sudoer"])
def test_on_a_terminal_sudo_asks_for_the_password(tree: Path, may: bool) -> None:
    recorded = sudo(tree, f"{NO_PASSWORD_NO_SUDO} -v) exit {0 if may else 1} ;;")
    keyboard, terminal = os.openpty()
    try:
        done = bootstrap(tree, stdin=terminal)
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert "sudo may ask for your password" in done.stdout
    steps = recorded.read_text().splitlines()
    assert steps[:2] == ["-n true", "-v"]
    if may:
        assert any(step.startswith("env ") and "apt-get install" in step for step in steps)
    else:
        assert done.returncode == 2
        assert "neither root nor sudo is at hand" in done.stderr
        assert len(steps) == 2


def test_an_old_java_is_not_used(tree: Path) -> None:
    command(tree, "java", """echo 'openjdk version "11.0.2" 2019-01-15' >&2""")
    assert "openjdk-17-jre-headless" in bootstrap(tree).stderr


def test_an_unknown_argument_is_refused(tree: Path) -> None:
    done = subprocess.run(
        [tree / "harness/bootstrap.sh", "dance"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "usage" in done.stderr
