"""Migrates the tables of one service: `python -m servicekit.migrate payment_service`.

The migrations are Alembic revisions in <service>/migrations/, plain SQL through op.execute; the
schema is that of the service's MYSQL_URL (as in PAYMENT_MYSQL_URL). Idempotent. Two runs at the
same time are safe: the second waits.

A revision with `contracting = True` removes what the version before needs. `--expand` stops before
it, so that the version before goes on serving until each program is replaced; then a run without
`--expand` contracts.
"""

import importlib
import os
from pathlib import Path
from typing import Annotated

import sqlalchemy
import typer
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import ResolutionError

from servicekit.mysql import SQL_MODE
from servicekit.mysql_errors import treatment

LOCK_WAIT_SECONDS = 60


def migrate(service: str, mysql_url: str, *, expand: bool = False) -> bool:
    """Applies the migrations of `service` that the schema lacks; with `expand` those before the
    first contracting one, or all of them if the schema is new: no program of an earlier version
    uses it. Returns whether the schema has all of them now.

    `mysql_url` is mysql://user:password@host:port/schema. Raises RuntimeError if another
    migration of this schema runs for more than a minute, if this version does not know the
    revision of the schema, or if `expand` cannot do what this version needs; and SQLAlchemy's
    errors.
    """
    package = importlib.import_module(service)
    config = Config()
    config.set_main_option("path_separator", "os")
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option(
        "version_locations", str(Path(package.__path__[0]).resolve() / "migrations")
    )
    engine = sqlalchemy.create_engine(
        mysql_url.replace("mysql://", "mysql+pymysql://", 1) + "?charset=utf8mb4",
        # Triggers keep the mode in which they were created.
        connect_args={"init_command": f"SET sql_mode = '{SQL_MODE}'"},
    )
    lock = f"frontrow-migrate-{engine.url.database}"
    try:
        with engine.connect() as connection:
            # DDL commits implicitly in MariaDB, so a server lock excludes a second run. The end of
            # the connection releases it.
            taken = connection.execute(
                sqlalchemy.text("SELECT GET_LOCK(:lock, :wait)"),
                {"lock": lock, "wait": LOCK_WAIT_SECONDS},
            ).scalar()
            if taken != 1:
                raise RuntimeError(f"another migration of {engine.url.database} is still running")
            pending = _pending(config, connection)
            is_new = not pending or pending[0].down_revision is None
            steps = _before_contraction(pending) if expand and not is_new else pending
            connection.commit()
            config.attributes["connection"] = connection
            if steps:
                command.upgrade(config, steps[-1].revision)
                connection.commit()
    finally:
        engine.dispose()
    return len(steps) == len(pending)


def _pending(config: Config, connection: sqlalchemy.Connection) -> list[Script]:
    """The revisions that the schema lacks, the first one first."""
    current = MigrationContext.configure(connection).get_current_revision()
    scripts = ScriptDirectory.from_config(config)
    try:
        found = list(scripts.iterate_revisions("head", current or "base"))
    except ResolutionError as error:
        raise RuntimeError(
            f"the tables are at revision {current}, which this version does not know: a later"
            " version has migrated them (docs/deployment.md says how to go back)"
        ) from error
    return found[::-1]


def _before_contraction(pending: list[Script]) -> list[Script]:
    """Those of the pending revisions that the version before can live with."""
    contracting = [getattr(each.module, "contracting", False) for each in pending]
    if True not in contracting:
        return pending
    first = contracting.index(True)
    if not all(contracting[first:]):
        later = pending[contracting.index(False, first)].revision
        raise RuntimeError(
            f"revision {pending[first].revision} removes what an earlier version needs, and this"
            f" version needs {later} after it: first replace all programs by the version between"
            " the two, and migrate that one without --expand; or stop all programs, and migrate"
            " without --expand"
        )
    return pending[:first]


def main(
    service: str,
    expand: Annotated[
        bool,
        typer.Option(
            "--expand",
            help="Stop before the first revision that removes what the version before needs,"
            " because that version still serves.",
        ),
    ] = False,
) -> None:
    """Migrates the tables of SERVICE (such as payment_service) to the newest revision.

    Without --expand, no program of an earlier version may run.
    """
    variable = service.removesuffix("_service").upper() + "_MYSQL_URL"
    url = os.environ.get(variable)
    if not url:
        typer.echo(f"{variable} is not set: it names the schema to migrate.", err=True)
        raise typer.Exit(2)
    try:
        complete = migrate(service, url, expand=expand)
    except (RuntimeError, sqlalchemy.exc.OperationalError) as error:
        reason = str(error) if isinstance(error, RuntimeError) else _refusal(error)
        typer.echo(f"{service}: the tables were not migrated: {reason}.", err=True)
        raise typer.Exit(2) from error
    state = (
        "up to date" if complete else "expanded; to be contracted when all programs are replaced"
    )
    typer.echo(f"{service}: the tables are {state}.")


def _refusal(error: sqlalchemy.exc.OperationalError) -> str:
    """The reason of the server, unless its text has the address or the user."""
    number, *text = error.orig.args if error.orig is not None else (0,)
    if number < 1000 or number >= 2000 or treatment(number) is not None:
        return "MariaDB is unavailable or refuses"
    return f"MariaDB refuses, with error {number}: {' '.join(map(str, text))}"


if __name__ == "__main__":
    typer.run(main)
