"""backup and restore: the databases of MariaDB as of one moment."""

from __future__ import annotations

import gzip
import re
import subprocess
import zlib
from pathlib import Path

from harness.containers.engine import Engine
from harness.containers.settings import PROGRAMS
from harness.errors import UserError
from harness.files import replaced
from harness.topology import JOBS, SCHEMAS

# Only processes within MariaDB's container can be its administrator.
_AS_ADMINISTRATOR = "--socket=/tmp/mariadb.sock"
# More ids than are assigned between a dump and the restore.
_IDS_SKIPPED = 1_000_000


def backup(engine: Engine, file: Path) -> None:
    """Writes a complete dump or no file, readable by its owner only: it has personal data."""
    if file.exists():
        raise UserError(f"{file} is there already: choose another FILE, or delete it.")
    mariadb = engine.one_running("mariadb").id
    command = ("mariadb-dump", _AS_ADMINISTRATOR, "--single-transaction", "--add-drop-database")
    with replaced(file) as raw:
        with subprocess.Popen(["gzip"], stdin=subprocess.PIPE, stdout=raw) as packer:
            dump = ("exec", mariadb, *command, "--databases", *SCHEMAS)
            dumped = engine.stream(*dump, stdout=packer.stdin)
        if not dumped or packer.returncode:
            raise UserError("the dump failed, and nothing was written.")
        require_dump(Path(raw.name))
    print(f"Wrote {file}")


def require_dump(file: Path) -> None:
    """Raises UserError unless it is a complete dump of these databases and of no other."""
    found = []
    last = b""
    try:
        with gzip.open(file) as lines:
            # The first line may be a comment for MariaDB itself.
            head = (lines.readline(), lines.readline())
            if any(line.startswith(b"-- MariaDB dump ") for line in head):
                for line in lines:
                    # Line breaks within values are escaped, so a line never begins with a value.
                    if match := re.match(rb"-- Current Database: `(\w+)`", line):
                        found.append(match[1].decode())
                    last = line.strip() or last
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{file} is no complete gzip file; nothing was changed.") from error
    except OSError as error:
        raise UserError(f"{error.strerror}: {file}; nothing was changed.") from error
    if not last.startswith(b"-- Dump completed"):
        raise UserError(f"{file} is no complete dump of make backup; nothing was changed.")
    if sorted(found) != sorted(SCHEMAS):
        raise UserError(
            f"{file} must have the databases {', '.join(SCHEMAS)} and no other; nothing was"
            " changed."
        )


def restore(engine: Engine, file: Path) -> None:
    """Restores a file that `require_dump` accepted, with an image that is built.

    Leaves MariaDB and Kafka running, and no program.
    """
    for each in engine.containers(one_off=True):
        engine.retire(each)
    writers = (*PROGRAMS, *(job.name for job in JOBS))
    if any(each.running for each in engine.containers(*writers)):
        engine.compose("stop", *writers, failure="the programs could not be stopped.")
    engine.compose(
        *("up", "--detach", "--no-deps", "mariadb", "kafka"), failure="MariaDB did not start."
    )
    engine.wait_until_healthy("mariadb", "kafka")
    fix = "the programs are stopped: fix the cause and restore again."
    _import(engine, file, failure=f"the restore broke off, and {fix}")
    engine.run_once("migrate", failure=f"the migration failed, and {fix}")
    # The event of a payment may have left the outbox before the dump, because Kafka had it, while
    # its reservation was confirmed only after the dump.
    engine.run_once(
        *("payment", "python", "-m", "payment_service.republish_outcomes"),
        failure=f"the outcomes could not be published again, and {fix}",
    )


def _import(engine: Engine, file: Path, *, failure: str) -> None:
    mariadb = engine.one_running("mariadb").id
    client = ("mariadb", _AS_ADMINISTRATOR)
    with file.open("rb") as packed:
        unpack = ["gzip", "--decompress", "--stdout"]
        with subprocess.Popen(unpack, stdin=packed, stdout=subprocess.PIPE) as unpacker:
            imported = engine.stream(
                *("exec", "--interactive", mariadb, *client), stdin=unpacker.stdout
            )
    if not imported:
        raise UserError(failure)
    # Ids assigned after the dump must not be assigned again: the payment provider and Kafka's
    # topics know them.
    for table in ("reservation.reservation", "payment.payment"):
        highest = engine.docker(
            *("exec", mariadb, *client, "--skip-column-names"),
            *("--execute", f"SELECT COALESCE(MAX(id), 0) FROM {table}"),
        )
        engine.docker(
            *("exec", mariadb, *client, "--execute"),
            f"ALTER TABLE {table} AUTO_INCREMENT = {int(highest) + _IDS_SKIPPED}",
        )
