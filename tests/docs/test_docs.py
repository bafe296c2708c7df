"""What the documentation says is there is there: links, files, commands, settings, names."""

import functools
import importlib.util
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs import generate
from gateway.admin.errors import ADMIN_TABLE
from gateway.errors import TABLE
from harness import topology

ROOT = generate.REPOSITORY
CODE = {".py", ".proto", ".sh", ".lua", ".js", ".toml", ".xml", ".yaml", ".yml", ".properties"}


@functools.cache
def tracked() -> list[Path]:
    """The files of the project: what git knows or would add."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [path for line in listing.splitlines() if (path := ROOT / line).is_file()]


PAGES = [path for path in tracked() if path.suffix == ".md"]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
each_page = pytest.mark.parametrize("page", PAGES, ids=IDS)


@functools.cache
def words() -> set[str]:
    """All words of all source text but this folder's."""
    return {
        word
        for path in tracked()
        if (path.suffix in CODE or path.name == "Makefile")
        and Path(__file__).parent not in path.parents
        and ROOT / "docs" not in path.parents
        for word in re.findall(r"\w+", path.read_text())
    }


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What `page.md#…` may say: each heading in lower case, with dashes for blanks."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", heading.lower())
        found.add(plain.strip().replace(" ", "-"))
    return found


def quoted(page: Path) -> Iterator[str]:
    """What stands between backticks in the prose."""
    return (match[1] for match in re.finditer(r"`([^`\n]+)`", prose(page)))


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{target} leads nowhere"
        if anchor:
            assert anchor in anchors(path), f"{target}: no such heading"


@each_page
def test_paths_exist(page: Path) -> None:
    tops = {path.relative_to(ROOT).parts[0] for path in tracked()}
    for name in quoted(page):
        if re.fullmatch(r"[\w./-]+", name) and "/" in name and name.split("/")[0] in tops:
            assert (ROOT / name).exists(), f"{name} does not exist"
        elif re.fullmatch(r"\w+\.(py|sh|lua|proto)", name):
            assert any(path.name == name for path in tracked()), f"{name} does not exist"


@each_page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"(?:`|^)(?:[A-Z]+=\w+ )?make ([a-z-]+)", page.read_text(), re.M):
        assert target in targets, f"make {target} does not exist"


@each_page
def test_modules_exist(page: Path) -> None:
    for module in re.findall(r"python -m ([a-z_.]+)", page.read_text()):
        assert importlib.util.find_spec(module), f"{module} does not exist"


@each_page
def test_names_in_capitals_exist(page: Path) -> None:
    """Settings, codes, states: whatever is written LIKE_THIS is in the code."""
    variables = {
        f"{settings.model_config['env_prefix']}{name.upper()}"
        for settings in map(generate.settings_class, generate.PROGRAMS)
        for name in settings.model_fields
    }
    variables |= {f"FRONTROW_{name.upper()}_PORT" for name in topology.PORTS}
    # The example's own, which no other code reads.
    variables |= {f"{name}_ADDR" for name in ("QUEUE", "CONCERT", "RESERVATION", "PAYMENT")}
    for text in quoted(page):
        for name in re.findall(r"(?<![\w-])[A-Z]+(?:_[A-Z]+)+(?![\w-])", text):
            assert name in variables or name in words(), f"{name}: no such name"


@pytest.mark.parametrize("page", generate.pages(), ids=lambda page: page.name)
def test_generated_parts_are_up_to_date(page: Path) -> None:
    text = page.read_text()
    assert text == generate.generate(text), "run .venv/bin/python -m docs.generate"


def test_the_schema_of_event_documents_is_up_to_date() -> None:
    schema = generate.EVENT_SCHEMA.read_text()
    assert schema == generate.event_schema(), "run .venv/bin/python -m docs.generate"


def test_every_part_is_on_a_page() -> None:
    text = "".join(page.read_text() for page in generate.pages())
    for part in generate.PARTS:
        assert f"<!-- generated: {part} -->" in text


def test_every_error_code_is_explained() -> None:
    assert anchors(ROOT / "docs" / "errors.md") >= {code.lower() for code in TABLE}


def test_every_error_of_the_admin_api_is_explained() -> None:
    page = (ROOT / "docs" / "admin.md").read_text()
    own = {code: row for code, row in ADMIN_TABLE.items() if code not in TABLE}
    for code, row in own.items():
        assert re.search(rf"^\| {row.status} \| `{code}` \|", page, re.MULTILINE), code


def test_every_log_event_from_warning_on_is_explained() -> None:
    source = "\n".join(
        path.read_text()
        for program in ("servicekit", "catalogue_view", *generate.PROGRAMS)
        for path in (ROOT / program).rglob("*.py")
    )
    # A name that is not a constant is found as "", which no row has.
    found = re.findall(r'\blog\.(warning|error|exception|critical)\(\s*(?:"(\w+)")?', source)
    logged = {(name, "error" if level == "exception" else level) for level, name in found}
    outages = re.findall(r'\bOutage\(\s*log,\s*(?:"(\w+)")?', source)
    logged |= {(name, "warning") for name in outages}
    rows = re.findall(
        r"^\| `(\w+)` \| (warning|error|critical) \|",
        prose(ROOT / "docs" / "operations.md"),
        re.MULTILINE,
    )
    assert logged == set(rows)


def test_every_port_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    for name, port in topology.PORTS.items():
        assert re.search(rf"\b{port}\b", readme), f"{name}: {port}"


def test_the_routes_of_the_readme_exist() -> None:
    routes = "".join(path.read_text() for path in (ROOT / "gateway" / "routes").glob("*.py"))
    named = re.findall(r"`(?:GET|POST|DELETE) (/[\w/{}]+)`", (ROOT / "README.md").read_text())
    assert len(named) >= 7
    for path in named:
        assert f'"{path}"' in routes, path


def test_every_decision_is_in_the_index() -> None:
    index = (ROOT / "docs" / "adr" / "README.md").read_text()
    for record in (ROOT / "docs" / "adr").glob("0*.md"):
        assert f"({record.name})" in index, record.name
