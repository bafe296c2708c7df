"""python3 -m harness.containers up | down | roll | backup | restore | exec | compose"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import inspect
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import harness.containers
from harness.containers import up
from harness.containers.backup import backup, require_dump, restore
from harness.containers.engine import Engine
from harness.containers.roll import roll
from harness.containers.settings import Settings, Stored, placeholders
from harness.errors import UserError
from harness.stopping import Stopped, stop_on_signals


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs one command and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python3 -m harness.containers",
        description=harness.containers.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [name for name in vars(Command) if not name.startswith("_")]
    parser.add_argument("command", choices=names, metavar="COMMAND")
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    try:
        inspect.signature(getattr(Command, given.command)).bind(None, *given.words)
    except TypeError as error:
        parser.error(f"{given.command}: {error}")
    # An empty variable counts as not set, for Compose as well.
    environ = {name: value for name, value in environ.items() if value}
    with stop_on_signals():
        try:
            project = environ.get("PROJECT") or "frontrow"
            stored = Stored(project)
            command = Command(stored, Engine(project, environ), environ)
            getattr(command, given.command)(*given.words)
        except UserError as error:
            return _complain(f"{str(error).rstrip('.')}.", 2)
        except OSError as error:
            return _complain(f"{error.strerror}: {error.filename or 'the disk'}.", 2)
        except Stopped as stopped:
            return _complain("interrupted; run it again to go on from here.", stopped.status)
    return 0


def _complain(sentence: str, status: int) -> int:
    print(f"frontrow: {sentence}", file=sys.stderr)
    return status


class Command:
    """A method for each command and its arguments.

    Settings come from the environment, and else from the last start (up, roll or restore).
    """

    def __init__(self, stored: Stored, engine: Engine, environ: Mapping[str, str]) -> None:
        self._stored = stored
        self._engine = engine
        self._environ = environ

    def up(self) -> None:
        settings = self._load_settings(create_secrets=True)
        with self._locked():
            self._require_complete_data()
            self._prepare_start(settings)
            up.start(self._engine, settings)

    def down(self) -> None:
        data = self._environ.get("DATA") or "keep"
        if data not in ("keep", "delete"):
            raise UserError(f"DATA must be keep or delete, not {data!r}.")
        self._engine.use(placeholders())
        project = self._engine.project
        # A start that has just begun writes the secrets first and then takes the lock.
        if not self._stored.anything() and not up.exists(self._engine):
            print(f"Nothing of {project} is there.")
            return
        with self._locked():
            up.down(self._engine, data=data == "delete")
            if data == "delete":
                self._stored.forget()
                print(f"The data and the passwords of {project} are deleted.")
            else:
                kept = "data and the passwords" if self._engine.listed("volume") else "passwords"
                print(f"The {kept} of {project} are kept: make down DATA=delete deletes them.")

    def roll(self) -> None:
        settings = self._load_settings()
        if self._stored.cap() != settings.CAP:
            raise UserError(
                f"CAP={settings.CAP} needs make up: make roll leaves the servers as they are."
            )
        with self._locked():
            self._require_complete_data()
            self._engine.one_running("mariadb")
            self._engine.build(f"frontrow:{settings.FRONTROW_VERSION}")
            roll(self._engine, settings)
            self._stored.keep(settings)
            up.print_addresses(self._engine)

    def backup(self, file: str = "") -> None:
        backup(self._engine, _path(file, "backup"))

    def restore(self, file: str = "") -> None:
        path = _path(file, "restore")
        require_dump(path)
        settings = self._load_settings(create_secrets=True)
        with self._locked():
            self._prepare_start(settings)
            # If it fails, no command starts anything until a restore succeeds.
            self._stored.restoring.touch()
            restore(self._engine, path)
            self._stored.restoring.unlink()
            up.start(self._engine, settings)

    def exec(self, service: str, *words: str) -> None:
        terminal = ["--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else []
        found = self._engine.one_running(service)
        self._engine.become("docker", "exec", "--interactive", *terminal, found.id, *words)

    def compose(self, *words: str) -> None:
        self._load_settings()
        self._engine.become(*self._engine.compose_command, *words)

    def _load_settings(self, *, create_secrets: bool = False) -> Settings:
        """The settings, which the engine gets as well."""
        settings = self._stored.settings(self._environ)
        secrets = self._stored.secrets(create=create_secrets)
        self._engine.use({**settings.variables(), **secrets})
        return settings

    def _prepare_start(self, settings: Settings) -> None:
        up.require_readable_config()
        up.require_ports(self._engine, settings)
        self._engine.build(f"frontrow:{settings.FRONTROW_VERSION}")
        self._stored.keep(settings)

    def _require_complete_data(self) -> None:
        if self._stored.restoring.exists():
            raise UserError(
                "a restore broke off, and the databases may be incomplete: restore again, or if"
                f" they are complete, delete {self._stored.restoring}."
            )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """No other command starts, stops or replaces containers of this project meanwhile."""
        self._stored.lock.parent.mkdir(parents=True, exist_ok=True)
        with self._stored.lock.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    "another up, down, roll or restore of this project is running: wait for it."
                ) from error
            yield


def _path(file: str, command: str) -> Path:
    if not file:
        raise UserError(f"name the file: make {command} FILE=frontrow.sql.gz.")
    return Path(file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
