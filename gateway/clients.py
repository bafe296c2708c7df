"""Connections to the four services behind the gateway."""

import asyncio
from collections.abc import Sequence
from functools import partial

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from catalogue_view.cohorts import Cohorts
from gateway.catalogue import Catalogue
from gateway.draws import Draws
from gateway.holds import SeatHolds
from gateway.payments import Payments
from gateway.rooms import Rooms
from gateway.schedule_dates import list_dates
from gateway.seats_left import CALL_SECONDS, SeatsLeft
from gateway.settings import Settings
from protos.frontrow.concert.v1.catalogue_pb2_grpc import CatalogueServiceStub
from protos.frontrow.concert.v1.concert_pb2_grpc import ConcertServiceStub
from protos.frontrow.concert.v1.rooms_pb2_grpc import DrawServiceStub
from protos.frontrow.payment.v1.payment_pb2_grpc import PaymentServiceStub
from protos.frontrow.queue.v1.queue_pb2_grpc import QueueServiceStub
from protos.frontrow.reservation.v1 import reservation_pb2
from protos.frontrow.reservation.v1.reservation_pb2_grpc import ReservationServiceStub
from seat_maps.decoding import MAX_RESPONSE_BYTES
from servicekit.background import keep_running
from servicekit.client import call, connect
from servicekit.errors import ServiceError

_READINESS_BUDGET_SECONDS = 1.0

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
    "frontrow.payment.v1.PaymentService": [
        "Pay",
        "PayReservations",
        "GetPaymentOfReservation",
    ],
}


class Clients:
    """One channel and one stub for each service, batchers for the calls that travel in groups, and
    the waiting rooms.

    Create it inside the event loop that uses it; `close()` it at the end.
    """

    def __init__(self, settings: Settings) -> None:
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
        draws = DrawServiceStub(self._channels["concert_service"])
        self.rooms = Rooms(self.queue, settings, Cohorts(draws))
        self.draws = Draws(draws, self.rooms, settings.read_budget_seconds)
        self.catalogue = Catalogue(
            CatalogueServiceStub(self._channels["concert_service"]), self.rooms
        )
        seats_left = SeatsLeft(
            self.rooms,
            self.catalogue,
            partial(list_dates, self.concert, budget=settings.read_budget_seconds),
            self._count_sold_seats,
            facts_ttl=settings.facts_ttl_seconds,
        )
        work = {"catalogue": self.catalogue.run, "seats_left": seats_left.run}
        self._background = [
            asyncio.create_task(keep_running(name, run)) for name, run in work.items()
        ]
        self.holds = SeatHolds(self.reservation, settings.write_budget_seconds)
        self.payments = Payments(self.payment, settings.pay_budget_seconds)

    async def _count_sold_seats(
        self, schedule_ids: Sequence[int]
    ) -> reservation_pb2.CountSoldSeatsResponse:
        return await call(
            self.reservation.CountSoldSeats,
            reservation_pb2.CountSoldSeatsRequest(schedule_ids=schedule_ids),
            budget=CALL_SECONDS,
        )

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
        await asyncio.wait(self._background)
        await self.rooms.close()
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))
        if self.challenge_provider is not None:
            await self.challenge_provider.aclose()
