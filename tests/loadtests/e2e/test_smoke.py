"""All eight scripts against a stack of their own, for a few seconds: does everything work?"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.local.ports import free_ports
from loadtests import k6


@pytest.mark.timeout(400)
def test_smoke_of_all_scripts(repository: Path) -> None:
    # A port where no gateway answers, so that a system that runs here is left alone.
    environ = {
        **os.environ,
        "PROFILE": "smoke",
        "FRONTROW_GATEWAY_PORT": str(free_ports(1)[0]),
    }
    for name in ("SCRIPT", "SEED", "BASE_URL", "GATEWAY_LISTEN"):
        environ.pop(name, None)
    ran = subprocess.run(
        [sys.executable, "-m", "loadtests.run"],
        cwd=repository,
        env=environ,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    told = ran.stdout.splitlines()[-1]
    folder = repository / Path(told).parent
    result = json.loads((folder / "result.json").read_text())
    assert [script["name"] for script in result["scripts"]] == list(k6.NAMES)
    assert set(result["invariants"].values()) == {0}
    for script in result["scripts"]:
        assert script["requests"] > 0
        assert script["wrong"] == 0
        # Those whom setup() has made are those who are used.
        assert not script["counted"].get("prepared_late")
        assert script["room"]["samples"] > 0
        assert {"gateway", "redis", "mariadb", "kafka", "k6"} <= script["cpu"].keys()
        summary = json.loads((folder / script["name"] / "summary.json").read_text())
        assert "setup_data" not in summary, "access tokens stay out of results"
    journey = next(script for script in result["scripts"] if script["name"] == "journey")
    assert journey["counted"]["journeys_bought"] > 0
    page = (folder / "report.html").read_text()
    assert (folder / "charts.png").read_bytes().startswith(b"\x89PNG")
    for loading in ("<script", "<link", "<img", "@import", "url(http", "src="):
        assert loading not in page, "the page must open without a network"
    shutil.rmtree(folder)
