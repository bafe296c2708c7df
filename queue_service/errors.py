"""The errors of queue_service."""

from servicekit.errors import Conflict, InvalidRequest, NotFound


class TooManyItems(InvalidRequest):
    """One call asked for more than MAX_ITEMS."""


class MixedRooms(InvalidRequest):
    """The places of one call belong to several rooms."""


class BadLimit(InvalidRequest):
    """A limit of a room would be negative or too large for Redis to count exactly."""


class BadName(InvalidRequest):
    """The name of a copy of a room is empty or longer than MAX_NAME."""


class RoomNotFound(NotFound):
    """This service runs no room of that name."""

    code = "ROOM_NOT_FOUND"


class RoomIsDefined(Conflict):
    """The catalogue defines the limits of this room."""

    code = "ROOM_IS_DEFINED"
