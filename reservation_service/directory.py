"""Seats of concert_service, cached for a while."""

from collections.abc import Sequence
from decimal import Decimal

from cachetools import TLRUCache

from protos.frontrow.concert.v1 import concert_pb2, concert_pb2_grpc
from reservation_service.domain import Seat, SeatNotFound
from servicekit import call_context, client
from servicekit.batching import Batcher
from servicekit.clock import seconds_to_midnight

# GetSeats is one lookup by primary key.
BUDGET_SECONDS = 1.0
IDEMPOTENT = {"frontrow.concert.v1.ConcertService": ["GetSeats"]}
# The most seats that GetSeats accepts.
BATCH = 1000


class GrpcSeatDirectory:
    """Implements `ports.SeatDirectory` over concert_service. Caches at most `cached_seats` seats,
    each for `cache_seconds`.

    Lookups are batched: at the start of a sale hardly any seat is cached, and a call per seat would
    cost more than its reservation.
    """

    def __init__(
        self,
        stub: "concert_pb2_grpc.ConcertServiceAsyncStub",
        *,
        cached_seats: int,
        cache_seconds: float,
    ) -> None:
        self._stub = stub
        # Entries expire at midnight at the latest: the seats of a past date count as not found.
        self._seats: TLRUCache[int, Seat] = TLRUCache(
            cached_seats, ttu=lambda _, __, now: now + min(cache_seconds, seconds_to_midnight())
        )
        self._lookups = Batcher[int, Seat | None](
            self._get_seats, budget=BUDGET_SECONDS, max_batch=BATCH
        )

    async def seat(self, seat_id: int) -> Seat:
        """Returns a seat. Raises SeatNotFound, and RemoteError or TimedOut if concert_service does
        not answer. Takes at most the time of two calls, 2 seconds."""
        seat = self._seats.get(seat_id)
        if seat is None:
            seat = await self._lookups.submit(seat_id)
            if seat is None:
                raise SeatNotFound(seat_id)
        return seat

    async def _get_seats(self, seat_ids: Sequence[int]) -> list[Seat | None]:
        # A batch serves many callers: the deadline of the first must not apply to the others.
        call_context.set_deadline(BUDGET_SECONDS)
        # A set, because several callers may want the same seat.
        request = concert_pb2.GetSeatsRequest(seat_ids=set(seat_ids))
        response = await client.call(self._stub.GetSeats, request, budget=BUDGET_SECONDS)
        seats = {
            seat.id: Seat(seat.id, seat.schedule_id, seat.seat_num, Decimal(seat.price))
            for seat in response.seats
        }
        for seat in seats.values():
            self._seats[seat.id] = seat
        return [seats.get(seat_id) for seat_id in seat_ids]
