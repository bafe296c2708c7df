"""The errors of rooms and draws."""

from collections.abc import Sequence

from servicekit.errors import Conflict, Exhausted, Gone, InvalidRequest, NotFound


class InvalidRoom(InvalidRequest):
    """`field` is the field of the message that is wrong."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}.", field=field)


class RoomNotFound(NotFound):
    code = "ROOM_NOT_FOUND"

    def __init__(self, detail: str = "There is no such room.") -> None:
        super().__init__(detail)


class RoomChanged(Conflict):
    code = "ROOM_CHANGED"

    def __init__(self, version: int) -> None:
        super().__init__(f"The room has version {version} now.", version=version)


class RoomHasBegun(Gone):
    code = "ROOM_HAS_BEGUN"

    def __init__(self, field: str) -> None:
        super().__init__(
            f"{field} does not change any more: people have entered the line under it.", field=field
        )


class TooManyRooms(Exhausted):
    code = "TOO_MANY_ROOMS"

    def __init__(self, most: int) -> None:
        super().__init__(f"There are {most} rooms, the most: remove one that is over.", limit=most)


class RoomInUse(Conflict):
    code = "ROOM_IN_USE"

    def __init__(self, concert_ids: Sequence[int]) -> None:
        super().__init__(
            "Published concerts need this room.", concerts=",".join(map(str, concert_ids))
        )


class DrawNotClosed(Gone):
    code = "DRAW_NOT_CLOSED"

    def __init__(self) -> None:
        super().__init__("Gathering has not closed, or its list is not stored yet.")


class PublicValueSet(Conflict):
    code = "PUBLIC_VALUE_SET"

    def __init__(self) -> None:
        super().__init__("The draw has another public value.")
