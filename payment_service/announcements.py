"""Every SQL statement of `announce_again.py`, on payments and on the outbox."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

from payment_service.domain import LONGEST_REFUSED_PARK_SECONDS, Event, Payment, Status
from payment_service.outbox import SHARDS
from payment_service.repository import COLUMNS, payment_from
from servicekit.mysql import Database

_OUTBOX_PAGE = 10_000


class Announcements:
    """What was told, and is told again after a restore. In bounded batches, each statement by
    itself: the same event may go out twice, as from every outbox."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def waiting(self) -> set[int]:
        """The payments that have an event in the outbox. Events of a payment leave it in their
        order, so that of its last change is among them."""
        found: set[int] = set()
        last = 0
        while True:
            async with self._database.reading() as reading:
                rows = await reading.fetch_all(
                    "SELECT id, payment_id FROM outbox WHERE id > %s ORDER BY id LIMIT %s",
                    last,
                    _OUTBOX_PAGE,
                )
            if not rows:
                return found
            last = rows[-1][0]
            found.update(payment_id for _, payment_id in rows)

    async def ended(
        self, seconds: float, limit: int
    ) -> AsyncIterator[list[tuple[Payment, datetime]]]:
        """Finished payments, and when each was last changed, `limit` at a time: those that ended
        within so many seconds before the newest change of any, or some minutes earlier.

        By `driven_until`, for which there is an index: a driver ends a payment before that, so
        whatever is left out ended earlier. It lies in the future by a lease, or a park of at most
        five minutes, hence "some". Failures come first, since a reservation's success follows
        them; of each kind the newest first, since the oldest are least likely to be missed.
        """
        async with self._database.reading() as reading:
            # Each is the end of a stretch of the index.
            of_status = "SELECT MAX(driven_until) FROM payment WHERE status = %s"
            rows = await reading.fetch_all(
                " UNION ALL ".join([of_status] * len(Status)), *(status.value for status in Status)
            )
        latest = [time for (time,) in rows if time is not None]
        if not latest:
            return
        newest = max(latest)
        oldest = newest - timedelta(seconds=seconds + LONGEST_REFUSED_PARK_SECONDS)
        for status in (Status.FAILED, Status.SUCCEEDED, Status.REFUNDED):
            before = (newest + timedelta(microseconds=1), 0)
            while True:
                async with self._database.reading() as reading:
                    rows = await reading.fetch_all(
                        # An import leaves no statistics to choose an index by.
                        f"""SELECT {COLUMNS}, updated_at, driven_until
                        FROM payment FORCE INDEX (recovery)
                        WHERE status = %s AND driven_until BETWEEN %s AND %s
                            AND (driven_until < %s OR id < %s)
                        ORDER BY driven_until DESC, id DESC LIMIT %s""",
                        status,
                        oldest,
                        before[0],
                        *before,
                        limit,
                    )
                if not rows:
                    break
                yield [(payment_from(row[:-2]), row[-2].replace(tzinfo=UTC)) for row in rows]
                before = (rows[-1][-1], rows[-1][0])

    async def announce(self, events: Sequence[Event]) -> None:
        """Puts events into the outbox, at least one."""
        values = [
            value
            for event in events
            for value in (
                event.reservation_id % SHARDS,
                event.event_id,
                event.reservation_id,
                event.payment_id,
                event.payload.hex(),
            )
        ]
        async with self._database.reading() as connection:
            await connection.execute(
                "INSERT INTO outbox (shard, event_id, reservation_id, payment_id, payload) VALUES "
                + ", ".join(["(%s, %s, %s, %s, UNHEX(%s))"] * len(events)),
                *values,
            )
