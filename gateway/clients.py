"""Connections to the four services behind the gateway."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.holds import SeatHolds
from gateway.room.answers import RoomAnswers
from gateway.room.copy import RoomCopy
from gateway.room.healing import Healing
from gateway.room.outage import QueueOutage
from gateway.room.signs import SignsOfLife
from gateway.room.watch import RoomWatch
from gateway.settings import Settings
from gateway.tokens import renew_issued_before
from protos.frontrow.concert.v1.concert_pb2_grpc import ConcertServiceStub
from protos.frontrow.payment.v1.payment_pb2_grpc import PaymentServiceStub
from protos.frontrow.queue.v1 import queue_pb2
from protos.frontrow.queue.v1.queue_pb2_grpc import QueueServiceStub
from protos.frontrow.reservation.v1.reservation_pb2_grpc import ReservationServiceStub
from protos.limits import MAX_ITEMS
from seat_maps.decoding import MAX_RESPONSE_BYTES
from servicekit.background import keep_running
from servicekit.batching import Batcher
from servicekit.client import call, connect
from servicekit.errors import ServiceError, Unavailable

_READINESS_BUDGET_SECONDS = 1.0
# An answer of an epoch that is over arrives once: the next one knows the newer epoch.
_MOST_ASKED = 2

# Idempotent methods: gRPC may retry these when a service was unavailable.
_IDEMPOTENT = {
    "frontrow.queue.v1.QueueService": ["EnterQueue", "GetPositions", "LeaveQueue", "HandBack"],
    "frontrow.concert.v1.ConcertService": ["ListConcerts", "ListSchedules", "GetSeatMaps"],
    "frontrow.reservation.v1.ReservationService": [
        "GetReservation",
        "CancelReservation",
        "CancelHolds",
        "GetTakenSeats",
        "CountSoldSeats",
    ],
    "frontrow.payment.v1.PaymentService": ["Pay", "GetPaymentOfReservation"],
}


class Entry(NamedTuple):
    """A user who enters, and what the gateway knows about the user."""

    user_id: int
    entrant: queue_pb2.EnterQueueRequest.Entrant


class Clients:
    """One channel and one stub for each service, batchers for the calls that travel in groups, and
    the copy of the room that queue_service keeps up to date.

    Create it inside the event loop that uses it; `close()` it at the end.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._channels: dict[str, grpc.aio.Channel] = {
            "queue_service": connect(settings.queue_addr, idempotent=_IDEMPOTENT),
            "concert_service": connect(
                settings.concert_addr,
                idempotent=_IDEMPOTENT,
                max_response_bytes=MAX_RESPONSE_BYTES,
            ),
            "reservation_service": connect(settings.reservation_addr, idempotent=_IDEMPOTENT),
            "payment_service": connect(settings.payment_addr, idempotent=_IDEMPOTENT),
        }
        self.queue = QueueServiceStub(self._channels["queue_service"])
        self.concert = ConcertServiceStub(self._channels["concert_service"])
        self.reservation = ReservationServiceStub(self._channels["reservation_service"])
        self.payment = PaymentServiceStub(self._channels["payment_service"])
        self.challenge_provider = httpx.AsyncClient() if settings.challenge == "http" else None
        signs = SignsOfLife()
        self.room_copy = RoomCopy(settings.room_fresh_seconds)
        self.room = RoomAnswers(self.room_copy, signs, QueueOutage(settings.room_outage_seconds))
        self.room_watch = (
            RoomWatch(self.queue, settings.room, self.room_copy, signs)
            if settings.room_view
            else None
        )
        self._background: list[asyncio.Task[None]] = []
        if self.room_watch is not None:
            healing = Healing(self.room_copy, signs, self._hand_back, settings.room)
            work = {"room_watch": self.room_watch.run, "room_healing": healing.run}
            self._background = [
                asyncio.create_task(keep_running(name, run)) for name, run in work.items()
            ]
        budget = settings.read_budget_seconds
        self.positions = Batcher[queue_pb2.Place, queue_pb2.Position](
            self._get_positions,
            budget=budget,
            max_batch=MAX_ITEMS,
            longest_pause=settings.batch_pause_seconds,
        )
        self.entries = Batcher[Entry, queue_pb2.EnterQueueResponse.Result](
            self._enter_queue,
            budget=budget,
            max_batch=MAX_ITEMS,
            longest_pause=settings.batch_pause_seconds,
        )
        self.holds = SeatHolds(self.reservation, settings.write_budget_seconds)

    async def _get_positions(
        self, places: Sequence[queue_pb2.Place]
    ) -> Sequence[queue_pb2.Position]:
        for _ in range(_MOST_ASKED):
            response = await call(
                self.queue.GetPositions,
                queue_pb2.GetPositionsRequest(
                    places=places,
                    renew_issued_before=renew_issued_before(self._settings.token_max_age_seconds),
                    memory=self.room_copy.memory(),
                ),
                budget=self._settings.read_budget_seconds,
            )
            positions = self.room.believed(places, response)
            if positions is not None:
                return positions
        raise Unavailable("The waiting room has answered from a store that was replaced.")

    async def _enter_queue(
        self, entries: Sequence[Entry]
    ) -> Sequence[queue_pb2.EnterQueueResponse.Result]:
        response = await call(
            self.queue.EnterQueue,
            queue_pb2.EnterQueueRequest(
                room=self._settings.room,
                user_ids=[entry.user_id for entry in entries],
                entrants=[entry.entrant for entry in entries],
                renew_issued_before=renew_issued_before(self._settings.token_max_age_seconds),
                memory=self.room_copy.memory(),
            ),
            budget=self._settings.read_budget_seconds,
        )
        return response.results

    async def _hand_back(self, request: queue_pb2.HandBackRequest) -> queue_pb2.HandBackResponse:
        return await call(self.queue.HandBack, request, budget=self._settings.write_budget_seconds)

    async def unavailable_services(self) -> list[str]:
        """Returns the names of the services whose health check does not succeed within one
        second."""

        async def is_healthy(channel: grpc.aio.Channel) -> bool:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                response: health_pb2.HealthCheckResponse = await call(
                    stub.Check,
                    health_pb2.HealthCheckRequest(),
                    budget=_READINESS_BUDGET_SECONDS,
                )
            except ServiceError:
                return False
            return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

        results = await asyncio.gather(*(is_healthy(c) for c in self._channels.values()))
        return [name for name, healthy in zip(self._channels, results, strict=True) if not healthy]

    async def close(self) -> None:
        """Closes the channels and cancels calls in progress."""
        for task in self._background:
            task.cancel()
        if self._background:
            await asyncio.wait(self._background)
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))
        if self.challenge_provider is not None:
            await self.challenge_provider.aclose()
