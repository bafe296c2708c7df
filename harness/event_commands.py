"""The command for events: `python -m harness.cli event import|export|publish|cancel|list`.

Works on the admin API at FRONTROW_ADMIN_URL (default: that of `make run`) with the API key in
FRONTROW_ADMIN_KEY.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from gateway.admin.event_schemas import ImportResult, StatusResult
from gateway.admin.schemas import AdminProblem, Change
from harness import stopping
from harness.admin_client import AdminClient, Refused, connect
from harness.errors import UserError
from harness.local.ports import Ports

URL, KEY = "FRONTROW_ADMIN_URL", "FRONTROW_ADMIN_KEY"
MISTAKES = 1
"""The exit status for a document with mistakes."""

Result = TypeVar("Result")

app = typer.Typer(
    help=__doc__,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
ExternalId = Annotated[str, typer.Argument(help="The external id of the event.")]
SeenVersion = Annotated[
    int, typer.Option(help="The version that you have seen; another one is refused. 0: any.")
]


@app.command(name="import")
def import_event(
    file: Annotated[Path, typer.Argument(help="The event document, JSON.")],
    seats: Annotated[Path | None, typer.Option(help="Its seats as CSV.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    version: SeenVersion = 0,
) -> int:
    """Imports an event, all of it or nothing. The same document again changes nothing."""
    document = file.read_bytes()
    seats_csv = None if seats is None else seats.read_bytes()
    total = len(document) + len(seats_csv or b"")
    console = Console(stderr=True, highlight=False)

    async def work(client: AdminClient) -> ImportResult:
        with _progress(console) as bar:
            task = bar.add_task(f"Sending {file.name}", total=total)

            def sent(count: int) -> None:
                bar.advance(task, count)
                if bar.tasks[0].finished:
                    # Pulses until the answer arrives.
                    bar.update(task, description="Checking and storing", total=None)

            return await client.import_event(
                document, seats_csv, version=version, dry_run=dry_run, progress=sent
            )

    try:
        result = with_client(work, os.environ)
    except Refused as refused:
        if not refused.problem.errors:
            raise _with_changes(refused) from refused
        for line in mistakes(refused.problem, file, seats):
            print(line, file=sys.stderr)
        return MISTAKES
    _show(result)
    return 0


@app.command(name="export")
def export_event(
    external_id: ExternalId,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file; default: standard output.")
    ] = None,
    version: Annotated[int, typer.Option(help="One of the last 20; 0: the present one.")] = 0,
) -> None:
    """Writes the document of an event, as it was imported."""

    async def work(client: AdminClient) -> bytes:
        return await client.export_event(external_id, version=version)

    document = with_client(work, os.environ)
    if output is None:
        sys.stdout.buffer.write(document)
        sys.stdout.buffer.flush()
    else:
        output.write_bytes(document)


@app.command()
def publish(external_id: ExternalId, version: SeenVersion = 0) -> None:
    """Publishes a draft: it is listed, and sells from the times on that it names."""
    _set_status(external_id, "publish", version)


@app.command()
def cancel(
    external_id: ExternalId,
    version: SeenVersion = 0,
    yes: Annotated[bool, typer.Option("--yes", help="Do it: this cannot be undone.")] = False,
) -> None:
    """Cancels an event for ever: holds end, payments under way finish."""
    if not yes:
        raise UserError(f"{external_id} would be cancelled for ever; add --yes to do it.")
    _set_status(external_id, "cancel", version)


@app.command()
def archive(
    external_id: ExternalId,
    version: SeenVersion = 0,
    yes: Annotated[bool, typer.Option("--yes", help="Do it: this cannot be undone.")] = False,
) -> None:
    """Takes an event that is over out of all lists, for ever. Ends its sale if it is not over."""
    if not yes:
        raise UserError(f"{external_id} would be archived for ever; add --yes to do it.")
    _set_status(external_id, "archive", version)


@app.command(name="list")
def list_events() -> None:
    """Lists all events."""
    table = Table("event", "status", "version", "dates", "seats", "room", "title", box=None)
    for event in with_client(lambda client: client.events(), os.environ):
        numbers = (event.version, len(event.schedule_ids), event.seats)
        table.add_row(event.external_id, event.status, *map(str, numbers), event.room, event.title)
    Console(highlight=False, markup=False).print(table)


def with_client(
    work: Callable[[AdminClient], Coroutine[Any, Any, Result]], environ: Mapping[str, str]
) -> Result:
    """Runs `work` with a client of the admin API. Raises UserError."""
    url = environ.get(URL) or f"http://{Ports.from_environ(environ).address('gateway_admin')}"
    key = environ.get(KEY, "")
    if not key or not key.isascii():
        raise UserError(f"Set {KEY} to an API key; make key NAME=you creates one for make run.")

    async def connected() -> Result:
        async with connect(url, key) as http:
            return await work(AdminClient(http))

    try:
        return stopping.run_async(connected())
    except httpx.TransportError as error:
        raise UserError(
            f"The admin API at {url} does not answer ({type(error).__name__}): start the system, or"
            f" set {URL} to its address."
        ) from error


def mistakes(problem: AdminProblem, file: Path, seats: Path | None) -> list[str]:
    """Returns a line for each mistake, as compilers write them: file:line: field: reason."""
    lines = []
    for error in problem.errors or []:
        name, where = error.field, file
        if seats is not None and error.field.startswith("seatsCsv: "):
            name, where = error.field.removeprefix("seatsCsv: "), seats
        position = f"{where}:{error.line}" if error.line else str(where)
        lines.append(": ".join(filter(None, (position, name, error.message))))
    return lines


def _set_status(external_id: str, action: str, version: int) -> None:
    async def work(client: AdminClient) -> StatusResult:
        return await client.set_status(external_id, action, version=version)

    try:
        result = with_client(work, os.environ)
    except Refused as refused:
        raise _with_changes(refused) from refused
    event = result.event
    print(f"{event.external_id} is {event.status.lower()}, version {event.version}.")
    if result.ended_holds or result.paid or result.paying_reservation_ids:
        print(
            f"Ended {result.ended_holds} holds; {result.paid} reservations are paid, and"
            f" {len(result.paying_reservation_ids)} are being paid."
        )


def _with_changes(refused: Refused) -> UserError:
    """Adds to EVENT_CHANGED what has changed, and to SEATS_TAKEN the seats."""
    problem = refused.problem
    lines = [str(refused), *map(_change, problem.changes or [])]
    if problem.seats:
        lines.append(f"  seats {', '.join(map(str, problem.seats))}")
    return UserError("\n".join(lines))


def _show(result: ImportResult) -> None:
    would = "would be " if result.dry_run else ""
    status = (result.status or "new").lower()
    print(f"{result.external_id}: {status}, version {result.version}.")
    if not result.changes:
        print("Nothing differs.")
    for change in result.changes:
        # A new event is one change: the whole document.
        print(_change(change) if change.field else "  everything is new")
    for verb, counts in (("blocked", result.blocked), ("released", result.released)):
        for count in counts:
            print(f"  {count.seats} seats of schedule {count.schedule_id} {would}{verb}")
    for verb, ids in (("closed", result.closed_schedules), ("reopened", result.reopened_schedules)):
        if ids:
            print(f"  schedules {', '.join(map(str, ids))} {would}{verb}")


def _change(change: Change) -> str:
    return f"  {change.field}: {_value(change.before)} → {_value(change.after)}"


def _value(value: object) -> str:
    return "nothing" if value is None else str(value)


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
