"""The set-up script on machines that lack things, played by a PATH of a few commands."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
# What the script needs before it can decide anything.
COMMANDS = ["bash", "cat", "cut", "dirname", "env", "flock", "head", "id", "java", "mkdir", "sed"]
COMMANDS += ["python3", "sha256sum", "tail", "tee"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A fresh clone, as far as the script looks at it."""
    for name in ("deploy/local/bootstrap.sh", "deploy/local/kafka/pom.xml", "requirements.lock"):
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


def bootstrap(tree: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tree / "deploy/local/bootstrap.sh", "run"],
        env={"PATH": str(tree.parent / "bin")},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_without_root_or_sudo_it_says_what_to_install(tree: Path) -> None:
    command(tree, "apt-get", "echo apt-get was called; exit 1")
    command(tree, "id", "echo 1000")
    done = bootstrap(tree)
    assert done.returncode == 2
    assert "redis-server" in done.stderr
    assert "maven" in done.stderr
    assert "make up" in done.stderr
    assert "apt-get was called" not in done.stdout + done.stderr


def test_without_apt_it_says_what_is_lacking(tree: Path) -> None:
    done = bootstrap(tree)
    assert done.returncode == 2
    assert "no apt-get" in done.stderr
    assert "redis-server" in done.stderr


def test_an_old_java_is_not_taken(tree: Path) -> None:
    command(tree, "java", """echo 'openjdk version "11.0.2" 2019-01-15' >&2""")
    assert "openjdk-17-jre-headless" in bootstrap(tree).stderr


def test_an_unknown_word_is_refused(tree: Path) -> None:
    done = subprocess.run(
        [tree / "deploy/local/bootstrap.sh", "dance"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "usage" in done.stderr
