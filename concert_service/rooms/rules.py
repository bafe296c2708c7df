"""The rules of rooms: what a definition must look like, and what may change when. No I/O."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from zoneinfo import available_timezones

from google.protobuf.timestamp_pb2 import Timestamp

from concert_service.rooms.errors import InvalidRoom, RoomHasBegun
from concert_service.texts import fault_of_text
from protos.frontrow.concert.v1 import rooms_pb2

MAX_ROOMS = 1_000
MAX_PEOPLE = 1_000_000_000
MAX_PER_MINUTE = 1_000_000_000
MAX_MESSAGE = 280
MAX_PUBLIC_VALUE = 500
DRAW_SECONDS = 10
"""How long before the opening gathering closes, unless the definition says it."""

LAST_MOMENT_MS = 2_000
"""A time that comes this soon counts as passed: a change of it needs a second to reach the programs
that act on it, and their clocks may differ."""

_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_LAST_MS = 253_370_764_799_999  # of the year 9998: zones move instants into the next
_TIMES = ("gather_from", "gather_until", "opens_at", "closes_at")


@dataclass(frozen=True, slots=True)
class StoredRoom:
    """A room as it is stored. `definition` has neither version nor draw. A room that was removed is
    kept, so that its version goes on."""

    name: str
    version: int
    definition: rooms_pb2.Room
    seed: bytes | None = None
    public_value: str = ""
    cohort_attempt: str = ""
    cohort_size: int = 0
    cohort_sha256: bytes | None = None
    is_removed: bool = False

    @property
    def is_draw(self) -> bool:
        """Whether its line is a draw."""
        return self.definition.order == rooms_pb2.LINE_ORDER_DRAW


def milliseconds(room: rooms_pb2.Room, field: str) -> int | None:
    """Returns a time of the definition, Unix time in milliseconds; None if it is absent."""
    if not room.HasField(field):  # type: ignore[arg-type]  # its stubs want literals
        return None
    at: Timestamp = getattr(room, field)
    return at.seconds * 1000 + at.nanos // 1_000_000


def checked(room: rooms_pb2.Room) -> rooms_pb2.Room:
    """Returns the definition as it is stored: without version and draw, with times in whole
    milliseconds, and with the end of gathering. Raises InvalidRoom."""
    room = _copy(room)
    room.ClearField("version")
    room.ClearField("draw")
    room.time_zone = room.time_zone or "UTC"
    _check_limits(room)
    _check_texts(room)
    for field in _TIMES:
        at = milliseconds(room, field)
        if at is not None:
            _require(0 < at <= _LAST_MS, field, "must be an instant before the year 9999")
            _set(room, field, at)
    _check_times(room)
    return room


def _check_limits(room: rooms_pb2.Room) -> None:
    _require(_NAME.fullmatch(room.name) is not None, "name", "must be 1 to 64 of a-z, 0-9, _ and -")
    for field in ("capacity", "max_waiting"):
        limit = getattr(room, field)
        _require(0 <= limit <= MAX_PEOPLE, field, f"must be 0 to {MAX_PEOPLE}")
    _require(
        0 <= room.admissions_per_minute <= MAX_PER_MINUTE,
        "admissions_per_minute",
        f"must be 0 (no such limit) to {MAX_PER_MINUTE}",
    )
    for field, enum in (("mode", rooms_pb2.RoomMode), ("order", rooms_pb2.LineOrder)):
        known = set(enum.values()) - {0}
        _require(getattr(room, field) in known, field, "is missing or unknown")
    _require(is_time_zone(room.time_zone), "time_zone", "must be an IANA name, as Europe/Berlin")


def _check_texts(room: rooms_pb2.Room) -> None:
    texts = (("message", MAX_MESSAGE), ("public_value_source", MAX_PUBLIC_VALUE))
    for field, most in texts:
        fault = fault_of_text(getattr(room, field), most)
        _require(not fault, field, fault)


def _check_times(room: rooms_pb2.Room) -> None:
    is_draw = room.order == rooms_pb2.LINE_ORDER_DRAW
    opens = milliseconds(room, "opens_at")
    gather_from = milliseconds(room, "gather_from")
    closes = milliseconds(room, "closes_at")
    if opens is None:
        _require(not is_draw, "opens_at", "a draw needs it")
        _require(gather_from is None, "opens_at", "gathering needs it")
    elif gather_from is not None:
        _require(gather_from < opens, "gather_from", "must be before opens_at")
    if is_draw:
        _require(gather_from is not None, "gather_from", "a draw needs it")
        assert gather_from is not None
        assert opens is not None
        until = milliseconds(room, "gather_until")
        if until is None:
            until = opens - min(DRAW_SECONDS * 1000, (opens - gather_from) // 2)
            _set(room, "gather_until", until)
        _require(
            gather_from < until <= opens,
            "gather_until",
            "must be after gather_from and not after opens_at",
        )
    else:
        _require(not room.HasField("gather_until"), "gather_until", "only a draw has it")
        _require(not room.public_value_source, "public_value_source", "only a draw has it")
    if closes is not None:
        _require(closes > (opens or gather_from or 0), "closes_at", "must be after the other times")


def check_change(before: StoredRoom, after: rooms_pb2.Room, now_ms: int) -> None:
    """Raises RoomHasBegun if the change would break what people in the line were told.

    A time that has passed does not change. Once people may have entered, the order and the source
    of the public value do not; once the gathering of a draw has closed, none of its times do. What
    a room lacks has always been so: one without `opens_at` has opened.
    """
    definition = before.definition

    def has_passed(field: str) -> bool:
        at = milliseconds(definition, field)
        return at is None or at <= now_ms + LAST_MOMENT_MS

    frozen = [field for field in ("gather_from", "opens_at") if has_passed(field)]
    if before.is_draw and (before.cohort_sha256 is not None or has_passed("gather_until")):
        frozen = ["gather_from", "gather_until", "opens_at"]
    if has_passed("gather_from"):
        frozen += ["order", "public_value_source"]
    if before.is_draw and has_passed("gather_from"):
        until = milliseconds(after, "gather_until")
        is_moved = until != milliseconds(definition, "gather_until")
        # Whoever knows the seed could choose among the lists of all moments that have passed.
        _require(
            "gather_until" in frozen or not is_moved or until is None or until > now_ms,
            "gather_until",
            "must be in the future once people gather",
        )
    for field in frozen:
        # Absent times compare as the empty message, which no definition has.
        if getattr(definition, field) != getattr(after, field):
            raise RoomHasBegun(field)


def has_opened(room: rooms_pb2.Room, now_ms: int) -> bool:
    """Returns whether the opening has come."""
    return (milliseconds(room, "opens_at") or 0) <= now_ms


def public_value_fault(value: str) -> str:
    """Returns what is wrong with a public value; "" if nothing is."""
    return fault_of_text(value, MAX_PUBLIC_VALUE) if value else "must not be empty"


def is_time_zone(name: str) -> bool:
    """Returns whether this is the IANA name of a time zone."""
    return name in _time_zones()


@cache
def _time_zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _copy(room: rooms_pb2.Room) -> rooms_pb2.Room:
    copy = rooms_pb2.Room()
    copy.CopyFrom(room)
    return copy


def _set(room: rooms_pb2.Room, field: str, at_ms: int) -> None:
    getattr(room, field).FromMilliseconds(at_ms)


def _require(holds: bool, field: str, detail: str) -> None:
    if not holds:
        raise InvalidRoom(field, detail)


Decide = Callable[["Found"], StoredRoom | None]
"""Returns the room as it is to be stored, or None if nothing changes; raises if that is refused."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a change of a room is decided on. `live_rooms` counts rooms that are not removed;
    `concert_ids` are the published concerts that need this one."""

    room: StoredRoom | None
    live_rooms: int
    concert_ids: tuple[int, ...]

    @property
    def live(self) -> StoredRoom | None:
        """The room, unless it does not exist or was removed."""
        return None if self.room is None or self.room.is_removed else self.room
