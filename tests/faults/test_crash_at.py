"""The launcher of the fault tests kills at the requested step, and nowhere else."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("options", "output", "code"),
    [
        (["json:dump", "--before"], "", -9),
        (["json:dump"], "{}", -9),
        (["json:dump", "--call", "2"], "{}\n", 0),
        (["json.encoder:JSONEncoder.iterencode", "--before"], "", -9),
    ],
)
def test_it_kills_at_the_step(options: list[str], output: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.crash_at", *options, "json.tool"],
        input="{}",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.returncode) == (output, code)
