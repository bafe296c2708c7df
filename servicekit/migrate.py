"""Migrates the tables of one service: `python -m servicekit.migrate payment_service`.

The migrations are Alembic revisions in <service>/migrations/, plain SQL through op.execute; the
schema is that of the service's MYSQL_URL (as in PAYMENT_MYSQL_URL). Idempotent. Two runs at the
same time are safe: the second waits.
"""

import importlib
import os
from pathlib import Path

import sqlalchemy
import typer
from alembic import command
from alembic.config import Config

LOCK_WAIT_SECONDS = 60


def migrate(service: str, mysql_url: str) -> None:
    """Applies the migrations of `service` that the schema lacks.

    `mysql_url` is mysql://user:password@host:port/schema. Raises RuntimeError if another
    migration of this schema runs for more than a minute, and SQLAlchemy's errors.
    """
    package = importlib.import_module(service)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option(
        "version_locations", str(Path(package.__path__[0]).resolve() / "migrations")
    )
    engine = sqlalchemy.create_engine(
        mysql_url.replace("mysql://", "mysql+pymysql://", 1) + "?charset=utf8mb4"
    )
    lock = f"frontrow-migrate-{engine.url.database}"
    with engine.connect() as connection:
        # DDL commits implicitly in MariaDB, so a server lock excludes a second run.
        taken = connection.execute(
            sqlalchemy.text("SELECT GET_LOCK(:lock, :wait)"),
            {"lock": lock, "wait": LOCK_WAIT_SECONDS},
        ).scalar()
        if taken != 1:
            raise RuntimeError(f"another migration of {engine.url.database} is still running")
        connection.commit()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
        connection.execute(sqlalchemy.text("SELECT RELEASE_LOCK(:lock)"), {"lock": lock})
    engine.dispose()


def main(service: str) -> None:
    """Migrates the tables of SERVICE (such as payment_service)."""
    variable = service.removesuffix("_service").upper() + "_MYSQL_URL"
    url = os.environ.get(variable)
    if not url:
        typer.echo(f"{variable} is not set: it names the schema to migrate.", err=True)
        raise typer.Exit(2)
    try:
        migrate(service, url)
    except (RuntimeError, sqlalchemy.exc.OperationalError) as error:
        # Not the error's own text, which has the address.
        reason = error if isinstance(error, RuntimeError) else "MariaDB is unavailable or refuses"
        typer.echo(f"{service}: the tables were not migrated: {reason}.", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"{service}: the tables are up to date.")


if __name__ == "__main__":
    typer.run(main)
