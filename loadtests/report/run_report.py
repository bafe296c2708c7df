"""report.html and charts.png in the folder of a result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from loadtests.model import Result, Series
from loadtests.report import charts, templates, words

_TEMPLATE = templates(Path(__file__).parent / "templates").get_template("run.html.j2")


def write(folder: Path) -> None:
    """Writes both files of the result in this folder. Raises UserError if it is none."""
    result = Result.read(folder / "result.json")
    series = {
        script.name: Series.read(folder / script.name / "series.json") for script in result.scripts
    }
    (folder / "charts.png").write_bytes(charts.overview(result, series, "png"))
    (folder / "report.html").write_text(page(result, series))


def page(result: Result, series: Mapping[str, Series]) -> str:
    """The HTML page; it loads nothing."""
    overview = _svg(charts.overview(result, series, "svg"))
    drawn = {
        script.name: _svg(charts.of_script(script, series[script.name], "svg"))
        for script in result.scripts
        # The overview already shows the charts of an only script.
        if len(result.scripts) > 1
    }
    return _TEMPLATE.render(result=result, overview=overview, charts=drawn, words=words)


def _svg(image: bytes) -> Markup:
    """An SVG file as a part of a page: without the head that a file needs."""
    text = image.decode()
    return Markup(text[text.index("<svg") :])
