"""The four fake services behind one gRPC server."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from protos.frontrow.concert.v1 import catalogue_pb2_grpc, concert_pb2_grpc, rooms_pb2_grpc
from protos.frontrow.payment.v1 import payment_pb2_grpc
from protos.frontrow.queue.v1 import queue_pb2_grpc
from protos.frontrow.reservation.v1 import reservation_pb2_grpc
from servicekit.server import Server
from servicekit.settings import ServiceSettings
from tests.gateway.fakes.catalogue import FakeCatalogue
from tests.gateway.fakes.concerts import FakeConcerts
from tests.gateway.fakes.draws import FakeDraws
from tests.gateway.fakes.faults import Faults
from tests.gateway.fakes.payments import FakePayments
from tests.gateway.fakes.queue import FakeQueue
from tests.gateway.fakes.reservations import FakeReservations
from tests.gateway.fakes.tokens import sign


@dataclass
class Services:
    """All four services on one address."""

    faults: Faults = field(default_factory=Faults)
    address: str = ""

    def __post_init__(self) -> None:
        self.queue = FakeQueue(self.faults)
        self.concerts = FakeConcerts(self.faults)
        self.catalogue = FakeCatalogue()
        self.draws = FakeDraws(self.faults)
        self.reservations = FakeReservations(self.faults, self.concerts)
        self.payments = FakePayments(self.faults, self.reservations, self.queue)
        self.health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Serves them like the real ones, without signals and metrics."""
        settings = ServiceSettings(listen="127.0.0.1:0", metrics_listen="127.0.0.1:0")
        self._server = server = Server(settings, "fakes").grpc
        queue_pb2_grpc.add_QueueServiceServicer_to_server(self.queue, server)
        concert_pb2_grpc.add_ConcertServiceServicer_to_server(self.concerts, server)
        catalogue_pb2_grpc.add_CatalogueServiceServicer_to_server(self.catalogue, server)
        rooms_pb2_grpc.add_DrawServiceServicer_to_server(self.draws, server)
        reservation_pb2_grpc.add_ReservationServiceServicer_to_server(self.reservations, server)
        payment_pb2_grpc.add_PaymentServiceServicer_to_server(self.payments, server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        port = server.add_insecure_port(settings.listen)
        await server.start()
        self.address = f"127.0.0.1:{port}"

    async def reset(self) -> None:
        """Restores the initial state of all four."""
        self.faults.reset()
        self.queue.reset()
        self.concerts.reset()
        self.catalogue.reset()
        self.draws.reset()
        self.reservations.reset()
        self.payments.reset()
        await self.health.set("", health_pb2.HealthCheckResponse.SERVING)

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)

    def token(self, user_id: int = 42, room: str = "main") -> str:
        """Returns the token of the user's place; enters if needed. Admitted while there is room."""
        return sign(self.queue.enter(user_id, room))

    def waiting_token(self, user_id: int = 42) -> str:
        """Returns the token of a waiting user."""
        self.queue.capacity = 0
        return self.token(user_id)

    def ended_token(self, user_id: int = 42) -> str:
        """Returns the token of a user whose place has ended."""
        place = self.queue.enter(user_id)
        self.queue.end(place.number)
        return sign(place)

    def numbers(self, method: str) -> Iterable[int]:
        """Yields the number of items of each call of a batched method."""
        for call in self.faults.of(method):
            yield len(call.request.places if method == "GetPositions" else call.request.user_ids)
