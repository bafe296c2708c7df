"""Which seats of a schedule callers see as taken."""

from reservation_service.domain import Availability, TakenSeats
from reservation_service.errors import ScheduleNotFound
from reservation_service.ports import SeatDirectory
from servicekit import logs
from servicekit.errors import ServiceError, is_transient

log = logs.get(__name__)


async def shown_as_taken(
    directory: SeatDirectory, schedule_id: int, availability: Availability
) -> TakenSeats:
    """Returns the seats that are held or sold: all seats of a closed schedule are sold.

    If concert_service does not say which seats a closed schedule has, returns those that are taken:
    the callers' other schedules must not wait, and nobody can hold a seat of this one.
    """
    held, sold, closed = availability
    if not closed:
        return TakenSeats(held, sold)
    try:
        seat_map = await directory.seat_map(schedule_id)
    except ScheduleNotFound:  # nobody has a map of it that would show the others as available
        return TakenSeats([], sorted([*held, *sold]))
    except ServiceError as error:
        if not is_transient(error):
            raise
        log.warning("closed_schedule_shown_in_part", schedule=schedule_id, error=str(error))
        return TakenSeats(held, sold)
    return TakenSeats([], seat_map.ids())
