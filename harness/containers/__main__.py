"""python3 -m harness.containers up | down | roll | backup | restore | exec | compose"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import harness.containers
from harness.containers import data, start
from harness.containers.engine import Engine
from harness.containers.roll import roll
from harness.containers.settings import Remembered, Settings, placeholders
from harness.errors import UserError

_INTERRUPTED = 128 + signal.SIGINT


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """The exit status."""
    asked = _parser().parse_args(arguments)
    try:
        project = environ.get("PROJECT") or "frontrow"
        remembered = Remembered(project)
        command = Command(remembered, Engine(project, environ), environ)
        asked.run(command, asked)
    except UserError as error:
        print(f"frontrow: {str(error).rstrip('.')}.", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"frontrow: {error.strerror}: {error.filename or 'the disk'}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("frontrow: interrupted; run it again to go on from here.", file=sys.stderr)
        return _INTERRUPTED
    return 0


class Command:
    """One method each. What settings it takes are those given now, and else those of the last
    start; up, roll and restore are the starts that are remembered."""

    def __init__(self, remembered: Remembered, engine: Engine, environ: Mapping[str, str]) -> None:
        self._remembered = remembered
        self._engine = engine
        self._environ = environ

    def up(self, asked: argparse.Namespace) -> None:
        settings = self._settle(begin=True)
        with self._alone():
            self._require_whole_data()
            start.require_readable_mounts()
            start.require_ports(self._engine, settings)
            start.build(self._engine, settings)
            self._remembered.keep(settings)
            start.up(self._engine, settings)

    def down(self, asked: argparse.Namespace) -> None:
        delete = self._environ.get("DATA") or "keep"
        if delete not in ("keep", "delete"):
            raise UserError(f"DATA must be keep or delete, not {delete!r}.")
        self._engine.use(placeholders())
        project = self._engine.project
        # Whoever begins to start it has secrets before anything else, and then the lock.
        if not self._remembered.anything() and not start.is_there(self._engine):
            print(f"Nothing of {project} is there.")
            return
        with self._alone():
            start.down(self._engine, data=delete == "delete")
            if delete == "delete":
                self._remembered.forget()
                print(f"The data and the passwords of {project} are gone.")
            else:
                kept = "data and the passwords" if self._engine.volumes() else "passwords"
                print(f"The {kept} of {project} are kept: make down DATA=delete deletes them.")

    def roll(self, asked: argparse.Namespace) -> None:
        settings = self._settle()
        if self._remembered.cap() != settings.CAP:
            raise UserError(
                f"CAP={settings.CAP} needs make up: make roll leaves the servers as they are."
            )
        with self._alone():
            self._require_whole_data()
            self._engine.one_running("mariadb")
            start.build(self._engine, settings)
            roll(self._engine, settings)
            self._remembered.keep(settings)
            start.say_where(self._engine)

    def backup(self, asked: argparse.Namespace) -> None:
        data.backup(self._engine, _file(asked))

    def restore(self, asked: argparse.Namespace) -> None:
        file = _file(asked)
        data.require_dump(file)
        settings = self._settle(begin=True)
        with self._alone():
            start.require_readable_mounts()
            start.require_ports(self._engine, settings)
            start.build(self._engine, settings)
            self._remembered.keep(settings)
            with self._remembered.half_restored():
                data.restore(self._engine, file)
            start.up(self._engine, settings)

    def execute(self, asked: argparse.Namespace) -> None:
        terminal = ["--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else []
        found = self._engine.one_running(asked.service)
        self._engine.become("exec", "--interactive", *terminal, found.id, *asked.words)

    def compose(self, asked: argparse.Namespace) -> None:
        self._settle()
        self._engine.become_compose(*asked.words)

    def _settle(self, *, begin: bool = False) -> Settings:
        """The settings, of which the engine is told too; `begin`: with new secrets if need be."""
        settings = self._remembered.settings(self._environ)
        self._engine.use({**settings.variables(), **self._remembered.secrets(make=begin)})
        return settings

    def _require_whole_data(self) -> None:
        if self._remembered.restoring.exists():
            raise UserError(
                "a restore broke off, and the databases may be half empty: restore again, or if you"
                f" know better, delete {self._remembered.restoring}."
            )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else starts, stops or replaces containers of this project meanwhile."""
        self._remembered.lock.parent.mkdir(parents=True, exist_ok=True)
        with self._remembered.lock.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    "another up, down, roll or restore of this project is at work: wait for it."
                ) from error
            yield


def _file(asked: argparse.Namespace) -> Path:
    if not asked.file:
        raise UserError(f"name the file: make {asked.command} FILE=frontrow.sql.gz.")
    return Path(asked.file)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m harness.containers",
        description=harness.containers.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in ("up", "down", "roll"):
        commands.add_parser(name).set_defaults(run=getattr(Command, name))
    for name in ("backup", "restore"):
        command = commands.add_parser(name)
        command.add_argument("file", metavar="FILE", nargs="?")
        command.set_defaults(run=getattr(Command, name))
    execute = commands.add_parser("exec")
    execute.add_argument("service", metavar="SERVICE")
    execute.add_argument("words", metavar="COMMAND", nargs=argparse.REMAINDER)
    execute.set_defaults(run=Command.execute)
    compose = commands.add_parser("compose", add_help=False)
    compose.add_argument("words", nargs=argparse.REMAINDER)
    compose.set_defaults(run=Command.compose)
    return parser


if __name__ == "__main__":
    # So that it cleans up after itself then too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:], os.environ))
