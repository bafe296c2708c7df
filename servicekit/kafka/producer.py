"""Publishes records and waits until Kafka has acknowledged them."""

import asyncio
from collections.abc import Sequence
from typing import Self

from aiokafka import AIOKafkaProducer

from servicekit.errors import Unavailable
from servicekit.kafka.connections import (
    RECONNECT_PAUSE_MS,
    REQUEST_TIMEOUT_MS,
    close_in_time,
    translated_errors,
)
from servicekit.kafka.records import Record

_LINGER_MS = 5


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
                    acknowledgements = [
                        await inner.send(
                            record.topic,
                            key=record.key or None,
                            value=record.value,
                            headers=list(record.headers.items()),
                        )
                        for record in records
                    ]
                    await asyncio.gather(*acknowledgements)
        except Unavailable:
            if inner is not None:
                await self._discard(inner)
            raise

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


async def _close(producer: AIOKafkaProducer) -> None:
    # Its stop() waits until the broker has taken what is unsent, which may be for ever.
    producer._closed = True
    await close_in_time(producer._sender.close)
    await close_in_time(producer.client.close)
