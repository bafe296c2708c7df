"""The folder of a stack of our own, and what is left of those of others."""

import fcntl
from pathlib import Path

import pytest

from loadtests import opening


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
