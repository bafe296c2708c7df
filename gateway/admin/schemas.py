"""What the admin API takes and returns, with camelCase keys."""

from datetime import UTC, datetime, tzinfo
from enum import StrEnum
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

Id = Annotated[int, Field(ge=1, le=2**63 - 1, examples=[42])]
Text = Annotated[str, Field(strict=True)]
Whole = Annotated[int, Field(strict=True)]
# What a message can carry; the service says what it accepts.
Whole64 = Annotated[Whole, Field(ge=-(2**63), lt=2**63)]


def _in_range(at: datetime) -> datetime:
    """Zones may move an instant by a day, and `datetime` ends with the year 9999."""
    if not 1970 <= at.year < 9999:
        raise ValueError("must be in the years 1970 to 9998")
    return at


def _written(at: datetime) -> str:
    """Returns the form of the public API, with milliseconds, in the zone of `at`."""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# As JSON only: Python's datetime otherwise has as many digits as it needs.
Instant = Annotated[
    AwareDatetime,
    AfterValidator(_in_range),
    PlainSerializer(_written, return_type=str, when_used="json"),
]


class Model(BaseModel):
    """A body or a part of one. Unknown keys are refused: a misspelt setting must not be ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid"
    )


class FieldProblem(Model):
    field: str
    message: str
    line: Annotated[
        int | None, Field(description="Where it stands in the file that was sent, from 1.")
    ] = None


class Change(Model):
    """One difference."""

    field: str
    before: Any = None
    after: Any = None


class AdminProblem(Model):
    """RFC 9457, with a stable `code`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: Annotated[list[FieldProblem] | None, Field(description="INVALID_REQUEST only.")] = None
    version: Annotated[
        int | None, Field(description="EVENT_CHANGED, ROOM_CHANGED: the present version.")
    ] = None
    changes: Annotated[
        list[Change] | None,
        Field(
            description="EVENT_CHANGED: what has changed since the version that the request named."
            " ROOM_CHANGED: from the present room to the one that the request asked for."
        ),
    ] = None
    seats: Annotated[
        list[Id] | None, Field(description="SEATS_TAKEN: the ids of at most 1,000 of them.")
    ] = None
    concerts: Annotated[list[Id] | None, Field(description="ROOM_IN_USE: their ids.")] = None
    field: Annotated[str | None, Field(description="ROOM_HAS_BEGUN: what does not change.")] = None
    limit: Annotated[int | None, Field(description="TOO_MANY_ROOMS: the most.")] = None


class RoomMode(StrEnum):
    """What an operator has decided about a room, beside its times."""

    NORMAL = "NORMAL"
    PAUSED = "PAUSED"
    DRAINING = "DRAINING"
    BYPASSED = "BYPASSED"


class LineOrder(StrEnum):
    """FIFO: first come, first served. DRAW: those who gather get a random order."""

    FIFO = "FIFO"
    DRAW = "DRAW"


class RoomDefinition(Model):
    """The definition of a waiting room."""

    capacity: Annotated[Whole64, Field(description="The most people admitted at the same time.")]
    max_waiting: Annotated[
        Whole64, Field(description="The most people who wait or gather at the same time.")
    ] = 1_000_000
    admissions_per_minute: Annotated[
        Whole, Field(ge=-(2**31), lt=2**31, description="0: no such limit.")
    ] = 0
    mode: RoomMode = RoomMode.NORMAL
    order: LineOrder = LineOrder.FIFO
    time_zone: Annotated[
        Text, Field(description="IANA name of the zone in which times are shown.")
    ] = "UTC"
    gather_from: Annotated[
        Instant | None,
        Field(description="When people may enter. Absent: at any time. A draw needs it."),
    ] = None
    gather_until: Annotated[
        Instant | None,
        Field(
            description="When the gathering of a draw closes. Absent: 10 seconds before the"
            " opening, or after half of the gathering if that is short."
        ),
    ] = None
    opens_at: Annotated[
        Instant | None,
        Field(description="Nobody is admitted before. Absent: the room is open."),
    ] = None
    closes_at: Annotated[
        Instant | None,
        Field(description="From then on the room gives no new places and admits nobody."),
    ] = None
    message: Annotated[Text, Field(description="What everybody who polls is told.")] = ""
    public_value_source: Annotated[
        Text,
        Field(
            description="Of a draw: where a public value will come from that nobody knows before"
            " gathering closes."
        ),
    ] = ""


class NewRoom(RoomDefinition):
    """A definition, also as it was read: with its version, which counts like the parameter."""

    name: Annotated[str | None, Field(description="As in the path.")] = None
    version: Annotated[Whole | None, Field(ge=0, lt=2**63)] = None
    draw: Annotated[Any, Field(description="Ignored: it follows from the definition.")] = None


class Cohort(Model):
    """The list of the places that are drawn."""

    size: int
    sha256: Annotated[str, Field(description="Hexadecimal.")]


class Draw(Model):
    """What operators see of a draw: not its seed."""

    seed_sha256: Annotated[str, Field(description="Hexadecimal; public.")]
    public_value: str | None = None
    cohort: Annotated[Cohort | None, Field(description="Once gathering has closed.")] = None


class Room(RoomDefinition):
    """A room."""

    name: str
    version: int
    draw: Draw | None = None


class Rooms(Model):
    rooms: list[Room]


class RoomCounts(Model):
    """How many people a room has now."""

    admitted: int
    waiting: int
    recovering: Annotated[
        bool, Field(description="Places that Redis has lost may still return: both are too low.")
    ]


class Message(Model):
    message: Text


class PublicValue(Model):
    value: Text


class RoleName(StrEnum):
    """VIEWER reads, OPERATOR changes events and rooms, ADMIN also manages keys."""

    VIEWER = "VIEWER"
    OPERATOR = "OPERATOR"
    ADMIN = "ADMIN"


class NewKey(Model):
    name: Annotated[Text, Field(description="Who gets it.")]
    role: RoleName


class Key(Model):
    id: int
    name: str
    role: RoleName
    created_at: Instant
    last_used_at: Annotated[Instant | None, Field(description="To the minute.")] = None
    revoked_at: Instant | None = None


class CreatedKey(Model):
    key: Key
    secret: Annotated[str, Field(description="Shown this once: only its hash is stored.")]


class Keys(Model):
    keys: list[Key]


class AuditEntry(Model):
    id: int
    at: Instant
    key_id: int
    key_name: str
    action: Annotated[str, Field(description="The operation id, as in putRoom.")]
    subject: str
    detail: Annotated[Any, Field(description="What the request asked for.")]
    outcome: Annotated[
        str | None,
        Field(
            description="SUCCEEDED, or the code of the error. Absent while the change runs, and if"
            " the gateway was stopped meanwhile."
        ),
    ] = None
    request_id: str


class AuditLog(Model):
    entries: list[AuditEntry]
    next_page_token: str | None = None


def moment(timestamp: Timestamp, zone: tzinfo = UTC) -> datetime:
    """Converts a timestamp of a message."""
    return timestamp.ToDatetime(UTC).astimezone(zone)


def zone_of(name: str) -> tzinfo:
    """Returns the zone; UTC if this machine does not know it."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return UTC
