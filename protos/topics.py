"""Makes the Kafka topics that are missing: `KAFKA_BOOTSTRAP=kafka:9092 python -m protos.topics`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping

#: Topic → number of partitions. Order is kept per partition (per reservation id); the dead-letter
#: topics are read by people and need no parallelism.
TOPICS: Mapping[str, int] = {
    "payment.events": 6,
    "payment.events.dlq": 1,
    "reservation.events": 6,
    "reservation.events.dlq": 1,
}


async def create(bootstrap: str, *, request_timeout_ms: int = 5000) -> None:
    """Makes what is missing, with one replica each. Raises aiokafka's errors if Kafka is away."""
    # Here, since `make run` needs it only after Kafka has started.
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic

    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=request_timeout_ms)
    await admin.start()
    try:
        existing = set(await admin.list_topics())
        missing = [
            NewTopic(
                name=name,
                num_partitions=partitions,
                replication_factor=1,
                # A poison message waits for somebody to look at it, however long.
                topic_configs={"retention.ms": "-1"} if name.endswith(".dlq") else {},
            )
            for name, partitions in TOPICS.items()
            if name not in existing
        ]
        if missing:
            await admin.create_topics(missing)
    finally:
        await admin.close()


if __name__ == "__main__":
    asyncio.run(create(os.environ["KAFKA_BOOTSTRAP"], request_timeout_ms=30_000))
    print(f"Kafka has all {len(TOPICS)} topics.")
