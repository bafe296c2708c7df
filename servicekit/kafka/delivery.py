"""Calls a handler until records are handled, or are dead letters."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from prometheus_client import Counter

from servicekit import call_context, logs
from servicekit.kafka.producer import Producer
from servicekit.kafka.records import (
    DEAD_LETTER_HEADER,
    DEAD_LETTER_SUFFIX,
    REPLAY_HEADER,
    PoisonRecord,
    Record,
)
from servicekit.retries import Outage, retry_while_unavailable

log = logs.get(__name__)

CONSUMED = Counter("kafka_consumed", "Records handled.", ["topic", "group", "outcome"])
RETRIES = Counter(
    "kafka_retries", "Failed attempts to handle a record by itself.", ["topic", "group"]
)

_HANDLING_ATTEMPTS = 3
_DEAD_LETTER_SECONDS = 10.0
# The longest attempt at several records: one that hangs holds up the others no longer.
_TOGETHER_SECONDS = 5.0

Handler = Callable[[Sequence[Record]], Awaitable[Sequence[Record]]]
"""Handles records; returns the records to publish before their offsets are committed. The records
of each key are in order. It must be idempotent: if it raises for several records, it gets each of
them again."""


class Delivery:
    """Calls the handler of a group with records as aiokafka returns them. See Consumer."""

    def __init__(
        self, producer: Producer, group: str, handler: Handler, handler_timeout: float
    ) -> None:
        self._producer = producer
        self._group = group
        self._handler = handler
        self._handler_timeout = handler_timeout

    async def deliver_together(self, consumed: Sequence[Any]) -> bool:
        """Makes one attempt at several records. Returns whether it succeeded; otherwise each record
        is to be delivered by itself, which shows whose fault it is."""
        mine = [one for one in consumed if not self._skipped(one)]
        if not mine:
            return True
        _set_request_id(mine[0])
        try:
            timeout = min(self._handler_timeout, _TOGETHER_SECONDS)
            await self._handle([_record(one) for one in mine], timeout)
        except Exception as error:
            log.info(
                "records_handled_singly",
                topic=mine[0].topic,
                group=self._group,
                records=len(mine),
                error=type(error).__name__,
            )
            return False
        for one in consumed:
            self._count(one, "skipped" if self._skipped(one) else "done")
        return True

    async def deliver(self, consumed: Any) -> None:
        """Returns once the record needs no further attempt."""
        if self._skipped(consumed):
            self._count(consumed, "skipped")
            return
        record = _record(consumed)
        position = {
            "topic": consumed.topic,
            "group": self._group,
            "partition": consumed.partition,
            "offset": consumed.offset,
        }
        _set_request_id(consumed)
        outage = Outage(log, "record_delayed", "record_handled", **position)
        try:
            await retry_while_unavailable(
                partial(self._handle_alone, record),
                outage,
                defect_attempts=_HANDLING_ATTEMPTS,
                final=PoisonRecord,
            )
            outcome = "done"
        except Exception as error:
            log.exception("record_dead_lettered", **position)
            letter = _dead_letter(record, position, error)
            outage = Outage(log, "dead_letter_delayed", "dead_letter_published", **position)
            await retry_while_unavailable(
                partial(self._producer.publish, [letter], _DEAD_LETTER_SECONDS), outage
            )
            outcome = "dead"
        self._count(consumed, outcome)

    def _skipped(self, consumed: Any) -> bool:
        """Whether the record is replayed for another group."""
        mine = self._group.encode()
        return any(name == REPLAY_HEADER and value != mine for name, value in consumed.headers)

    async def _handle_alone(self, record: Record) -> None:
        try:
            await self._handle([record], self._handler_timeout)
        except Exception:
            RETRIES.labels(record.topic, self._group).inc()
            raise

    async def _handle(self, records: Sequence[Record], timeout: float) -> None:
        call_context.set_deadline(timeout)
        async with asyncio.timeout(timeout):
            results = await self._handler(records)
            await self._producer.publish(results, timeout)

    def _count(self, consumed: Any, outcome: str) -> None:
        CONSUMED.labels(consumed.topic, self._group, outcome).inc()


def _set_request_id(consumed: Any) -> None:
    call_context.request_id.set(f"{consumed.topic}-{consumed.partition}-{consumed.offset}")


def _record(consumed: Any) -> Record:
    headers = dict(consumed.headers)
    headers.pop(REPLAY_HEADER, None)
    return Record(
        topic=consumed.topic,
        key=consumed.key or b"",
        value=consumed.value or b"",
        headers=headers,
    )


def _dead_letter(record: Record, position: Mapping[str, str | int], error: Exception) -> Record:
    """The record with its origin. Of the error only the class: a message may hold something
    private."""
    origin = {**position, "error": type(error).__name__}
    return Record(
        topic=record.topic + DEAD_LETTER_SUFFIX,
        key=record.key,
        value=record.value,
        headers=record.headers
        | {DEAD_LETTER_HEADER + name: str(value).encode() for name, value in origin.items()},
    )
