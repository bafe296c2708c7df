"""The errors of event documents."""

from concert_service.domain import EventStatus
from servicekit.errors import Conflict, InvalidRequest, NotFound


class DocumentTooLarge(InvalidRequest):
    def __init__(self, most: int) -> None:
        super().__init__(f"An event document has at most {most:,} bytes.")


class EventNotFound(NotFound):
    code = "EVENT_NOT_FOUND"

    def __init__(self, external_id: str) -> None:
        super().__init__("There is no such event, or no such version of it.", event=external_id)


class EventChanged(Conflict):
    """`version`: the present one; 0: there is no such event."""

    code = "EVENT_CHANGED"

    def __init__(self, version: int) -> None:
        super().__init__("Somebody else has changed this event.", version=version)


class WrongEventStatus(Conflict):
    code = "WRONG_EVENT_STATUS"

    def __init__(self, status: EventStatus) -> None:
        super().__init__(f"The event is {status.value.lower()}.", status=status.value)
