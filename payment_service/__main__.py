"""Runs payment_service: `python -m payment_service`."""

from payment_service.consumers import ReservationEvents
from payment_service.outbox import CommittedEvents, OutboxRepository
from payment_service.providers import connect_provider
from payment_service.providers.breaker import CircuitBreaker
from payment_service.providers.guarded import GuardedProvider
from payment_service.providers.sandbox import SandboxBook
from payment_service.recovery import Recovery
from payment_service.relay import Relay
from payment_service.repository import PaymentRepository
from payment_service.reservations import GrpcReservations
from payment_service.retention import INTERVAL_SECONDS, Retention
from payment_service.saga import Saga
from payment_service.service import PaymentService
from payment_service.servicer import PaymentServicer
from payment_service.settings import Settings
from protos.frontrow.payment.v1 import payment_pb2, payment_pb2_grpc
from protos.frontrow.reservation.v1.reservation_pb2_grpc import ReservationServiceStub
from protos.topics import PAYMENT_GROUP, RESERVATION_EVENTS
from servicekit import client, logs
from servicekit.kafka import Consumer, Producer
from servicekit.mysql import Database
from servicekit.server import Server, run
from servicekit.settings import load, warn_of_unknown


async def main() -> None:
    settings = load(Settings)
    logs.configure(settings.log_level)
    warn_of_unknown(settings)
    async with (
        Database(settings.mysql_url, max_size=settings.mysql_connections) as database,
        Producer(settings.kafka_bootstrap) as producer,
        Producer(settings.kafka_bootstrap) as backlog,
        Producer(settings.kafka_bootstrap) as aside,
        client.connect(settings.reservation_addr) as reservations,
        connect_provider(settings) as provider,
        Server(settings, "payment_service") as server,
    ):
        committed = CommittedEvents()
        payments = PaymentRepository(database, committed)
        guarded_provider = GuardedProvider(
            provider,
            timeout=settings.provider_timeout_seconds,
            breaker=CircuitBreaker(settings.breaker_failures, settings.breaker_open_seconds),
        )
        saga = Saga(
            payments,
            GrpcReservations(
                ReservationServiceStub(reservations),
                budget=settings.reservation_timeout_seconds,
            ),
            guarded_provider,
            renewal_seconds=settings.hold_renewal_seconds,
        )
        service = PaymentService(
            payments,
            guarded_provider,
            saga,
            lease_seconds=settings.lease_seconds,
            wait_seconds=settings.default_deadline_seconds,
        )
        recovery = Recovery(
            payments,
            saga,
            interval=settings.recovery_interval_seconds,
            lease_seconds=settings.lease_seconds,
        )
        retention = Retention(
            payments,
            SandboxBook(database),
            interval=INTERVAL_SECONDS,
            failed_days=settings.failed_retention_days,
            sandbox_days=settings.sandbox_retention_days,
        )
        relay = Relay(OutboxRepository(database), producer, backlog, aside, committed)
        server.add(
            payment_pb2_grpc.add_PaymentServiceServicer_to_server,
            PaymentServicer(service),
            payment_pb2.DESCRIPTOR,
        )
        server.add_background("recovery", recovery.run)
        server.add_background("relay", relay.run)
        server.add_background("retention", retention.run)
        server.add_background(
            RESERVATION_EVENTS,
            Consumer(
                bootstrap=settings.kafka_bootstrap,
                group=PAYMENT_GROUP,
                topic=RESERVATION_EVENTS,
                handler=ReservationEvents(service).handle,
                session_timeout=settings.kafka_session_seconds,
            ).run,
        )
        await server.serve()
        # The drivers whose callers have disconnected. The relay still sends what they commit.
        await service.drain(settings.drain_seconds)


if __name__ == "__main__":
    run(main)
