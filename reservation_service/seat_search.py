"""Holds the best available seats of a schedule, also while a crowd asks for the same ones.

The search runs in memory, over the facts of the schedule and the seats that are taken now; the
store decides. See docs/adr/0047-best-available.md.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeAlias, TypeVar

from reservation_service.best_seats import Seats, Wish
from reservation_service.domain import Availability, BestAvailable, Seat
from reservation_service.errors import (
    NotEnoughSeats,
    SalesClosed,
    SeatCoolsDown,
    SeatHeld,
    SeatSold,
    SingleSeatLeft,
)
from reservation_service.ports import SeatDirectory, SeatMap
from servicekit import call_context
from servicekit.batching import Batcher

# How many choices are tried, each of which others took before it could be held.
ATTEMPTS = 20
# How long a request waits for the read of the taken seats before its own.
READ_BUDGET_SECONDS = 2.0
# The most requests that share a read.
MAX_SHARED = 10_000

Held = TypeVar("Held")
# `ReservationStore.taken_seats`.
ReadTaken: TypeAlias = Callable[[Sequence[int]], Awaitable[Sequence[Availability]]]


class SeatSearch:
    """Chooses seats by what is taken now."""

    def __init__(self, directory: SeatDirectory, read_taken: ReadTaken) -> None:
        self._directory = directory
        self._read_taken = read_taken
        # Only while requests use them.
        self._sales: dict[tuple[int, SeatMap], _Sale] = {}

    async def hold_best(
        self, best: BestAvailable, hold: Callable[[Sequence[Seat], str], Awaitable[Held]]
    ) -> Held:
        """Calls `hold` with the best available seats and the currency of their prices until it has
        held some, at most ATTEMPTS times. Returns its result.

        After each conflict it reads the taken seats anew. Seats that other requests in this process
        are about to hold count as taken; if there are no others, it waits for the outcome. So it
        refuses only by a read that began after the request. Raises ScheduleNotFound, SalesClosed,
        NotEnoughSeats, and SeatCoolsDown if there are only seats that this user has to wait for;
        and what `hold` raises, except conflicts.
        """
        seat_map = await self._directory.seat_map(best.schedule_id)
        with self._sale(best.schedule_id, seat_map) as sale:
            contested: Seats = 0
            cooling: Seats = 0
            refusal: NotEnoughSeats | SeatCoolsDown = NotEnoughSeats()
            for _ in range(ATTEMPTS):
                chosen = await sale.choose(best.wish, contested, cooling)
                if chosen is None:
                    if not contested:
                        raise refusal
                    # The requests that contested these seats may have failed since.
                    contested = 0
                    continue
                is_held = False
                try:
                    held = await hold(sale.seats(chosen), seat_map.terms.currency)
                    is_held = True
                    return held
                except SeatCoolsDown as error:
                    cooling |= sale.these(error.seat_ids)
                    refusal = error
                except (SeatHeld, SeatSold) as error:
                    contested |= sale.these(error.seat_ids)
                finally:
                    sale.settle(chosen, is_held)
        raise NotEnoughSeats

    async def check_single_seats(self, seats: Sequence[Seat]) -> None:
        """Raises SingleSeatLeft if the choice of these seats of one schedule would leave a single
        seat without need (see `Hall.left_single`), by what is taken when it reads. Seats that are
        taken are not its concern."""
        seat_map = await self._directory.seat_map(seats[0].schedule_id)
        with self._sale(seats[0].schedule_id, seat_map) as sale:
            taken = await sale.taken()
            chosen = sale.these([seat.id for seat in seats])
            if chosen & taken:
                return
            if left := seat_map.hall.left_single(taken, chosen):
                raise SingleSeatLeft(*(seat.id for seat in sale.seats(left)))

    @contextlib.contextmanager
    def _sale(self, schedule_id: int, seat_map: SeatMap) -> "Iterator[_Sale]":
        # A map that concert_service has changed is another sale: its bits mean other seats.
        key = (schedule_id, seat_map)
        sale = self._sales.get(key)
        if sale is None:
            sale = self._sales[key] = _Sale(schedule_id, seat_map, self._read_taken)
        sale.users += 1
        try:
            yield sale
        finally:
            sale.users -= 1
            if not sale.users:
                del self._sales[key]


class _Sale:
    """What the requests for seats of one schedule share in this process."""

    def __init__(self, schedule_id: int, seat_map: SeatMap, read_taken: ReadTaken) -> None:
        self.users = 0
        self._schedule_id = schedule_id
        self._map = seat_map
        self._hall = seat_map.hall
        self._read_taken = read_taken
        # One read at a time: it serves all who asked before it began.
        self._reads = Batcher[None, Seats](
            self._read, budget=READ_BUDGET_SECONDS, max_batch=MAX_SHARED
        )
        # Requests are about to hold these.
        self._in_flight: Seats = 0
        # By the last finished read.
        self.is_closed = False
        # These were held since the last finished read began, and since the last read began.
        self._held_since_last: Seats = 0
        self._held_since_next: Seats = 0
        self._outcome = asyncio.Event()

    async def taken(self) -> Seats:
        """Returns the seats that are held or sold, by a read that begins after this call."""
        return await self._reads.submit(None) | self._held_since_last

    async def choose(self, wish: Wish, contested: Seats, cooling: Seats) -> Seats | None:
        """Returns the best seats that are free and that no request of this process is about to
        hold; the caller is about to hold them until it calls `settle`. Waits if there may be some
        soon. Returns None if there are none.

        `contested` seats count as taken. This user cannot have those that are `cooling`, but others
        can. Raises SalesClosed."""
        while True:
            outcome = self._outcome
            taken = await self.taken() | contested
            if self.is_closed:
                raise SalesClosed
            chosen = self._hall.best(taken | self._in_flight, wish, cooling)
            if chosen is not None:
                self._in_flight |= chosen
                return chosen
            if self._hall.best(taken, wish, cooling) is None:
                return None
            await outcome.wait()

    def settle(self, chosen: Seats, is_held: bool) -> None:
        """Ends what `choose` began. Seats that are held now stay excluded until a read shows
        them."""
        self._in_flight &= ~chosen
        if is_held:
            self._held_since_last |= chosen
            self._held_since_next |= chosen
        self._outcome.set()
        self._outcome = asyncio.Event()

    def seats(self, chosen: Seats) -> Sequence[Seat]:
        """Returns the facts of a set of seats, in the order of their ids."""
        return self._map.seats_at(self._hall.indexes(chosen))

    def these(self, seat_ids: Sequence[int]) -> Seats:
        """Returns the set of these seats; leaves out those that the schedule does not have."""
        return self._hall.seats(self._map.indexes_of(seat_ids))

    async def _read(self, callers: Sequence[None]) -> Sequence[Seats]:
        # A read serves many callers: the deadline of the first must not apply to the others.
        call_context.set_deadline(READ_BUDGET_SECONDS)
        self._held_since_next = 0
        [taken] = await self._read_taken([self._schedule_id])
        self.is_closed = taken.closed
        self._held_since_last = self._held_since_next
        return [self.these([*taken.held, *taken.sold])] * len(callers)
