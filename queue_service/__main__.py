"""Runs queue_service: `python -m queue_service`."""

from catalogue_view.cohorts import Cohorts
from catalogue_view.follower import CatalogueFollower
from protos.frontrow.concert.v1.catalogue_pb2_grpc import CatalogueServiceStub
from protos.frontrow.concert.v1.rooms_pb2_grpc import DrawServiceStub
from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc
from protos.topics import PAYMENT_EVENTS, QUEUE_GROUP
from queue_service.admin_guard import AdminGuard
from queue_service.consumers import PaymentEvents
from queue_service.draws import RoomDraw
from queue_service.ports import MAX_BLOCK_MS
from queue_service.repository import QueueRepository
from queue_service.rooms import Rooms
from queue_service.service import QueueService
from queue_service.servicer import QueueAdminServicer, QueueServicer
from queue_service.settings import Settings
from queue_service.tokens import Signer
from room_view.position import Pacing
from servicekit import client, logs, redis_client
from servicekit.kafka import Consumer
from servicekit.server import Server, run
from servicekit.settings import load, warn_of_unknown


async def main() -> None:
    settings = load(Settings)
    logs.configure(settings.log_level)
    warn_of_unknown(settings)
    async with (
        # One retry, so that a connection that Redis closed meanwhile causes no error; every
        # script is idempotent.
        redis_client.connect(
            settings.redis_url, timeout=settings.redis_timeout_seconds, retries=1
        ) as redis,
        redis_client.connect(
            settings.redis_url,
            timeout=settings.redis_timeout_seconds,
            block=MAX_BLOCK_MS / 1000,
        ) as blocking_redis,
        client.connect(settings.concert_addr) as concert_channel,
        Server(settings, "queue_service") as server,
    ):
        store = QueueRepository(redis, settings.rules, settings.limits, blocking_redis)
        service = QueueService(
            store,
            Signer(settings.token_signing_key_id, settings.signing_secret),
            Pacing(settings.room_rules),
            settings.rooms,
        )
        cohorts = Cohorts(DrawServiceStub(concert_channel))
        rooms = Rooms(
            service,
            store,
            settings.rooms,
            settings.limits,
            settings.room_rules,
            settings.tick_seconds,
            lambda name: RoomDraw(store, cohorts, name),
        )
        server.add(
            queue_pb2_grpc.add_QueueServiceServicer_to_server,
            QueueServicer(service, rooms.watchers, settings.rules.source_interval_ms),
            queue_pb2.DESCRIPTOR,
        )
        server.add(
            queue_pb2_grpc.add_QueueAdminServiceServicer_to_server,
            QueueAdminServicer(service, AdminGuard(settings.admin_secret, settings.listen)),
            queue_pb2.DESCRIPTOR,
        )
        server.add_background("rooms", rooms.run)
        server.add_streams(rooms.end_streams)
        server.add_background(
            "catalogue", CatalogueFollower(CatalogueServiceStub(concert_channel), rooms.apply).run
        )
        server.add_background(
            PAYMENT_EVENTS,
            Consumer(
                bootstrap=settings.kafka_bootstrap,
                group=QUEUE_GROUP,
                topic=PAYMENT_EVENTS,
                handler=PaymentEvents(service).handle,
                session_timeout=settings.kafka_session_seconds,
            ).run,
        )
        await server.serve()


if __name__ == "__main__":
    run(main)
