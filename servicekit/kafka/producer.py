"""Publishes records and waits until Kafka has acknowledged them."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Self

from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2

from servicekit.errors import Unavailable
from servicekit.kafka.connections import (
    RECONNECT_PAUSE_MS,
    REQUEST_TIMEOUT_MS,
    close_in_time,
    translated_errors,
)
from servicekit.kafka.records import Record

_LINGER_MS = 5


def hash_of_key(key: bytes) -> int:
    """Returns the number whose remainder by the number of partitions is the partition of a key, as
    Kafka's producers calculate it."""
    number: int = murmur2(key) & 0x7FFFFFFF
    return number


class Producer:
    """An idempotent producer that connects at the first `publish`.

    A service therefore starts while Kafka is unavailable. After any failure the next `publish`
    uses a new connection: aiokafka's producer may hang, or stay out of sequence, for ever.
    """

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._inner: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def publish(self, records: Sequence[Record], timeout: float) -> None:
        """Sends all `records` and returns once every in-sync replica has them.

        Raises Unavailable if that takes more than `timeout` seconds (closing the failed
        connection may take a few more); some records may be published nevertheless, in order.
        """
        if not records:
            return
        inner = None
        try:
            with translated_errors("The event log did not accept the records."):
                async with asyncio.timeout(timeout):
                    inner = await self._connected()
                    await asyncio.gather(*[await _send(inner, record) for record in records])
        except Unavailable:
            if inner is not None:
                await self._discard(inner)
            raise

    async def publish_each(self, records: Sequence[Record], patience: float) -> list[bool]:
        """Sends `records`; returns for each whether every in-sync replica has it.

        A record is sent once the one before it with the same key is acknowledged; other records do
        not wait for it. Gives up on the rest when no acknowledgement has come for `patience`
        seconds (closing the failed connection may take a few more). A record that is not
        acknowledged may be published nevertheless.
        """
        acknowledged = [False] * len(records)
        of_key: dict[tuple[str, bytes], list[int]] = defaultdict(list)
        for index, record in enumerate(records):
            of_key[record.topic, record.key].append(index)
        try:
            with translated_errors("The event log is unavailable."):
                async with asyncio.timeout(patience):
                    inner = await self._connected()
        except Unavailable:
            return acknowledged

        loop = asyncio.get_running_loop()
        progress = loop.time()

        async def send(indexes: Sequence[int]) -> None:
            nonlocal progress
            for index in indexes:
                await (await _send(inner, records[index]))
                acknowledged[index] = True
                progress = loop.time()

        waiting = {asyncio.create_task(send(indexes)) for indexes in of_key.values()}
        try:
            while waiting and loop.time() < progress + patience:
                ended, waiting = await asyncio.wait(
                    waiting,
                    timeout=progress + patience - loop.time(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in ended:
                    with (
                        contextlib.suppress(Unavailable),  # not acknowledged
                        translated_errors("The event log did not accept the record."),
                    ):
                        task.result()
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        if not all(acknowledged):
            await self._discard(inner)
        return acknowledged

    async def close(self) -> None:
        """Closes the connections and drops records that are not acknowledged yet."""
        if self._inner is not None:
            await self._discard(self._inner)

    async def _connected(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._inner is None:
                inner = AIOKafkaProducer(
                    bootstrap_servers=self._bootstrap,
                    acks="all",
                    enable_idempotence=True,
                    linger_ms=_LINGER_MS,
                    request_timeout_ms=REQUEST_TIMEOUT_MS,
                    retry_backoff_ms=RECONNECT_PAUSE_MS,
                )
                try:
                    await inner.start()
                except BaseException:
                    await _close(inner)
                    raise
                self._inner = inner
            return self._inner

    async def _discard(self, inner: AIOKafkaProducer) -> None:
        if self._inner is inner:
            self._inner = None
        # Closed before the next one publishes, so that no late record can overtake.
        await _close(inner)


async def _send(inner: AIOKafkaProducer, record: Record) -> asyncio.Future[Any]:
    """Hands a record to aiokafka; waits while the batch of its partition is full. Returns the
    acknowledgement."""
    acknowledgement: asyncio.Future[Any] = await inner.send(
        record.topic,
        key=record.key or None,
        value=record.value,
        headers=list(record.headers.items()),
    )
    return acknowledgement


async def _close(producer: AIOKafkaProducer) -> None:
    # Its stop() waits until the broker has taken what is unsent, which may be for ever.
    producer._closed = True
    await close_in_time(producer._sender.close)
    await close_in_time(producer.client.close)
