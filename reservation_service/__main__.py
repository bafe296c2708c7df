"""Runs reservation_service: `python -m reservation_service`."""

from functools import partial

from catalogue_view.follower import CatalogueFollower
from protos.frontrow.concert.v1.catalogue_pb2_grpc import CatalogueServiceStub
from protos.frontrow.concert.v1.concert_pb2_grpc import ConcertServiceStub
from protos.frontrow.reservation.v1 import reservation_pb2, reservation_pb2_grpc
from protos.topics import PAYMENT_EVENTS, RESERVATION_GROUP
from reservation_service.consumers import PaymentEvents
from reservation_service.directory import IDEMPOTENT, GrpcSeatDirectory
from reservation_service.hold_repository import HoldRepository
from reservation_service.house_repository import HouseRepository
from reservation_service.house_service import HouseService
from reservation_service.house_servicer import HouseServicer
from reservation_service.locks import RedisSeatLocks
from reservation_service.payment_repository import PaymentRepository
from reservation_service.repository import ReservationRepository
from reservation_service.service import ReservationService
from reservation_service.servicer import ReservationServicer
from reservation_service.settings import Settings
from reservation_service.sweep import run_sweep
from seat_maps.decoding import MAX_RESPONSE_BYTES
from servicekit import client, logs, redis_client
from servicekit.kafka import Consumer
from servicekit.mysql import Database
from servicekit.server import Server, run
from servicekit.settings import load, warn_of_unknown


async def main() -> None:
    settings = load(Settings)
    logs.configure(settings.log_level)
    warn_of_unknown(settings)
    async with (
        Database(settings.mysql_url, max_size=settings.mysql_connections) as database,
        redis_client.connect(settings.redis_url, timeout=settings.redis_timeout_seconds) as redis,
        client.connect(
            settings.concert_addr, idempotent=IDEMPOTENT, max_response_bytes=MAX_RESPONSE_BYTES
        ) as concerts,
        Server(settings, "reservation_service") as server,
    ):
        directory = GrpcSeatDirectory(
            ConcertServiceStub(concerts),
            max_bytes=settings.seat_maps_mb * 1_000_000,
            cache_seconds=settings.cache_seconds,
        )
        service = ReservationService(
            ReservationRepository(database),
            HoldRepository(database),
            PaymentRepository(database),
            directory,
            RedisSeatLocks(redis, lock_seconds=settings.lock_seconds),
            hold_seconds=settings.hold_seconds,
            cool_down_seconds=(
                settings.hold_seconds
                if settings.cool_down_seconds is None
                else settings.cool_down_seconds
            ),
            payment_lease_seconds=settings.payment_lease_seconds,
            retention_days=settings.retention_days,
            max_seats=settings.max_seats,
            max_seats_per_schedule=settings.max_seats_per_schedule,
            refuse_single_seats=settings.refuse_single_seats,
        )
        server.add(
            reservation_pb2_grpc.add_ReservationServiceServicer_to_server,
            ReservationServicer(service),
            reservation_pb2.DESCRIPTOR,
        )
        server.add(
            reservation_pb2_grpc.add_ReservationAdminServiceServicer_to_server,
            HouseServicer(HouseService(HouseRepository(database))),
            reservation_pb2.DESCRIPTOR,
        )
        server.add_background(
            "catalogue", CatalogueFollower(CatalogueServiceStub(concerts), directory.apply).run
        )
        if settings.sweep_interval_seconds:
            server.add_background(
                "sweep", partial(run_sweep, service, settings.sweep_interval_seconds)
            )
        server.add_background(
            PAYMENT_EVENTS,
            Consumer(
                bootstrap=settings.kafka_bootstrap,
                group=RESERVATION_GROUP,
                topic=PAYMENT_EVENTS,
                handler=PaymentEvents(service).handle,
                session_timeout=settings.kafka_session_seconds,
            ).run,
        )
        await server.serve()


if __name__ == "__main__":
    run(main)
