"""The four services behind the gateway, and whether they answer."""

import asyncio
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.settings import GatewaySettings
from protos.frontrow.concert.v1.concert_pb2_grpc import ConcertServiceStub
from protos.frontrow.payment.v1.payment_pb2_grpc import PaymentServiceStub
from protos.frontrow.queue.v1 import queue_pb2
from protos.frontrow.queue.v1.queue_pb2_grpc import QueueServiceStub
from protos.frontrow.reservation.v1.reservation_pb2_grpc import ReservationServiceStub
from servicekit.batching import Batcher
from servicekit.client import call, connect
from servicekit.errors import ServiceError

_READINESS_BUDGET_SECONDS = 1.0
# What queue_service takes in one call.
_MAX_BATCH = 256

# What gRPC may send again when a service was unavailable: all that is idempotent.
_IDEMPOTENT = {
    "frontrow.queue.v1.QueueService": ["EnterQueue", "GetPositions", "LeaveQueue"],
    "frontrow.concert.v1.ConcertService": ["ListConcerts", "ListSchedules", "ListSeats"],
    "frontrow.reservation.v1.ReservationService": [
        "GetReservation",
        "CancelReservation",
        "ListTakenSeats",
        "CountSoldSeats",
    ],
    "frontrow.payment.v1.PaymentService": ["Pay", "GetPaymentOfReservation"],
}


class Clients:
    """One channel and stub per service, and the batchers over the waiting room's calls.

    Make it inside the event loop that uses it. `close()` at the end.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._channels: dict[str, grpc.aio.Channel] = {
            "queue_service": connect(settings.queue_addr, idempotent=_IDEMPOTENT),
            "concert_service": connect(settings.concert_addr, idempotent=_IDEMPOTENT),
            "reservation_service": connect(settings.reservation_addr, idempotent=_IDEMPOTENT),
            "payment_service": connect(settings.payment_addr, idempotent=_IDEMPOTENT),
        }
        self.queue = QueueServiceStub(self._channels["queue_service"])
        self.concert = ConcertServiceStub(self._channels["concert_service"])
        self.reservation = ReservationServiceStub(self._channels["reservation_service"])
        self.payment = PaymentServiceStub(self._channels["payment_service"])
        budget = settings.read_budget_seconds
        self.positions = Batcher[queue_pb2.Place, queue_pb2.Position](
            self._get_positions,
            budget=budget,
            max_batch=_MAX_BATCH,
            longest_pause=settings.batch_pause_seconds,
        )
        self.entries = Batcher[int, queue_pb2.EnterQueueResponse.Result](
            self._enter_queue,
            budget=budget,
            max_batch=_MAX_BATCH,
            longest_pause=settings.batch_pause_seconds,
        )

    async def _get_positions(
        self, places: Sequence[queue_pb2.Place]
    ) -> Sequence[queue_pb2.Position]:
        reply = await call(
            self.queue.GetPositions,
            queue_pb2.GetPositionsRequest(places=places),
            budget=self._settings.read_budget_seconds,
        )
        return reply.positions

    async def _enter_queue(
        self, user_ids: Sequence[int]
    ) -> Sequence[queue_pb2.EnterQueueResponse.Result]:
        reply = await call(
            self.queue.EnterQueue,
            queue_pb2.EnterQueueRequest(room=self._settings.room, user_ids=user_ids),
            budget=self._settings.read_budget_seconds,
        )
        return reply.results

    async def not_ready(self) -> list[str]:
        """The names of the services that do not answer their health check within a second."""

        async def is_ready(channel: grpc.aio.Channel) -> bool:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                reply: health_pb2.HealthCheckResponse = await call(
                    stub.Check,
                    health_pb2.HealthCheckRequest(),
                    budget=_READINESS_BUDGET_SECONDS,
                )
            except ServiceError:
                return False
            return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

        answers = await asyncio.gather(*(is_ready(c) for c in self._channels.values()))
        return [name for name, ready in zip(self._channels, answers, strict=True) if not ready]

    async def close(self) -> None:
        """Closes the channels; calls under way are cancelled."""
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))
