"""The Kafka topics and consumer groups of Frontrow, and a command that creates missing topics.

KAFKA_BOOTSTRAP=kafka:9092 python -m protos.topics
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping

PAYMENT_EVENTS = "payment.events"
RESERVATION_EVENTS = "reservation.events"

QUEUE_GROUP = "queue_service"
RESERVATION_GROUP = "reservation_service"
PAYMENT_GROUP = "payment_service"

#: Topic → number of partitions. Kafka keeps the order within a partition, and the key is the
#: reservation id. People read the dead-letter topics, so those need no parallelism.
TOPICS: Mapping[str, int] = {
    PAYMENT_EVENTS: 6,
    f"{PAYMENT_EVENTS}.dlq": 1,
    RESERVATION_EVENTS: 6,
    f"{RESERVATION_EVENTS}.dlq": 1,
}


async def create(bootstrap: str) -> None:
    """Creates the missing topics, with one replica each.

    Raises aiokafka's errors if Kafka is unavailable or refuses a topic.
    """
    # Imported here, so that the constants cost no import of aiokafka.
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic
    from aiokafka.errors import TopicAlreadyExistsError, for_code

    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=30_000)
    await admin.start()
    try:
        existing = set(await admin.list_topics())
        missing = [
            NewTopic(
                name=name,
                num_partitions=partitions,
                replication_factor=1,
                # Dead letters are kept until somebody has handled them.
                topic_configs={"retention.ms": "-1"} if name.endswith(".dlq") else {},
            )
            for name, partitions in TOPICS.items()
            if name not in existing
        ]
        if missing:
            response = await admin.create_topics(missing)
            for topic, code, *_ in response.topic_errors:
                error = for_code(code)
                # Another run may have created it meanwhile.
                if code and error is not TopicAlreadyExistsError:
                    raise error(topic)
    finally:
        await admin.close()


def main() -> int:
    """Creates the missing topics; returns the exit status."""
    bootstrap = os.environ.get("KAFKA_BOOTSTRAP")
    if not bootstrap:
        print("KAFKA_BOOTSTRAP is not set: it names the Kafka to use.", file=sys.stderr)
        return 2
    asyncio.run(create(bootstrap))
    print(f"Kafka has all {len(TOPICS)} topics.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
