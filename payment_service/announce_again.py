"""Announces again what became of the latest payments: `python -m payment_service.announce_again`.

For a database that was restored from a backup, before the programs start. Kafka is not restored
with it, and its consumers go on behind events whose effects the restore has undone: a payment that
succeeded, its event sent, its reservation not confirmed yet. So the events of the payments that
ended shortly before the backup go back into the outbox. Consumers do not mind those that they
have dealt with; what they make of the others: docs/adr/0023-announced-again-after-a-restore.md.
"""

import asyncio
import sys

from payment_service import events
from payment_service.announcements import Announcements
from payment_service.settings import Settings
from servicekit import logs
from servicekit.errors import Unavailable
from servicekit.mysql import AccessDenied, Database, DatabaseError
from servicekit.settings import load

BATCH = 500


async def announce_again(announcements: Announcements, seconds: float) -> tuple[int, int]:
    """Puts the events of what ended within `seconds` of the newest change back into the outbox.
    How many, and how many more there were already. Again, before they are sent: it adds none."""
    waiting = await announcements.waiting()
    announced = there = 0
    async for ended in announcements.ended(seconds, BATCH):
        missing = []
        for payment, at in ended:
            event = events.of_outcome(payment, at)
            if event is None:
                continue
            if payment.id in waiting:
                there += 1
            else:
                missing.append(event)
        if missing:
            await announcements.announce(missing)
            announced += len(missing)
    return announced, there


async def _run(settings: Settings) -> str:
    async with Database(settings.mysql_url, max_size=1) as database:
        announced, there = await announce_again(
            Announcements(database), settings.announce_again_seconds
        )
    return (
        f"Put the outcomes of {announced} payments back into the outbox, from the last"
        f" {settings.announce_again_seconds:g} s before the newest change;"
        f" {there} were in it already."
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
