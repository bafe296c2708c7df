"""backup and restore: the three databases of MariaDB, as of one moment."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import zlib
from pathlib import Path

from harness.containers.engine import Engine
from harness.containers.settings import PROGRAMS
from harness.errors import UserError
from harness.files import replaced
from harness.topology import SCHEMAS

# Who is inside MariaDB's container may do anything; nobody else can be its administrator.
_AS_ADMINISTRATOR = "--socket=/tmp/mariadb.sock"
# More than are given out between a dump and the moment that it is needed.
_IDS_SKIPPED = 1_000_000


def backup(engine: Engine, file: Path) -> None:
    """Writes it whole or not at all, for its owner alone: it is about people."""
    if file.exists():
        raise UserError(f"{file} is there already: choose another FILE, or delete it.")
    mariadb = engine.one_running("mariadb")
    with replaced(file) as raw:
        with gzip.GzipFile("", "wb", 6, raw) as zipped:
            _dump(engine, mariadb.id, zipped)
        raw.flush()
        require_dump(Path(raw.name))
    print(f"Wrote {file}")


def _dump(engine: Engine, mariadb: str, out: gzip.GzipFile) -> None:
    command = ("mariadb-dump", _AS_ADMINISTRATOR, "--single-transaction", "--add-drop-database")
    with engine.piped(
        *("exec", mariadb, *command, "--databases", *SCHEMAS), stdout=subprocess.PIPE
    ) as dumping:
        assert dumping.stdout
        shutil.copyfileobj(dumping.stdout, out, 1 << 20)
        if dumping.wait():
            raise UserError("the dump failed, and nothing was written.")


def require_dump(file: Path) -> None:
    """Raises UserError unless it is a whole dump of these databases, and of no other."""
    found = []
    begins = False
    last = b""
    try:
        with gzip.open(file) as lines:
            for number, line in enumerate(lines):
                # Line breaks within values are escaped, so that what a line begins with is no
                # value. The first may be a comment for MariaDB itself.
                begins = begins or (number < 2 and line.startswith(b"-- MariaDB dump "))
                if not begins and number > 2:
                    break
                if match := re.match(rb"-- Current Database: `(\w+)`", line):
                    found.append(match[1].decode())
                last = line.strip() or last
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{file} is no whole gzip file; nothing was changed.") from error
    except OSError as error:
        raise UserError(f"{error.strerror}: {file}; nothing was changed.") from error
    if not begins or not last.startswith(b"-- Dump completed"):
        raise UserError(f"{file} is no whole dump of make backup; nothing was changed.")
    if sorted(found) != sorted(SCHEMAS):
        raise UserError(
            f"{file} must have the databases {', '.join(SCHEMAS)} and no other; nothing was"
            " changed."
        )


def restore(engine: Engine, file: Path) -> None:
    """From a file that was looked at, with an image that is built. Leaves MariaDB and Kafka
    running, and no program."""
    for each in engine.containers(one_off=True):
        engine.retire(each)
    writers = (*PROGRAMS, "migrate", "seed")
    if any(each.running for each in engine.containers(*writers)):
        engine.compose("stop", *writers, otherwise="the programs could not be stopped.")
    engine.compose(
        *("up", "--detach", "--no-deps", "mariadb", "kafka"), otherwise="MariaDB did not start."
    )
    engine.wait_until_healthy("mariadb", "kafka")
    again = "the programs are stopped: mend the cause and restore again."
    _import(engine, file, otherwise=f"the restore broke off, and {again}")
    engine.run_once("migrate", otherwise=f"the migration failed, and {again}")
    # A seat may have been paid when the dump was made, and the event that says so already be out
    # of it, for Kafka had it: its reservation has not heard of it yet.
    engine.run_once(
        *("payment", "python", "-m", "payment_service.announce_again"),
        otherwise=f"the payments could not be announced again, and {again}",
    )


def _import(engine: Engine, file: Path, *, otherwise: str) -> None:
    mariadb = engine.one_running("mariadb").id
    command = ("exec", "--interactive", mariadb, "mariadb", _AS_ADMINISTRATOR)
    with engine.piped(*command, stdin=subprocess.PIPE) as importing:
        assert importing.stdin
        try:
            with gzip.open(file) as dump:
                shutil.copyfileobj(dump, importing.stdin, 1 << 20)
            importing.stdin.close()
        except BrokenPipeError as error:
            raise UserError(otherwise) from error
        if importing.wait():
            raise UserError(otherwise)
    # Ids that were given out after the dump must not be given out again: a payment provider and
    # Kafka's topics know them.
    for table in ("reservation.reservation", "payment.payment"):
        highest = engine.docker(
            *("exec", mariadb, "mariadb", _AS_ADMINISTRATOR, "--skip-column-names"),
            *("--execute", f"SELECT COALESCE(MAX(id), 0) FROM {table}"),
        )
        engine.docker(
            *("exec", mariadb, "mariadb", _AS_ADMINISTRATOR, "--execute"),
            f"ALTER TABLE {table} AUTO_INCREMENT = {int(highest) + _IDS_SKIPPED}",
        )
