"""Writes what the documentation repeats from the code: `python -m docs.generate`.

A generated part stands between two comments of its page, `<!-- generated: <name> -->` and
`<!-- end -->`; the text around it is written by hand. tests/docs fails if a part has drifted.
"""

import importlib
import json
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args, get_origin

import annotated_types
from prometheus_client import Counter, Gauge, Histogram
from pydantic import SecretStr, StringConstraints
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_json
from pydantic_settings import BaseSettings

from benchmarks.page import committed_figures, committed_light_figures
from concert_service.events.document import json_schema
from gateway.errors import TABLE
from harness.invariants import INVARIANTS

REPOSITORY = Path(__file__).resolve().parent.parent
PROGRAMS = ("gateway", "queue_service", "concert_service", "reservation_service", "payment_service")

_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


# --- settings --------------------------------------------------------------------------------


def settings_class(program: str) -> type[BaseSettings]:
    """The one settings class that `<program>.settings` defines."""
    module = importlib.import_module(f"{program}.settings")
    (found,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, BaseSettings)
        and value.__module__ == module.__name__
    )
    return found


def settings_tables() -> str:
    """A table for each program, a row for each of its environment variables."""
    return "\n".join(_settings_table(program) for program in PROGRAMS)


def _settings_table(program: str) -> str:
    settings = settings_class(program)
    prefix = str(settings.model_config["env_prefix"])
    lines = [
        f"### {program}",
        "",
        "| variable | default | allowed | meaning |",
        "|---|---|---|---|",
    ]
    for name, field in settings.model_fields.items():
        assert field.description, f"{program}: {name} has no docstring"
        cells = (
            f"`{prefix}{name.upper()}`",
            _default(field),
            ", ".join(_limits(field)),
            " ".join(field.description.split()),
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=False)
    if value is PydanticUndefined:
        return "**required**"
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    text = value if isinstance(value, str) else to_json(value).decode()
    return f"`{text}`" if text else "empty"


def _limits(field: FieldInfo) -> Iterator[str]:
    if get_origin(field.annotation) is Literal:
        yield " or ".join(f"`{value}`" for value in get_args(field.annotation))
    for limit in field.metadata:
        match limit:
            case annotated_types.Ge(ge=value):
                yield f"≥ {value}"
            case annotated_types.Gt(gt=value):
                yield f"> {value}"
            case annotated_types.Le(le=value):
                yield f"≤ {value}"
            case annotated_types.Lt(lt=value):
                yield f"< {value}"
            case annotated_types.MinLen(min_length=value):
                yield f"at least {value}"
            case StringConstraints(pattern=pattern) if pattern:
                yield f"`{pattern}`"


# --- errors ----------------------------------------------------------------------------------


def error_table() -> str:
    """A row for each error code, by status."""
    lines = ["| status | code | title | Retry-After |", "|---|---|---|---|"]
    for code, row in sorted(TABLE.items(), key=lambda item: item[1].status):
        wait = f"{row.retry_after} s" if row.retry_after else ""
        lines.append(f"| {row.status} | [`{code}`](#{code.lower()}) | {row.title} | {wait} |")
    return "\n".join([*lines, ""])


# --- metrics ---------------------------------------------------------------------------------


def metric_table() -> str:
    """A row for each metric, as it is exported."""
    rows = {}
    for package in (*PROGRAMS, "servicekit"):
        for module in _modules(package):
            for metric in vars(module).values():
                if isinstance(metric, Counter | Gauge | Histogram):
                    rows[metric] = _metric_row(metric, package)
    lines = ["| metric | type | labels | in | meaning |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *rows.values(), ""])


def _modules(package: str) -> Iterator[ModuleType]:
    root = importlib.import_module(package)
    for found in pkgutil.walk_packages(root.__path__, package + "."):
        # Alembic's files run when they are imported.
        if ".migrations" not in found.name:
            yield importlib.import_module(found.name)


def _metric_row(metric: Counter | Gauge | Histogram, package: str) -> str:
    (family,) = metric.describe()
    name = family.name + ("_total" if isinstance(metric, Counter) else "")
    labels = ", ".join(f"`{label}`" for label in metric._labelnames)
    return f"| `{name}` | {family.type} | {labels} | {package} | {family.documentation} |"


# --- invariants ------------------------------------------------------------------------------


def invariant_table() -> str:
    """A row for each invariant."""
    rows = [f"| `{each.name}` | {each.sentence} |" for each in INVARIANTS]
    return "\n".join(["| count | what must be true |", "|---|---|", *rows, ""])


# --- examples --------------------------------------------------------------------------------


def buy_over_grpc() -> str:
    """The example program, whole."""
    program = (REPOSITORY / "docs" / "examples" / "buy_over_grpc.py").read_text()
    return f"```python\n{program}```\n"


# --- the form of event documents -----------------------------------------------------------------


EVENT_SCHEMA = REPOSITORY / "docs" / "event.schema.json"


def event_schema() -> str:
    """The JSON Schema of event documents, which is a file of its own."""
    return json.dumps(json_schema(), indent=2) + "\n"


PARTS: dict[str, Callable[[], str]] = {
    "settings": settings_tables,
    "errors": error_table,
    "metrics": metric_table,
    "invariants": invariant_table,
    "buy_over_grpc": buy_over_grpc,
    "benchmark": committed_figures,
    "light": committed_light_figures,
}


def generate(page: str) -> str:
    """The text of a page with its generated parts made anew."""
    return _PART.sub(lambda part: part[1] + "\n" + PARTS[part[2]]() + "\n" + part[3], page)


def pages() -> list[Path]:
    """The pages that have a generated part."""
    return [
        page
        for page in sorted((REPOSITORY / "docs").rglob("*.md"))
        if _PART.search(page.read_text())
    ]


def main() -> int:
    """Writes every page that has drifted, and the schema of event documents."""
    for page in pages():
        old = page.read_text()
        new = generate(old)
        if new != old:
            page.write_text(new)
            print(f"wrote {page.relative_to(REPOSITORY)}")
    schema = event_schema()
    if not EVENT_SCHEMA.exists() or EVENT_SCHEMA.read_text() != schema:
        EVENT_SCHEMA.write_text(schema)
        print(f"wrote {EVENT_SCHEMA.relative_to(REPOSITORY)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
