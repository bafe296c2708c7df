"""Which seats of dates are held or sold, as reservation_service says."""

import time
from collections.abc import Callable, Collection, Sequence
from heapq import nlargest
from itertools import pairwise

from gateway.clients import Clients
from protos.frontrow.reservation.v1 import reservation_pb2
from protos.limits import MAX_ITEMS
from servicekit.batching import Batcher
from servicekit.client import call

TakenSeatsOfDate = reservation_pb2.GetTakenSeatsResponse.TakenSeats

# The limit of reservation_service for one call.
_MAX_RANGES = 64
# The seats of the dates of one call, unless it is one date: if all are taken, reading them takes
# 130 ms in the database, and 8 ms each here and there, in which nothing else is done.
_MAX_SEATS = 20_000
# Calls that follow each other within this time also ask which dates are touched: at a lower rate, a
# call for each is cheaper.
_BUSY_SECONDS = 0.2
# The pause after there were too many of them.
_TOO_MANY_SECONDS = 60.0


class TakenSeats:
    """Asks for the taken seats of several dates in one call, and knows of which dates no seat is
    taken: of most, when people look around among thousands. One call per second tells that, of the
    dates that `known` returns: dates that have passed do not count.

    What it says is at most `ttl` seconds old.
    """

    def __init__(
        self,
        clients: Clients,
        known: Callable[[], Collection[int]],
        *,
        ttl: float,
        budget: float,
        longest_pause: float,
    ) -> None:
        self._clients = clients
        self._known = known
        self._ttl = ttl
        self._budget = budget
        self._batcher = Batcher[tuple[int, int], TakenSeatsOfDate](
            self._ask, budget=budget, max_batch=MAX_ITEMS, longest_pause=longest_pause
        )
        self._untouched: Collection[int] = ()
        self._untouched_until = 0.0
        self._ask_touched_from = 0.0
        self._last_call = 0.0

    def is_untouched(self, schedule_id: int) -> bool:
        """Returns whether all seats of the date are available, as far as is known without a call;
        if not, ask with `get`."""
        return schedule_id in self._untouched and time.monotonic() < self._untouched_until

    async def get(self, schedule_id: int, seats: int) -> TakenSeatsOfDate:
        """Returns the taken seats of a date that has so many seats. Raises what a call raises."""
        return await self._batcher.submit((schedule_id, seats))

    async def _ask(self, dates: Sequence[tuple[int, int]]) -> Sequence[TakenSeatsOfDate]:
        answers: list[TakenSeatsOfDate] = []
        # The callers have waited for all calls together.
        ends = time.monotonic() + self._budget
        while rest := dates[len(answers) :]:
            total = 0
            some: list[int] = []
            for schedule_id, seats in rest:
                total += seats
                if some and total > _MAX_SEATS:
                    break
                some.append(schedule_id)
            answers += await self._ask_some(some, ends)
        return answers

    async def _ask_some(
        self, schedule_ids: Sequence[int], ends: float
    ) -> Sequence[TakenSeatsOfDate]:
        asked = time.monotonic()
        is_busy = asked - self._last_call < _BUSY_SECONDS
        self._last_call = asked
        known = frozenset[int]()
        if is_busy and asked >= self._ask_touched_from:
            known = frozenset(self._known())
        response = await call(
            self._clients.reservation.GetTakenSeats,
            reservation_pb2.GetTakenSeatsRequest(
                schedule_ids=schedule_ids,
                touched_in=[
                    reservation_pb2.GetTakenSeatsRequest.Range(first=first, last=last)
                    for first, last in ranges_of(known, _MAX_RANGES)
                ],
            ),
            budget=ends - asked,
        )
        if response.HasField("touched"):
            self._untouched = known - frozenset(response.touched.schedule_ids)
            self._untouched_until = asked + self._ttl
            # Before it is too old, if there are calls for other dates meanwhile.
            self._ask_touched_from = asked + self._ttl / 2
        elif known:
            self._ask_touched_from = asked + _TOO_MANY_SECONDS
        if not response.schedules:
            raise RuntimeError("a response without any of the dates")
        return response.schedules


def ranges_of(ids: Collection[int], most: int) -> list[tuple[int, int]]:
    """Returns at most so many ranges (first, last) with all of these ids, between which the largest
    gaps are left out."""
    if not ids:
        return []
    ordered = sorted(ids)
    gaps = [(before, after) for before, after in pairwise(ordered) if after - before > 1]
    if len(gaps) >= most:
        gaps = sorted(nlargest(most - 1, gaps, key=lambda gap: gap[1] - gap[0]))
    starts = [ordered[0], *(after for _, after in gaps)]
    ends = [*(before for before, _ in gaps), ordered[-1]]
    return list(zip(starts, ends, strict=True))
