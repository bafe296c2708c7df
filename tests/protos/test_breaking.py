"""`make breaking` on a repository of its own, with the protos of this one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROTOS = Path(__file__).parents[2] / "protos"
PLACE = "frontrow/queue/v1/queue.proto"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with two commits: an empty one, tagged `empty`, and the protos."""
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "Nothing.")
    git(tmp_path, "tag", "empty")
    shutil.copytree(
        PROTOS, tmp_path / "protos", ignore=shutil.ignore_patterns("*.py", "*.pyi", "__pycache__")
    )
    git(tmp_path, "add", "protos")
    git(tmp_path, "commit", "--quiet", "--message", "The protos.")
    return tmp_path


def git(repository: Path, *arguments: str) -> None:
    author = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    subprocess.run(["git", *author, *arguments], cwd=repository, check=True)


def breaking(repository: Path, *base: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["protos/breaking.sh", *base],
        cwd=repository,
        env=os.environ | {"BUF": str(Path(sys.executable).parent / "buf")},
        capture_output=True,
        text=True,
        timeout=60,
    )


def change(repository: Path, old: str, new: str) -> None:
    proto = repository / "protos" / PLACE
    text = proto.read_text()
    assert old in text
    proto.write_text(text.replace(old, new))


def test_a_new_field_and_a_new_name_break_nothing(repository: Path) -> None:
    change(repository, "message GetRoomRequest {\n", "message GetRoomRequest {\n  bool full = 9;\n")
    change(repository, "int64 order = 2;", "int64 number_in_line = 2;")
    result = breaking(repository, "HEAD")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "No change since HEAD breaks the wire format.\n"


def test_a_number_reused_with_another_type_breaks_the_wire(repository: Path) -> None:
    change(repository, "int64 order = 2;", "string order = 2;")
    result = breaking(repository, "HEAD")
    assert result.returncode == 100
    assert 'Field "2" with name "order" on message "Position" changed type' in result.stdout


@pytest.mark.parametrize(
    ("base", "problem"),
    [
        ([], "Name the commit to compare with: make breaking BASE=<commit>."),
        ([""], "Name the commit to compare with: make breaking BASE=<commit>."),
        (["nonsense"], "This repository has no commit nonsense."),
        (
            ["empty"],
            "Commit empty has no protos/frontrow: compare with a commit after the protos moved"
            " there.",
        ),
    ],
)
def test_a_commit_that_cannot_be_compared_is_one_sentence(
    repository: Path, base: list[str], problem: str
) -> None:
    result = breaking(repository, *base)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"{problem}\n"
