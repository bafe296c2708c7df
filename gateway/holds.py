"""Requests to hold seats, which travel to reservation_service in groups."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from protos.frontrow.reservation.v1 import reservation_pb2
from protos.limits import MAX_ITEMS
from servicekit.batching import Batcher
from servicekit.client import call
from servicekit.rpc_errors import RemoteError, from_item_error

if TYPE_CHECKING:
    from protos.frontrow.reservation.v1.reservation_pb2_grpc import ReservationServiceAsyncStub

HoldItem: TypeAlias = reservation_pb2.HoldSeatsRequest.Item

# An answer comes when the slowest item of its call is decided, so an item that waits for a lock in
# the database holds up those of its own call. The others go on while fewer than four such calls are
# on their way. Many more would make small calls in a crowd, each of which costs both sides about
# 1.2 ms; reservation_service joins the calls of all gateways again.
_IN_FLIGHT = 4

# The best available seats take several attempts while a crowd asks for them: up to 20 writes, where
# seats by their ids take one. So they have calls of their own, and more at once, because each call
# takes as long as its unluckiest item.
_SEARCHES_IN_FLIGHT = 8


class SeatHolds:
    """Sends all requests that wait as one call, those for the best available seats as another. A
    lone request waits for nobody.

    A call is never repeated: an item without an idempotency key could find its seats held by
    itself.
    """

    def __init__(self, reservation: "ReservationServiceAsyncStub", budget: float) -> None:
        """`budget`: the seconds that one request may take."""
        self._reservation = reservation
        self._budget = budget
        self._choices = self._batcher(_IN_FLIGHT)
        self._searches = self._batcher(_SEARCHES_IN_FLIGHT)

    def _batcher(self, in_flight: int) -> Batcher[HoldItem, reservation_pb2.Reservation]:
        return Batcher(
            self._send,
            budget=self._budget,
            max_batch=MAX_ITEMS,
            max_in_flight=in_flight,
            direct=True,
        )

    async def hold(self, item: HoldItem) -> reservation_pb2.Reservation:
        """Holds the seats of one user.

        Raises RemoteError with the code of the item, or of the call if it failed as a whole;
        Unavailable if nothing was sent; TimedOut, after which the seats may be held.
        """
        group = self._searches if item.HasField("best_available") else self._choices
        return await group.submit(item)

    async def _send(
        self, items: Sequence[HoldItem]
    ) -> Sequence[reservation_pb2.Reservation | RemoteError]:
        # At most: the Batcher has set the deadline of the first request of several.
        response = await call(
            self._reservation.HoldSeats,
            reservation_pb2.HoldSeatsRequest(items=items),
            budget=self._budget,
        )
        return [
            result.reservation if result.HasField("reservation") else from_item_error(result.error)
            for result in response.results
        ]
