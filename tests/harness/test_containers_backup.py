"""backup and restore: files are complete, and are checked before anything changes."""

import gzip
from pathlib import Path

import pytest

from harness.containers.settings import PROGRAMS
from tests.harness.conftest import CONTRACT, Operator
from tests.harness.fake_docker import DUMP


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "frontrow.sql.gz"
    file.write_bytes(gzip.compress(DUMP))
    return file


def test_a_backup_is_complete_and_readable_by_its_owner_only(
    operator: Operator, tmp_path: Path
) -> None:
    operator.run("up", PORT=operator.port)
    file = tmp_path / "mine.sql.gz"
    assert str(file) in operator.run("backup", str(file))
    assert gzip.decompress(file.read_bytes()) == DUMP
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("stopped", [True, False])
def test_a_backup_that_fails_leaves_nothing(
    operator: Operator, tmp_path: Path, stopped: bool
) -> None:
    operator.run("up", PORT=operator.port)
    file = tmp_path / "mine.sql.gz"
    if stopped:
        operator.docker.of("mariadb")[0].running = False
        assert "no container of mariadb runs" in operator.refused("backup", str(file))
    else:
        operator.docker.dump = DUMP[:-50]
        assert "no complete dump" in operator.refused("backup", str(file))
    assert [each.name for each in tmp_path.iterdir()] == ["state"]


def test_a_backup_does_not_replace_another(operator: Operator, file: Path) -> None:
    operator.run("up", PORT=operator.port)
    before = file.read_bytes()
    error = operator.refused("backup", str(file))
    assert f"{file} is there already: choose another FILE, or delete it." in error
    assert file.read_bytes() == before


def test_the_file_must_be_named_and_its_folder_exist(operator: Operator, tmp_path: Path) -> None:
    operator.run("up", PORT=operator.port)
    assert "name the file: make backup" in operator.refused("backup", "")
    assert "name the file: make restore" in operator.refused("restore")
    assert "No such file" in operator.refused("backup", str(tmp_path / "no" / "x"))


def test_no_program_runs_until_the_data_is_complete(operator: Operator, file: Path) -> None:
    operator.run("up", PORT=operator.port)
    begun = len(operator.docker.log)
    operator.run("restore", str(file))
    assert operator.docker.data == DUMP
    assert operator.docker.log[begun:] == [
        "build",
        f"stop {' '.join(PROGRAMS)} migrate seed",
        "up mariadb kafka",
        "import",
        "ALTER TABLE reservation.reservation AUTO_INCREMENT = 1000007",
        "ALTER TABLE payment.payment AUTO_INCREMENT = 1000007",
        "run migrate",
        "run payment python -m payment_service.republish_outcomes",
        "up",
        CONTRACT,
    ]
    assert all(operator.docker.running()[name] == 1 for name in PROGRAMS)


def test_on_an_empty_machine_no_gateway_starts_before_the_data_is_restored(
    operator: Operator, file: Path
) -> None:
    operator.docker.failing = "run migrate"
    operator.refused("restore", str(file), PORT=operator.port)
    assert dict(operator.docker.running()) == {"mariadb": 1, "kafka": 1}
    assert "a restore broke off" in operator.refused("up")
    assert "a restore broke off" in operator.refused("roll")
    operator.docker.failing = None
    operator.run("restore", str(file))
    assert operator.docker.running()["gateway"] == 1
    operator.run("up")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, "No such file or directory"),
        (b"", "no complete dump"),
        (gzip.compress(b""), "no complete dump"),
        (b"\x1f\x8b\x08", "no complete gzip file"),
        (gzip.compress(DUMP)[:-9], "no complete gzip file"),
        (DUMP, "no complete gzip file"),
        (gzip.compress(b"hello\n" * 10), "no complete dump"),
        (gzip.compress(DUMP[:-50]), "no complete dump"),
        (gzip.compress(DUMP.replace(b"`concert`", b"`mysql`")), "and no other"),
        (gzip.compress(DUMP.replace(b"-- Current Database: `concert`\n", b"")), "and no other"),
    ],
    # The content would name the time at which it was compressed, other in each worker.
    ids=[
        "missing",
        "empty",
        "empty-gzip",
        "gzip-magic-only",
        "cut-gzip",
        "not-compressed",
        "other-text",
        "cut-dump",
        "schema-of-the-server",
        "schema-without-heading",
    ],
)
def test_a_file_that_is_no_backup_changes_nothing(
    operator: Operator, tmp_path: Path, content: bytes | None, error: str
) -> None:
    operator.run("up", PORT=operator.port)
    begun = len(operator.docker.log)
    file = tmp_path / "other.gz"
    if content is not None:
        file.write_bytes(content)
    assert error in operator.refused("restore", str(file))
    assert operator.docker.log[begun:] == []
    assert operator.docker.running()["gateway"] == 1
