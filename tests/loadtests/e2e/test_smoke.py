"""The scripts against a stack of their own, for a few seconds each: does everything work?"""

from pathlib import Path

import pytest

from loadtests import scripts
from loadtests.model import Result
from tests.loadtests.e2e.conftest import Start


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "names",
    [("journey", "seats"), pytest.param(scripts.NAMES, marks=pytest.mark.long)],
    ids=["two scripts", "all scripts"],
)
def test_smoke(
    names: tuple[str, ...],
    unattached: dict[str, str],
    start: Start,
    results: Path,
    repository: Path,
) -> None:
    started = start(unattached | {"SCRIPT": ",".join(names)})
    assert started.end(380) == 0, started.log.read_text()
    folder = repository / Path(started.log.read_text().splitlines()[-1]).parent
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
