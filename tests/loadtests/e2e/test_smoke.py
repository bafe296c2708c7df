"""The scripts against a stack of their own, for a few seconds each: does everything work?"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.local.ports import free_ports
from loadtests import scripts
from loadtests.model import Result


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "names",
    [("journey", "seats"), pytest.param(scripts.NAMES, marks=pytest.mark.long)],
    ids=["two scripts", "all scripts"],
)
def test_smoke(repository: Path, names: tuple[str, ...]) -> None:
    # A port where no gateway answers, so that a system that runs here is left alone.
    environ = {
        **os.environ,
        "PROFILE": "smoke",
        "SCRIPT": ",".join(names),
        "FRONTROW_GATEWAY_PORT": str(free_ports(1)[0]),
    }
    for name in ("SEED", "BASE_URL", "GATEWAY_LISTEN"):
        environ.pop(name, None)
    ran = subprocess.run(
        [sys.executable, "-m", "loadtests.cli", "loadtest"],
        cwd=repository,
        env=environ,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    message = ran.stdout.splitlines()[-1]
    folder = repository / Path(message).parent
    result = Result.read(folder / "result.json")
    assert [script.name for script in result.scripts] == list(names)
    assert set(result.invariants.values()) == {0}
    for script in result.scripts:
        assert script.requests > 0
        assert script.wrong == 0
        # The people that setup() prepared are those who are used.
        assert not script.counted.prepared_late
        assert script.room.samples > 0
        assert {"gateway", "redis", "mariadb", "kafka", "k6"} <= script.cpu.keys()
        summary = (folder / script.name / "summary.json").read_text()
        assert "setup_data" not in summary, "access tokens stay out of results"
    assert result.scripts[0].counted.journeys_bought
    page = (folder / "report.html").read_text()
    assert (folder / "charts.png").read_bytes().startswith(b"\x89PNG")
    for loading in ("<script", "<link", "<img", "@import", "url(http", "src="):
        assert loading not in page, "the page must open without a network"
    shutil.rmtree(folder)
