"""Runs payment_service: `python -m payment_service`."""

import asyncio
import contextlib

import httpx

from payment_service.consumers import ReservationEvents
from payment_service.outbox import Outbox
from payment_service.ports import PaymentProvider
from payment_service.providers.breaker import CircuitBreaker
from payment_service.providers.guarded import GuardedProvider
from payment_service.providers.http import HttpProvider
from payment_service.providers.sandbox import SandboxProvider
from payment_service.recovery import Recovery
from payment_service.relay import Relay
from payment_service.repository import PaymentRepository
from payment_service.reservations import GrpcReservations
from payment_service.saga import Saga
from payment_service.service import PaymentService
from payment_service.servicer import PaymentServicer
from payment_service.settings import Settings
from protos.frontrow.payment.v1 import payment_pb2, payment_pb2_grpc
from protos.frontrow.reservation.v1 import reservation_pb2_grpc
from protos.topics import PAYMENT_GROUP, RESERVATION_EVENTS
from servicekit import client, logs
from servicekit.kafka import Consumer, Producer
from servicekit.mysql import Database
from servicekit.server import Server, run
from servicekit.settings import load


async def main() -> None:
    settings = load(Settings)
    logs.configure(settings.log_level)
    async with contextlib.AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            Database(settings.mysql_url, max_size=settings.mysql_connections)
        )
        producer = await stack.enter_async_context(Producer(settings.kafka_bootstrap))
        channel = await stack.enter_async_context(client.connect(settings.reservation_addr))
        stub = reservation_pb2_grpc.ReservationServiceStub(channel)
        provider = GuardedProvider(
            await _connect_provider(settings, stack),
            timeout=settings.provider_timeout_seconds,
            breaker=CircuitBreaker(settings.breaker_failures, settings.breaker_open_seconds),
        )

        committed = asyncio.Event()
        payments = PaymentRepository(database, committed)
        saga = Saga(
            payments,
            GrpcReservations(stub, settings.reservation_timeout_seconds),
            provider,
            renewal_seconds=settings.hold_renewal_seconds,
        )
        service = PaymentService(
            payments,
            provider,
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
        relay = Relay(database, Outbox(), producer, committed)

        consumer = Consumer(
            bootstrap=settings.kafka_bootstrap,
            group=PAYMENT_GROUP,
            topic=RESERVATION_EVENTS,
            handler=ReservationEvents(service).handle,
        )
        async with Server(settings, "payment_service") as server:
            server.add(
                payment_pb2_grpc.add_PaymentServiceServicer_to_server,
                PaymentServicer(service),
                payment_pb2.DESCRIPTOR,
            )
            server.add_background("recovery", recovery.run)
            server.add_background("relay", relay.run)
            server.add_background("reservation events", consumer.run)
            await server.serve()
            # Drivers whose callers have hung up; the relay still sends what they commit.
            await service.drain(settings.drain_seconds)


async def _connect_provider(
    settings: Settings, stack: contextlib.AsyncExitStack
) -> PaymentProvider:
    if settings.provider == "sandbox":
        book = await stack.enter_async_context(
            Database(settings.mysql_url, max_size=settings.mysql_connections)
        )
        return SandboxProvider(book)
    return HttpProvider(
        await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=settings.http_base_url,
                headers={"Authorization": f"Bearer {settings.http_api_key.get_secret_value()}"},
                timeout=settings.provider_timeout_seconds,
            )
        )
    )


if __name__ == "__main__":
    run(main)
