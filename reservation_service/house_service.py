"""The use cases of operators: which seats are for sale, and who has bought some."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from reservation_service.domain import Reservation
from reservation_service.house import MAX_LISTED, MAX_LISTED_SEATS, MAX_SCHEDULES, MAX_SEATS
from reservation_service.ports import HouseStore
from servicekit.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Closing:
    """What became of the reservations of closed schedules: how many holds the call has ended, which
    payments are under way (at most 1,000), and how many reservations are paid."""

    ended_holds: int
    paying: Sequence[int]
    paid: int


@dataclass(frozen=True, slots=True)
class Buyers:
    """A page of reservations, and whether there are more."""

    reservations: Sequence[Reservation]
    more: bool


class HouseService:
    """Blocks and releases seats, closes and reopens schedules. Every call may be repeated."""

    def __init__(self, store: HouseStore) -> None:
        self._store = store

    async def block_seats(self, schedule_id: int, seat_ids: Sequence[int]) -> int:
        """Takes seats of a schedule out of the sale, all or none. Returns how many were for sale.
        20,000 seats take about a second.

        Raises InvalidRequest (an id below 1, more than 100,000 seats, a seat that is known as one
        of another schedule) and SeatsTaken.
        """
        _check_seats(schedule_id, seat_ids)
        return await self._store.block(schedule_id, seat_ids) if seat_ids else 0

    async def release_seats(self, schedule_id: int, seat_ids: Sequence[int]) -> int:
        """Puts seats that the house has back on sale; no-op for others. Returns how many they were.

        Raises InvalidRequest for an id below 1, and for more than 100,000 seats.
        """
        _check_seats(schedule_id, seat_ids)
        return await self._store.release(schedule_id, seat_ids) if seat_ids else 0

    async def close_schedules(self, schedule_ids: Sequence[int]) -> Closing:
        """Ends the sale of schedules, and their holds. Payments that have begun finish.

        Raises InvalidRequest for an id below 1, and for more than 1,000 schedules.
        """
        _check_schedules(schedule_ids)
        ids = sorted(set(schedule_ids))
        # Committed before the holds are looked for: a hold that comes later sees it.
        await self._store.close(ids)
        ended = 0
        for schedule_id in ids:
            ended += await self._store.end_holds(schedule_id)
        return Closing(
            ended, await self._store.paying(ids, MAX_LISTED), await self._store.paid(ids)
        )

    async def reopen_schedules(self, schedule_ids: Sequence[int]) -> None:
        """Begins the sale of closed schedules again; no-op for others. Raises as `close_schedules`
        does."""
        _check_schedules(schedule_ids)
        await self._store.reopen(schedule_ids)

    async def list_buyers(
        self, schedule_id: int, after_reservation_id: int, page_size: int
    ) -> Buyers:
        """Returns the reservations of a schedule that are paid or being paid, with ids above
        `after_reservation_id`, in the order of their ids: at most `page_size`, of which 0 and more
        than 1,000 mean 1,000, and fewer if they have more than 20,000 seats. Raises InvalidRequest
        for a page_size below 0.

        A page of a date with 20,000 sold seats takes about 40 ms.
        """
        if page_size < 0:
            raise InvalidRequest("page_size must not be negative.")
        size = min(page_size or MAX_LISTED, MAX_LISTED)
        found = await self._store.buyers(schedule_id, after_reservation_id, size + 1)
        totals = itertools.accumulate(len(each.seats) for each in found)
        page = found[: min(size, sum(total <= MAX_LISTED_SEATS for total in totals))]
        return Buyers(page, len(found) > len(page))


def _check_seats(schedule_id: int, seat_ids: Sequence[int]) -> None:
    if len(seat_ids) > MAX_SEATS:
        raise InvalidRequest(f"At most {MAX_SEATS} seats at once.")
    if schedule_id <= 0 or min(seat_ids, default=1) <= 0:
        raise InvalidRequest("schedule_id and seat_ids must be positive.")


def _check_schedules(schedule_ids: Sequence[int]) -> None:
    if len(schedule_ids) > MAX_SCHEDULES:
        raise InvalidRequest(f"At most {MAX_SCHEDULES} schedules at once.")
    if min(schedule_ids, default=1) <= 0:
        raise InvalidRequest("schedule_ids must be positive.")
