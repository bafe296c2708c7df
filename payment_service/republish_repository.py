"""The SQL statements that republish outcomes after a restore."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

from payment_service.domain import LONGEST_REFUSED_PARK_SECONDS, Event, Payment, Status
from payment_service.outbox import shard_of
from payment_service.repository import COLUMNS, payment_from
from servicekit.mysql import Database

OUTBOX_PAGE = 10_000

UNSENT_AFTER = "SELECT id, payment_id FROM outbox WHERE id > %s ORDER BY id LIMIT %s"

# A SELECT for each status, because each then reads one entry of the index.
LATEST_OF_EACH_STATUS = " UNION ALL ".join(
    ["SELECT MAX(driven_until) AS latest FROM payment WHERE status = %s"] * len(Status)
)

# FORCE INDEX, because after an import the server has no statistics to choose an index by.
FINISHED = f"""
SELECT {COLUMNS}, updated_at, driven_until
FROM payment FORCE INDEX (recovery)
WHERE status = %s AND driven_until BETWEEN %s AND %s
  AND (driven_until < %s OR id < %s)
ORDER BY driven_until DESC, id DESC LIMIT %s
"""

# Followed by one or more of PUT_ROW.
PUT = "INSERT INTO outbox (shard, event_id, reservation_id, payment_id, payload) VALUES "

PUT_ROW = "(%s, %s, %s, %s, UNHEX(%s))"


class RepublishRepository:
    """Reads finished payments and writes their events into the outbox, in bounded batches.

    Each statement commits by itself: an event may be published twice, as from every outbox.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def payments_with_unsent_events(self) -> set[int]:
        """Returns the ids of the payments that have an event in the outbox. The events of a payment
        leave the outbox in order, so the event of its last change is among them."""
        found: set[int] = set()
        last = 0
        while True:
            async with self._database.connection() as connection:
                rows = await connection.fetch_all(UNSENT_AFTER, last, OUTBOX_PAGE)
            if not rows:
                return found
            last = rows[-1].id
            found.update(row.payment_id for row in rows)

    async def finished_payments(
        self, seconds: float, limit: int
    ) -> AsyncIterator[list[tuple[Payment, datetime]]]:
        """Yields finished payments with the time of their last change, `limit` at a time: all that
        ended within `seconds` before the newest change of any payment, and some that ended up to a
        few minutes earlier.

        Selects by `driven_until`, which has an index. A payment ends before its `driven_until`, so
        none that ended in time is left out. Some earlier ones are included, because `driven_until`
        lies in the future by a lease, or by a pause of at most five minutes. Failures come first,
        since a reservation's success follows them; within a status the newest come first, since
        their events are the likeliest to be missing.
        """
        async with self._database.connection() as connection:
            rows = await connection.fetch_all(
                LATEST_OF_EACH_STATUS, *(status.value for status in Status)
            )
        latest = [row.latest for row in rows if row.latest is not None]
        if not latest:
            return
        newest = max(latest)
        oldest = newest - timedelta(seconds=seconds + LONGEST_REFUSED_PARK_SECONDS)
        for status in (Status.FAILED, Status.SUCCEEDED, Status.REFUNDED):
            before = (newest + timedelta(microseconds=1), 0)
            while True:
                async with self._database.connection() as connection:
                    rows = await connection.fetch_all(
                        FINISHED,
                        status,
                        oldest,
                        before[0],
                        *before,
                        limit,
                    )
                if not rows:
                    break
                yield [(payment_from(row), row.updated_at.replace(tzinfo=UTC)) for row in rows]
                before = (rows[-1].driven_until, rows[-1].id)

    async def write_events(self, events: Sequence[Event]) -> None:
        """Writes events, at least one, into the outbox."""
        values = [
            value
            for event in events
            for value in (
                shard_of(event.reservation_id),
                event.event_id,
                event.reservation_id,
                event.payment_id,
                event.payload.hex(),
            )
        ]
        async with self._database.connection() as connection:
            await connection.execute(PUT + ", ".join([PUT_ROW] * len(events)), *values)
