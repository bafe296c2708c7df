"""What a seat is and costs: concert_service knows, and we remember for a while."""

import asyncio
import itertools
from decimal import Decimal

import grpc

from protos.concert.v1 import concert_pb2, concert_pb2_grpc
from reservation_service.domain import Seat, SeatNotFound
from servicekit import call_context, client
from servicekit.ttl_cache import TtlCache

# Its answer is one look-up by primary key: a second is patience enough.
BUDGET_SECONDS = 1.0
IDEMPOTENT = {"frontrow.concert.v1.ConcertService": ["GetSeats"]}
# What concert_service takes in one call.
BATCH = 1000


class ConcertDirectory:
    """The seats of concert_service over `channel`, remembered for `cache_seconds`.

    While one call is under way, those who ask meanwhile are collected for the next: when a sale
    begins hardly a seat is remembered, and a call for each would cost more than reserving it.
    """

    def __init__(
        self, channel: grpc.aio.Channel, *, cached_seats: int, cache_seconds: float
    ) -> None:
        self._stub = concert_pb2_grpc.ConcertServiceStub(channel)
        self._seats: TtlCache[int, Seat] = TtlCache(max_size=cached_seats, ttl=cache_seconds)
        self._wanted: dict[int, asyncio.Future[Seat | None]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def seat(self, seat_id: int) -> Seat:
        """Raises SeatNotFound, and RemoteError if concert_service cannot tell. Takes at most the
        time of two calls."""
        seat = self._seats.get(seat_id)
        if seat is None:
            # Several may wait for it; one that is cancelled takes nothing from the others.
            seat = await asyncio.shield(self._look_up(seat_id))
            if seat is None:
                raise SeatNotFound(seat_id)
        return seat

    def _look_up(self, seat_id: int) -> asyncio.Future[Seat | None]:
        answer = self._wanted.get(seat_id)
        if answer is None:
            answer = self._wanted[seat_id] = asyncio.get_running_loop().create_future()
            if self._asking is None:
                self._asking = asyncio.create_task(self._ask())
        return answer

    async def _ask(self) -> None:
        """Answers until nobody waits."""
        answers: dict[int, asyncio.Future[Seat | None]] = {}
        try:
            while self._wanted:
                answers = dict(itertools.islice(self._wanted.items(), BATCH))
                for seat_id in answers:
                    del self._wanted[seat_id]
                try:
                    seats = await self._get(list(answers))
                except Exception as error:
                    for answer in answers.values():
                        answer.set_exception(error)
                else:
                    for seat_id, answer in answers.items():
                        answer.set_result(seats.get(seat_id))
        finally:
            # If it was cancelled, by a channel that is closed: nobody else would answer them.
            for answer in (*answers.values(), *self._wanted.values()):
                answer.cancel()
            self._wanted.clear()
            self._asking = None

    async def _get(self, seat_ids: list[int]) -> dict[int, Seat]:
        # The deadlines of those who wait are their own affair.
        call_context.set_deadline(BUDGET_SECONDS)
        request = concert_pb2.GetSeatsRequest(seat_ids=seat_ids)
        reply = await client.call(self._stub.GetSeats, request, budget=BUDGET_SECONDS)
        seats = {
            seat.id: Seat(seat.id, seat.schedule_id, seat.seat_num, Decimal(seat.price))
            for seat in reply.seats
        }
        for seat in seats.values():
            self._seats.put(seat.id, seat)
        return seats
