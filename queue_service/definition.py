"""The definition of a room, as the scripts take it."""

import enum
from dataclasses import astuple, dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from protos.frontrow.concert.v1 import rooms_pb2
from protos.frontrow.queue.v1 import queue_pb2


class Mode(enum.IntEnum):
    """What the operator has decided beside the times, as lua/definition.lua numbers it."""

    NORMAL = 1
    PAUSED = 2
    DRAINING = 3
    BYPASSED = 4


@dataclass(frozen=True, slots=True)
class Definition:
    """What an operator has defined of a room, in the order in which the scripts read it.

    `version` is above 0 and grows with each change. `admissions_per_minute` is 0 if there is no
    such limit. Times are Unix time in milliseconds; 0: absent.
    """

    version: int
    capacity: int
    max_waiting: int
    admissions_per_minute: int = 0
    mode: Mode = Mode.NORMAL
    is_draw: bool = False
    gather_from_ms: int = 0
    gather_until_ms: int = 0
    opens_at_ms: int = 0
    closes_at_ms: int = 0

    @classmethod
    def of(cls, room: rooms_pb2.Room) -> "Definition":
        """Returns the definition that concert_service has sent."""
        return cls(
            version=room.version,
            capacity=room.capacity,
            max_waiting=room.max_waiting,
            admissions_per_minute=room.admissions_per_minute,
            mode=Mode(room.mode or Mode.NORMAL),
            is_draw=room.order == rooms_pb2.LINE_ORDER_DRAW,
            gather_from_ms=_ms(room, "gather_from"),
            gather_until_ms=_ms(room, "gather_until"),
            opens_at_ms=_ms(room, "opens_at"),
            closes_at_ms=_ms(room, "closes_at"),
        )

    def text(self) -> str:
        """Returns it as the scripts read it: numbers with commas between them."""
        return ",".join(str(int(value)) for value in astuple(self))


@dataclass(frozen=True, slots=True)
class Defined:
    """A definition that the store has, and how far its draw has come: see RoomFields."""

    definition: Definition
    cohort_last: int = 0
    drawn: int = 0
    cohort_size: int = 0

    @classmethod
    def from_text(cls, text: str) -> "Defined":
        """Returns what the scripts reply and write to the log."""
        values = [int(value) for value in text.split(",")]
        version, capacity, max_waiting, per_minute, mode, is_draw, *times = values[:10]
        definition = Definition(
            version, capacity, max_waiting, per_minute, Mode(mode), bool(is_draw), *times
        )
        return cls(definition, *values[10:])

    def fill(self, fields: queue_pb2.RoomFields) -> None:
        """Sets what copies of the room know of it. The limits are in the fields already."""
        definition = self.definition
        fields.definition_version = definition.version
        fields.gather_from_ms = definition.gather_from_ms
        fields.gather_until_ms = definition.gather_until_ms
        fields.opens_at_ms = definition.opens_at_ms
        fields.closes_at_ms = definition.closes_at_ms
        fields.admissions_per_minute = definition.admissions_per_minute
        fields.draining = definition.mode is Mode.DRAINING
        fields.bypassed = definition.mode is Mode.BYPASSED
        fields.is_draw = definition.is_draw
        fields.cohort_last = self.cohort_last
        fields.drawn = self.drawn
        fields.cohort_size = self.cohort_size


def _ms(room: rooms_pb2.Room, name: str) -> int:
    time: Timestamp = getattr(room, name)
    return time.ToMilliseconds() if room.HasField(name) else 0  # type: ignore[arg-type]
