"""The errors of concert_service."""

from servicekit.errors import NotFound


class ConcertNotFound(NotFound):
    code = "CONCERT_NOT_FOUND"

    def __init__(self, concert_id: int) -> None:
        super().__init__("There is no such concert.", concert_id=concert_id)


class ScheduleNotFound(NotFound):
    code = "SCHEDULE_NOT_FOUND"

    def __init__(self, schedule_id: int) -> None:
        super().__init__("There is no such schedule.", schedule_id=schedule_id)
