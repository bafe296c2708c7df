"""Which seats of a schedule callers see as taken."""

import asyncio
from collections.abc import Sequence

from reservation_service.domain import Availability, TakenSeats
from reservation_service.errors import ScheduleNotFound
from reservation_service.ports import SeatDirectory
from servicekit import logs
from servicekit.errors import ServiceError, is_transient

log = logs.get(__name__)

# Longer than concert_service takes for the maps of 20,000 seats. The callers' other schedules wait
# no longer than this for the seats of a closed one.
MAP_SECONDS = 0.5


async def shown_as_taken(
    directory: SeatDirectory, schedule_ids: Sequence[int], availabilities: Sequence[Availability]
) -> list[TakenSeats]:
    """Returns the seats of each schedule that are held or sold: all seats of a closed one are sold.

    If concert_service does not say within MAP_SECONDS which seats a closed schedule has, returns
    those that are taken: nobody can hold a seat of this one.
    """
    each = list(zip(schedule_ids, availabilities, strict=True))
    closed = {id: availability for id, availability in each if availability.closed}
    # Together, so that they share a call.
    shown = await asyncio.gather(*(_closed(directory, *one) for one in closed.items()))
    instead = dict(zip(closed, shown, strict=True))
    return [instead.get(id) or TakenSeats(held, sold) for id, (held, sold, _) in each]


async def _closed(
    directory: SeatDirectory, schedule_id: int, availability: Availability
) -> TakenSeats:
    held, sold, _ = availability
    try:
        async with asyncio.timeout(MAP_SECONDS):
            seat_map = await directory.seat_map(schedule_id)
    except ScheduleNotFound:  # nobody has a map of it that would show the others as available
        return TakenSeats([], sorted([*held, *sold]))
    except (ServiceError, TimeoutError) as error:
        if not is_transient(error):
            raise
        log.warning(
            "closed_schedule_shown_in_part",
            schedule=schedule_id,
            error=str(error) or type(error).__name__,
        )
        return TakenSeats(held, sold)
    return TakenSeats([], seat_map.ids())
