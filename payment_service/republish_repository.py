"""The SQL statements that republish outcomes after a restore."""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from payment_service.domain import LONGEST_REFUSED_PARK_SECONDS, Event, EventKind, Payment, Status
from payment_service.outbox import shard_of
from payment_service.rows import COLUMNS, payment_from
from servicekit.mysql import Database

# A SELECT for each status, because each then reads one entry of the index.
LATEST_OF_EACH_STATUS = " UNION ALL ".join(
    ["SELECT MAX(driven_until) AS latest FROM payment WHERE status = %s"] * len(Status)
)

# FORCE INDEX, because after an import the server has no statistics to choose an index by.
FINISHED = f"""
SELECT {COLUMNS}, updated_at, driven_until, unsent
FROM payment FORCE INDEX (recovery)
WHERE status = %s AND driven_until BETWEEN %s AND %s
  AND (driven_until < %s OR id < %s)
ORDER BY driven_until DESC, id DESC LIMIT %s
"""

# The time of the last change stays: the event has it.
MARK_UNSENT = """
UPDATE payment SET unsent = unsent | %s, unsent_shard = %s, updated_at = updated_at WHERE id IN %s
"""


@dataclass(frozen=True)
class Finished:
    """A finished payment, the time of its last change, and its events that are unsent anyway."""

    payment: Payment
    at: datetime
    unsent: EventKind


class RepublishRepository:
    """Reads finished payments and marks their events as unsent, in bounded batches.

    Each batch commits by itself: an event may be published twice, as by every relay.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def finished_payments(self, seconds: float, limit: int) -> AsyncIterator[list[Finished]]:
        """Yields finished payments, `limit` at a time: all that ended within `seconds` before the
        newest change of any payment, and some that ended up to a few minutes earlier.

        Selects by `driven_until`, which has an index. A payment ends before its `driven_until`, so
        none that ended in time is left out. Some earlier ones are included, because `driven_until`
        lies in the future by a lease, or by a pause of at most five minutes. They come in the order
        of the index; the relay sends their events in the order of the payments.
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
                yield [
                    Finished(
                        payment_from(row),
                        row.updated_at.replace(tzinfo=UTC),
                        EventKind(row.unsent),
                    )
                    for row in rows
                ]
                before = (rows[-1].driven_until, rows[-1].id)

    async def mark_unsent(self, events: Sequence[Event]) -> None:
        """Marks events, at least one, as unsent: the relay sends them again."""
        ids: dict[tuple[EventKind, int], list[int]] = defaultdict(list)
        for event in events:
            ids[event.kind, shard_of(event.reservation_id)].append(event.payment_id)
        await self._database.execute_transaction(
            *((MARK_UNSENT, kind.value, shard, sorted(of)) for (kind, shard), of in ids.items())
        )
