"""What a seat is and costs: concert_service knows, and we remember for a while."""

from collections.abc import Sequence
from decimal import Decimal

import grpc
from cachetools import TLRUCache

from protos.frontrow.concert.v1 import concert_pb2, concert_pb2_grpc
from reservation_service.domain import Seat, SeatNotFound
from servicekit import call_context, client
from servicekit.batching import Batcher
from servicekit.clock import seconds_to_midnight

# Its answer is one look-up by primary key: a second is patience enough.
BUDGET_SECONDS = 1.0
IDEMPOTENT = {"frontrow.concert.v1.ConcertService": ["GetSeats"]}
# What concert_service takes in one call.
BATCH = 1000


class ConcertDirectory:
    """The seats of concert_service over `channel`, remembered for `cache_seconds`.

    Look-ups are batched: when a sale begins hardly a seat is remembered, and a call for each would
    cost more than reserving it.
    """

    def __init__(
        self, channel: grpc.aio.Channel, *, cached_seats: int, cache_seconds: float
    ) -> None:
        self._stub = concert_pb2_grpc.ConcertServiceStub(channel)
        # Entries end at midnight at the latest: the seats of a past date count as not found.
        self._seats: TLRUCache[int, Seat] = TLRUCache(
            cached_seats, ttu=lambda _, __, now: now + min(cache_seconds, seconds_to_midnight())
        )
        self._look_ups = Batcher[int, Seat | None](
            self._get, budget=BUDGET_SECONDS, max_batch=BATCH
        )

    async def seat(self, seat_id: int) -> Seat:
        """Raises SeatNotFound, and RemoteError or TimedOut if concert_service cannot tell. Takes
        at most the time of two calls."""
        seat = self._seats.get(seat_id)
        if seat is None:
            seat = await self._look_ups.submit(seat_id)
            if seat is None:
                raise SeatNotFound(seat_id)
        return seat

    async def _get(self, seat_ids: Sequence[int]) -> list[Seat | None]:
        # The deadlines of those who wait are their own affair.
        call_context.set_deadline(BUDGET_SECONDS)
        # A crowd may want the same seat.
        request = concert_pb2.GetSeatsRequest(seat_ids=set(seat_ids))
        reply = await client.call(self._stub.GetSeats, request, budget=BUDGET_SECONDS)
        seats = {
            seat.id: Seat(seat.id, seat.schedule_id, seat.seat_num, Decimal(seat.price))
            for seat in reply.seats
        }
        for seat in seats.values():
            self._seats[seat.id] = seat
        return [seats.get(seat_id) for seat_id in seat_ids]
