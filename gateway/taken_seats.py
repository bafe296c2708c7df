"""Which seats of dates are held or sold, as reservation_service says."""

import time
from collections.abc import Collection, Sequence

from gateway.clients import Clients
from protos.frontrow.reservation.v1 import reservation_pb2
from servicekit.batching import Batcher
from servicekit.client import call

TakenSeatsOfDate = reservation_pb2.GetTakenSeatsResponse.TakenSeats

# The limit of reservation_service for one call.
_MAX_BATCH = 256
# Calls that follow each other within this time also ask which dates are touched: at a lower rate, a
# call for each is cheaper.
_BUSY_SECONDS = 0.2
# The pause after there were too many of them.
_TOO_MANY_SECONDS = 60.0


class TakenSeats:
    """Asks for the taken seats of several dates in one call, and knows of which dates no seat is
    taken: of most, when people look around among thousands. One call per second tells that.

    What it says is at most `ttl` seconds old.
    """

    def __init__(
        self, clients: Clients, *, ttl: float, budget: float, longest_pause: float
    ) -> None:
        self._clients = clients
        self._ttl = ttl
        self._budget = budget
        self._batcher = Batcher[int, TakenSeatsOfDate](
            self._ask, budget=budget, max_batch=_MAX_BATCH, longest_pause=longest_pause
        )
        self._touched: Collection[int] = ()
        self._touched_until = 0.0
        self._ask_touched_from = 0.0
        self._last_call = 0.0

    def is_untouched(self, schedule_id: int) -> bool:
        """Returns whether all seats of the date are available, as far as is known without a call;
        if not, ask with `get`."""
        return schedule_id not in self._touched and time.monotonic() < self._touched_until

    async def get(self, schedule_id: int) -> TakenSeatsOfDate:
        """Returns the taken seats of a date, of now. Raises what a call raises."""
        return await self._batcher.submit(schedule_id)

    async def _ask(self, schedule_ids: Sequence[int]) -> Sequence[TakenSeatsOfDate]:
        answers: list[TakenSeatsOfDate] = []
        # A response has those of the first dates if all would be too large.
        while rest := schedule_ids[len(answers) :]:
            answers += await self._ask_some(rest)
        return answers

    async def _ask_some(self, schedule_ids: Sequence[int]) -> Sequence[TakenSeatsOfDate]:
        asked = time.monotonic()
        is_busy = asked - self._last_call < _BUSY_SECONDS
        self._last_call = asked
        with_touched = is_busy and asked >= self._ask_touched_from
        response = await call(
            self._clients.reservation.GetTakenSeats,
            reservation_pb2.GetTakenSeatsRequest(
                schedule_ids=schedule_ids, with_touched=with_touched
            ),
            budget=self._budget,
        )
        if response.HasField("touched"):
            self._touched = frozenset(response.touched.schedule_ids)
            self._touched_until = asked + self._ttl
            # Before it is too old, if there are calls for other dates meanwhile.
            self._ask_touched_from = asked + self._ttl / 2
        elif with_touched:
            self._ask_touched_from = asked + _TOO_MANY_SECONDS
        if not response.schedules:
            raise RuntimeError("a response without any of the dates")
        return response.schedules
