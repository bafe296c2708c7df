"""docs/load-test-report.md, made from the results that are committed beside it.

No number on the page is typed by hand.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from harness.errors import UserError
from harness.files import REPOSITORY
from loadtests.model import Capacity, Result, Script
from loadtests.report import templates, words
from loadtests.report.words import BASELINE, TITLES
from loadtests.scripts import PROFILES

PAGE = REPOSITORY / "docs" / "load-test-report.md"
RUNS = REPOSITORY / "docs" / "load-test-report"
_PROFILES = ("baseline", "x10", "rush", "hotseat", "soak")
_ROUTE = {"p99": 25.0, "avg": 8.0}
#: Profile → script → figure → the most that it should be, in ms.
TARGETS: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "baseline": dict.fromkeys(BASELINE.scripts, _ROUTE) | {"journey": {"p99": 40.0}},
    "x10": {name: {"p99": 200.0} for name in ("concerts", "order", "schedules", "seats")},
}
#: The load tests' own sampling and the operating system use fewer cores than this.
_QUIET_CORES = 0.25


def take_over(folder: Path) -> None:
    """Copies what is worth keeping of a result into RUNS. Raises UserError."""
    result = Result.read(folder / "result.json")
    if result.profile not in _PROFILES:
        raise UserError(f"The page has no place for the profile {result.profile}.")
    files = {name: folder / name for name in ("result.json", "charts.png")}
    for script in result.scripts:
        files[f"{script.name}.summary.json"] = folder / script.name / "summary.json"
    # Everything is read before the older result is deleted.
    contents = {name: file.read_bytes() for name, file in files.items()}
    target = RUNS / kind_of(result)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name, content in contents.items():
        (target / name).write_bytes(content)


def keep_capacity(found: Capacity) -> None:
    """Puts the result of a search into RUNS and writes the page."""
    RUNS.mkdir(parents=True, exist_ok=True)
    found.write(RUNS / "capacity.json")
    write_page()


def write_page() -> None:
    """Writes the page from RUNS. Raises UserError if there is no result."""
    results = results_of_runs()
    if not results:
        raise UserError("There is no run to make the page from: name the folder of one.")
    PAGE.write_text(page(results, capacity_of_runs()))


def kind_of(result: Result) -> str:
    """The profile, with the total of the caps if it ran in containers, as in baseline-2c4g."""
    cap = words.total_cap(result)
    return f"{result.profile}-{cap}" if cap else result.profile


def results_of_runs() -> dict[str, Result]:
    """The committed results by kind: each profile without containers, then by caps."""
    results = [Result.read(file) for file in RUNS.glob("*/result.json")]
    results.sort(key=lambda result: (_PROFILES.index(result.profile), kind_of(result)))
    return {kind_of(result): result for result in results}


def capacity_of_runs() -> Capacity | None:
    """The committed result of `make capacity`, if there is one."""
    file = RUNS / "capacity.json"
    return Capacity.read(file) if file.exists() else None


def page(results: Mapping[str, Result], found: Capacity | None) -> str:
    """The text of the page."""
    environment = templates(Path(__file__).parent / "templates")
    environment.filters["ms"] = words.ms
    text = environment.get_template("page.md.j2").render(
        baseline=BASELINE,
        load=PROFILES["baseline"],
        results={kind: ordered(result) for kind, result in results.items()},
        capacity=found,
        not_run=[profile for profile in _PROFILES if profile not in results],
        words=words,
        left_out=left_out,
        disturbed=disturbed,
        targets=targets,
        elsewhere=elsewhere,
        milliseconds_of_processor=milliseconds_of_processor,
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def ordered(result: Result) -> Result:
    """The result with its scripts in the order of the report to beat."""
    order = list(BASELINE.scripts)
    scripts = sorted(result.scripts, key=lambda script: order.index(script.name))
    return result.model_copy(update={"scripts": scripts})


def left_out(result: Result) -> str:
    """The scripts of the profile that the caller did not ask for; empty if none."""
    asked_for = {script.name for script in result.scripts} | result.missing.keys()
    left = set(PROFILES[result.profile].scripts) - asked_for
    return ", ".join(TITLES[name] for name in BASELINE.scripts if name in left)


def disturbed(result: Result) -> str:
    """Which part of the scripts other programs disturbed, and how much; empty if none."""
    cores = [script.other_cores for script in result.scripts]
    if not (loud := [f"{each:.1f}" for each in sorted(cores) if each > _QUIET_CORES]):
        return ""
    took = loud[0] if loud[0] == loud[-1] else f"{loud[0]} to {loud[-1]}"
    return (
        f"during {len(loud)} of {words.number_of(len(cores), 'script')} other programs, which have"
        f" nothing to do with the test, took {took} cores"
    )


def targets(result: Result) -> str:
    """Which targets of the profile were met and missed; empty if it has none."""
    met, missed = 0, []
    for script in result.scripts:
        for figure, limit in TARGETS.get(result.profile, {}).get(script.name, {}).items():
            value = getattr(script.duration, figure, None)
            if value is not None and value <= limit:
                met += 1
                continue
            measured = "not measured" if value is None else f"{words.ms(value)} ms"
            missed.append(f"{TITLES[script.name]} {figure} {measured} (target {limit:.0f})")
    if not met and not missed:
        return ""
    sentence = f"Targets: {met} of {met + len(missed)} met."
    return f"{sentence} **Missed**: {'; '.join(missed)}." if missed else sentence


def elsewhere(result: Result) -> str:
    """The processes that were not seen on the machine of k6; empty if all were."""
    seen = {process for script in result.scripts for process in script.cpu}
    return ", ".join(name for name in words.PROCESSES if name not in seen)


def milliseconds_of_processor(script: Script) -> str:
    """Processor time per request of everything but k6; empty without requests."""
    ours = sum(used.mean for process, used in script.cpu.items() if process != "k6")
    return f"{1000 * ours / script.per_second:.1f}" if script.per_second else ""
