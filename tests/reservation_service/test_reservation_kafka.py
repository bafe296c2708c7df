"""Payment events through Kafka: duplicates, a lost seat, and an event without a reservation."""

import asyncio
import dataclasses
from collections.abc import Sequence

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from protos.frontrow.reservation.v1 import events_pb2
from protos.topics import RESERVATION_EVENTS
from reservation_service.consumers import PaymentEvents
from reservation_service.domain import Status
from servicekit.dead_letters import describe
from servicekit.kafka import Consumer, Producer, Record
from servicekit.kafka.delivery import RETRIES
from tests.reservation_service.conftest import (
    RealReservationStore,
    ids,
    make_service,
    new_seats,
)
from tests.reservation_service.test_reservation_edges import payment_event


async def new_topics(bootstrap: str) -> tuple[str, str]:
    """Creates an incoming and an outgoing topic for this test; other tests use the real ones."""
    number = next(ids)
    incoming, outgoing = f"payments-{number}", f"reservations-{number}"
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics(
        [NewTopic(name, 1, 1) for name in (incoming, f"{incoming}.dlq", outgoing)]
    )
    await admin.close()
    return incoming, outgoing


def retries(topic: str) -> float:
    """How many attempts of this topic's consumer have failed."""
    return float(RETRIES.labels(topic, topic)._value.get())


async def test_payment_events_through_kafka(
    kafka_bootstrap: str, real_store: RealReservationStore
) -> None:
    service = make_service(real_store)
    events = PaymentEvents(service)
    incoming, outgoing = await new_topics(kafka_bootstrap)

    async def handle(records: Sequence[Record]) -> Sequence[Record]:
        results = await events.handle(records)
        assert all(result.topic == RESERVATION_EVENTS for result in results)
        return [dataclasses.replace(result, topic=outgoing) for result in results]

    held = [await service.hold_seat(1, seat, "") for seat in new_seats(3)]
    payments = [next(ids) for _ in held]
    for reservation, payment in zip(held, payments, strict=True):
        await service.begin_payment(reservation.id, 1, payment, 0)
    # The third loses its seat before its success event.
    await real_store.lapse(held[2].id)
    await service.hold_seat(2, held[2].seats[0].id, "")

    sent = [
        payment_event(held[0].id, payments[0], "succeeded"),
        payment_event(2**62, payments[0], "succeeded"),
        # A payment that nobody made.
        payment_event(held[1].id, 999_999_999, "succeeded"),
        payment_event(held[1].id, payments[1], "failed"),
        payment_event(held[2].id, payments[2], "succeeded"),
    ]
    listener = AIOKafkaConsumer(
        outgoing, bootstrap_servers=kafka_bootstrap, auto_offset_reset="earliest"
    )
    await listener.start()
    consumer = asyncio.create_task(
        Consumer(bootstrap=kafka_bootstrap, group=incoming, topic=incoming, handler=handle).run()
    )
    try:
        async with Producer(kafka_bootstrap) as producer, asyncio.timeout(60):
            for _ in range(2):
                await producer.publish(
                    [dataclasses.replace(record, topic=incoming) for record in sent], timeout=20
                )
            # One partition: with the second of these, everything before it has been handled.
            lost = [
                events_pb2.ReservationEvent.FromString((await listener.getone()).value)
                for _ in range(2)
            ]
    finally:
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)
        await listener.stop()
    assert {(e.reservation_id, e.seat_lost.payment_id) for e in lost} == {(held[2].id, payments[2])}
    assert await real_store.stored(held[0].id) == Status.CONFIRMED
    assert await real_store.stored(held[1].id) == Status.HELD
    letters = await describe(f"{incoming}.dlq", kafka_bootstrap)
    # Each was sent twice, and became a letter at its first attempt.
    assert len(letters) == 4
    assert all("StrayPaymentEvent" in letter for letter in letters)
    assert retries(incoming) == 4
    assert (await service.count_seats([held[0].schedule_id])).sold == {held[0].schedule_id: 1}
