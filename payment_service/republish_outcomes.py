"""Publishes the latest outcomes again after a restore:
`python -m payment_service.republish_outcomes`.

Run it on a database that was restored from a backup, before the programs start. Kafka is not
restored, so its consumers have passed events whose effects the restore has undone: for example a
payment that succeeded and whose event was sent, but whose reservation was not confirmed yet. The
events of the payments that finished shortly before the backup therefore return to the outbox.
Consumers are idempotent; docs/adr/0023-republish-after-a-restore.md says what each does.
"""

import asyncio
import sys

from payment_service import events
from payment_service.republish_repository import RepublishRepository
from payment_service.settings import Settings
from servicekit import logs
from servicekit.errors import Unavailable
from servicekit.mysql import AccessDenied, Database, DatabaseError
from servicekit.settings import load

BATCH = 500


async def republish_outcomes(repository: RepublishRepository, seconds: float) -> tuple[int, int]:
    """Marks the events of the payments that finished within `seconds` before the newest change as
    unsent, which puts them into the outbox. Returns how many it put there, and how many were there
    already.

    Idempotent while the events are in the outbox.
    """
    written = present = 0
    async for ended in repository.finished_payments(seconds, BATCH):
        missing = []
        for finished in ended:
            event = events.of_outcome(finished.payment, finished.at)
            if event is None:
                continue
            if event.kind in finished.unsent:
                present += 1
            else:
                missing.append(event)
        if missing:
            await repository.mark_unsent(missing)
            written += len(missing)
    return written, present


async def _run(settings: Settings) -> str:
    async with Database(settings.mysql_url, max_size=1) as database:
        written, present = await republish_outcomes(
            RepublishRepository(database), settings.announce_again_seconds
        )
    return (
        f"Put the outcomes of {written} payments back into the outbox, from the last"
        f" {settings.announce_again_seconds:g} s before the newest change;"
        f" {present} were in it already."
    )


def main() -> None:
    settings = load(Settings)
    logs.configure("CRITICAL")  # a person reads the one sentence below
    try:
        done = asyncio.run(_run(settings))
    except (AccessDenied, DatabaseError) as error:
        sys.stderr.write(f"MariaDB at PAYMENT_MYSQL_URL refuses: error {error.number}.\n")
        sys.exit(2)
    except (Unavailable, TimeoutError, OSError):
        sys.stderr.write("MariaDB at PAYMENT_MYSQL_URL does not answer, or not in time.\n")
        sys.exit(2)
    print(done)


if __name__ == "__main__":
    main()
