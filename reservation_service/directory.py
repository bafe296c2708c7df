"""What a seat is and costs: concert_service knows, and we remember for a while."""

from decimal import Decimal

import grpc

from protos.concert.v1 import concert_pb2, concert_pb2_grpc
from reservation_service.domain import Seat, SeatNotFound
from servicekit import client
from servicekit.rpc_errors import RemoteError
from servicekit.ttl_cache import TtlCache

# Its answer is one primary-key lookup: a second is patience enough.
BUDGET_SECONDS = 1.0
IDEMPOTENT = {"frontrow.concert.v1.ConcertService": ["GetSeat"]}


class ConcertDirectory:
    """The seats of concert_service over `channel`, remembered for `cache_seconds`."""

    def __init__(
        self, channel: grpc.aio.Channel, *, cached_seats: int, cache_seconds: float
    ) -> None:
        self._stub = concert_pb2_grpc.ConcertServiceStub(channel)
        self._seats: TtlCache[int, Seat] = TtlCache(max_size=cached_seats, ttl=cache_seconds)

    async def seat(self, seat_id: int) -> Seat:
        """Raises SeatNotFound, and RemoteError if concert_service cannot tell."""
        seat = self._seats.get(seat_id)
        if seat is None:
            request = concert_pb2.GetSeatRequest(seat_id=seat_id)
            try:
                found = await client.call(self._stub.GetSeat, request, budget=BUDGET_SECONDS)
            except RemoteError as error:
                if error.code == SeatNotFound.code:
                    raise SeatNotFound(seat_id) from None
                raise
            seat = Seat(found.id, found.schedule_id, found.seat_num, Decimal(found.price))
            self._seats.put(seat_id, seat)
        return seat
