"""Creates, lists and revokes the API keys of operators: `python -m concert_service.keys --help`.

It writes to the database of CONCERT_MYSQL_URL itself, because the admin API needs a key already.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.table import Table

from concert_service.operators.domain import Key, Role
from concert_service.operators.errors import KeyNotFound
from concert_service.operators.repository import OperatorRepository
from concert_service.operators.service import OperatorService
from concert_service.settings import Settings
from servicekit import logs
from servicekit.errors import InvalidRequest, Unavailable
from servicekit.mysql import Database
from servicekit.settings import load

Result = TypeVar("Result")

app = typer.Typer(
    help="API keys of operators.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
def create(
    name: Annotated[str, typer.Option(help="Who gets it.")],
    role: Annotated[
        Role,
        typer.Option(
            case_sensitive=False,
            help="viewer reads, operator changes events and rooms, admin also manages keys.",
        ),
    ] = Role.OPERATOR,
) -> None:
    """Creates a key and prints its secret, which is shown this once."""

    async def work(service: OperatorService) -> tuple[Key, str]:
        return await service.create_key(name, role)

    key, secret = _run(work)
    print(f"Key {key.id} ({key.role.lower()}) for {key.name}:", file=sys.stderr)
    print(secret)


@app.command(name="list")
def list_keys() -> None:
    """Lists all keys, also revoked ones."""

    async def work(service: OperatorService) -> list[Key]:
        return list(await service.list_keys())

    table = Table("id", "name", "role", "created", "last use", "revoked", box=None)
    for key in _run(work):
        times = (key.created_at, key.last_used_at, key.revoked_at)
        table.add_row(
            str(key.id),
            key.name,
            key.role.lower(),
            *("-" if at is None else f"{at:%Y-%m-%d %H:%M:%S}Z" for at in times),
        )
    Console(highlight=False, markup=False).print(table)


@app.command()
def revoke(id: Annotated[int, typer.Argument(help="As `list` shows it.")]) -> None:
    """Revokes a key for ever. Gateways refuse it within 10 seconds."""

    async def work(service: OperatorService) -> Key:
        return await service.revoke_key(id)

    key = _run(work)
    print(f"Key {key.id} of {key.name} is revoked.")


class _Failed(Exception):
    """Why the command failed, in one sentence."""


def _run(work: Callable[[OperatorService], Awaitable[Result]]) -> Result:
    url = load(Settings).mysql_url

    async def connected() -> Result:
        async with Database(url, max_size=1) as database:
            return await work(OperatorService(OperatorRepository(database)))

    try:
        return asyncio.run(connected())
    except (Unavailable, TimeoutError) as error:
        server = urlsplit(url).netloc.rpartition("@")[2]
        raise _Failed(
            f"MariaDB at {server} does not answer or refuses access: start it, or set"
            " CONCERT_MYSQL_URL."
        ) from error
    except (InvalidRequest, KeyNotFound) as error:
        raise _Failed(error.detail) from error


def main() -> int:
    """Runs the command line; returns the exit status."""
    try:
        return app(standalone_mode=False) or 0
    except typer.TyperException as error:
        message = error.format_message()
    except _Failed as error:
        message = str(error)
    print(f"concert_service.keys: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    # An error is one sentence on standard error and nothing else.
    logs.configure("CRITICAL")
    sys.exit(main())
