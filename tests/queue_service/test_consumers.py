"""A payment's event, through a real Kafka, ends the admission."""

import asyncio
import uuid
from functools import partial

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from protos.frontrow.payment.v1 import events_pb2, payment_pb2
from protos.frontrow.queue.v1 import queue_pb2
from queue_service.consumers import PaymentEvents
from queue_service.domain import Limits, Place
from queue_service.service import Entered, QueueService
from queue_service.tokens import Signer
from room_view.position import Pacing, PlaceState
from servicekit.kafka import Consumer, Producer, Record
from tests.fakes.queue import FakeQueueStore
from tests.queue_service.conftest import RULES, entries


async def test_paying_lets_the_next_one_in(kafka_bootstrap: str) -> None:
    # Not payment.events itself, which other tests read and write.
    topic = f"test.{uuid.uuid4().hex}"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(name=topic, num_partitions=1, replication_factor=1)])
    await admin.close()
    store = FakeQueueStore(RULES, Limits(capacity=1, max_waiting=10))
    service = QueueService(
        store,
        Signer("k1", "s" * 32),
        Pacing(
            queue_pb2.RoomRules(
                poll_min_ms=1, poll_max_ms=2, admission_ttl_ms=RULES.admission_ttl_ms
            )
        ),
        ["queue-test"],
    )

    async def enter(user_id: int) -> Place:
        (entered,) = await service.enter_queue("queue-test", entries([user_id]))
        assert isinstance(entered, Entered)
        return entered.place

    first, second = await enter(11), await enter(12)
    event = events_pb2.PaymentEvent(event_id="e1", payment_id=3, reservation_id=9, user_id=11)
    event.succeeded.admission.CopyFrom(
        payment_pb2.Admission(room="queue-test", place_number=first.number)
    )
    consumer = asyncio.create_task(
        Consumer(
            bootstrap=kafka_bootstrap,
            group="queue_service_test",
            topic=topic,
            handler=PaymentEvents(service).handle,
        ).run()
    )
    async with Producer(kafka_bootstrap) as producer:
        record = Record(topic, b"9", event.SerializeToString())
        await producer.publish([record, record], timeout=20)
    positions = partial(service.get_positions, [first, second])
    async with asyncio.timeout(40):
        while (await positions()).places[0].standing.state is not PlaceState.ENDED:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    consumer.cancel()
    await asyncio.wait([consumer])
    assert (await positions()).places[1].standing.state is PlaceState.ADMITTED
