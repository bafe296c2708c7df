"""The JSON bodies, as the OpenAPI document states them. The most frequent responses are written as
encoded bytes in `routes`; the tests check them against these models."""

from datetime import date as Date
from itertools import combinations
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from gateway.requests import MAX_ID, WHOLE, Id, RequestBody

Seconds = Annotated[int, Field(ge=1)]
Money = Annotated[str, Field(pattern=r"^\d+\.\d{2,3}$", examples=["150000.00"])]
Instant = Annotated[
    str, Field(json_schema_extra={"format": "date-time"}, examples=["2026-12-24T19:30:00.000Z"])
]


Currency = Annotated[
    str, Field(pattern=r"^[A-Z]{3}$", description="ISO 4217, of all prices here.", examples=["KRW"])
]


class ResponseBody(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


ConcertWanted = Annotated[
    Id | None,
    Field(
        description="Enters the waiting room that leads to this concert; without it, the main one."
    ),
]


class EnterQueueRequest(RequestBody):
    user_id: Id
    concert_id: ConcertWanted = None


class EnterQueueWithLoginRequest(RequestBody):
    """The user comes from the Authorization header; a userId must be the same one."""

    user_id: Id | None = None
    concert_id: ConcertWanted = None


def _different(ids: list[int]) -> list[int]:
    if len(set(ids)) < len(ids):
        raise PydanticCustomError("doubles", "Input should name each seat once")
    return ids


class BestAvailable(RequestBody):
    """Adjacent seats in one row: the best row first, nearest to the centre of the row."""

    schedule_id: Id
    count: Annotated[
        int,
        Field(strict=True, ge=1, le=MAX_ID, description="How many seats: see `TOO_MANY_SEATS`."),
        WHOLE,
    ]
    price_category: Annotated[
        Annotated[str, Field(min_length=1, max_length=64)] | None,
        Field(description="The name of one; null: any."),
    ] = None
    section: Annotated[
        Annotated[str, Field(min_length=1, max_length=64)] | None,
        Field(
            description="The name of one; null: any. The places of a section without seats need "
            "not be adjacent."
        ),
    ] = None
    accessible: Annotated[StrictBool, Field(description="Only accessible seats.")] = False
    allow_split: Annotated[
        StrictBool,
        Field(description="Spread them over rows if no row has so many adjacent seats."),
    ] = False


def _with_one_form(schema: dict[str, Any]) -> None:
    """Declares that a request has exactly one form. Hides null, which is as good as absent: with
    it, a body would have several.

    Says it as "not none, nor two", because generators of clients make several classes of a `oneOf`.
    """
    forms = [to_camel(name) for name in HoldSeatRequest.one_of]
    none = {"not": {"anyOf": [{"required": [form]} for form in forms]}}
    two = [{"required": list(pair)} for pair in combinations(forms, 2)]
    schema["not"] = {"anyOf": [none, *two]}
    for form in forms:
        declared = schema["properties"][form]
        of_value, _of_null = declared.pop("anyOf")
        del declared["default"]
        declared |= of_value


class HoldSeatRequest(RequestBody):
    """Exactly one of `concertSeatId`, `concertSeatIds` and `bestAvailable`."""

    model_config = ConfigDict(json_schema_extra=_with_one_form)
    one_of = ("concert_seat_id", "concert_seat_ids", "best_available")

    user_id: Id
    concert_seat_id: Annotated[Id | None, Field(description="One seat.")] = None
    concert_seat_ids: Annotated[
        Annotated[
            list[Id],
            Field(min_length=1, json_schema_extra={"uniqueItems": True}),
            AfterValidator(_different),
        ]
        | None,
        Field(
            description="Different seats of one date, all or none. Usually at most 8: see "
            "`TOO_MANY_SEATS`."
        ),
    ] = None
    best_available: Annotated[
        BestAvailable | None, Field(description="The best seats that are free.")
    ] = None


class PayReservationRequest(RequestBody):
    user_id: Id


class QueueOrder(ResponseBody):
    order: Annotated[
        int,
        Field(
            ge=0,
            description="1 = next in line, 0 = admitted. Before the opening of the room: how many "
            "people wait for it so far.",
        ),
    ]
    poll_after_seconds: Annotated[
        float, Field(description="Poll again after this time; 0 when admitted.")
    ]
    estimated_wait_seconds: Annotated[
        float,
        Field(
            description="Estimate of the remaining wait; 0 when admitted. Before the opening of "
            "the room: the time until then, because nobody has a position yet."
        ),
    ]
    admitted_until: Annotated[
        Instant | None, Field(description="End of the admission; null while waiting.")
    ]
    recovering: Annotated[
        bool, Field(description="The room recovers from a data loss; the order is an estimate.")
    ]
    phase: Annotated[
        Literal[
            "NOT_OPEN",
            "GATHERING",
            "DRAWING",
            "OPEN",
            "PAUSED",
            "DRAINING",
            "BYPASSED",
            "CLOSED",
            "SOLD_OUT",
        ]
        | None,
        Field(
            description="What the waiting room does. `GATHERING`: it gives places and admits nobody"
            " before `opensAt`. `DRAWING`: gathering has closed, and each place gets its order at "
            "the opening. `SOLD_OUT`: every seat is sold; who stays may get a seat that returns. "
            "`DRAINING` and `CLOSED`: nobody is admitted any more."
        ),
    ] = None
    opens_at: Annotated[Instant | None, Field(description="Only before the opening.")] = None
    message: Annotated[
        Annotated[str, Field(max_length=280)] | None,
        Field(description="What the operator tells everybody who waits: plain text, not HTML."),
    ] = None
    seats_left: Annotated[
        Annotated[int, Field(ge=0)] | None,
        Field(
            description="Seats of the concerts behind this room that are not sold, at most two "
            "seconds ago: 57, and from 100 on rounded down to two digits (120, 19000). Absent "
            "while it is not known."
        ),
    ] = None


Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class DrawnCohort(ResponseBody):
    size: int
    sha256: Annotated[
        Sha256, Field(description="Of the numbers, ascending, each as 8 bytes, big-endian.")
    ]


class Draw(ResponseBody):
    room: str
    seed_sha256: Sha256
    public_value_source: Annotated[
        str | None,
        Field(description="Where a public value comes from that is mixed in; null: none is."),
    ]
    gather_from: Instant | None
    gather_until: Instant | None
    opens_at: Instant | None
    cohort: Annotated[DrawnCohort | None, Field(description="Null until gathering has closed.")]
    seed: Annotated[str | None, Field(description="Hexadecimal; null before the opening.")]
    public_value: str | None


class Concert(ResponseBody):
    id: Id
    title: str


class Concerts(ResponseBody):
    concerts: list[Concert]
    next_page_token: Annotated[str, Field(description="Absent on the last page.")] = ""


class Schedule(ResponseBody):
    id: Id
    date: Date
    status: Literal["AVAILABLE", "SOLD_OUT"]


class Schedules(ResponseBody):
    schedules: list[Schedule]


class Seat(ResponseBody):
    id: Id
    seat_num: Annotated[str, Field(examples=["A1"])]
    price: Money
    status: Literal["AVAILABLE", "HELD", "SOLD"]


class Seats(ResponseBody):
    seats: list[Seat]
    currency: Currency


# Not SeatStatus: generators of clients give that name to the status of a Seat.
class SeatsStatus(ResponseBody):
    version: Annotated[str, Field(description="Changes when this answer does.")]
    map_version: Annotated[
        str, Field(description="Changes when the seats or their prices do: read them again then.")
    ]
    held: list[Id]
    sold: Annotated[list[Id], Field(description="Also those that are not for sale.")]


class ReservedSeat(ResponseBody):
    id: Id
    seat_num: Annotated[str, Field(examples=["A1"])]
    price: Money


class Hold(ResponseBody):
    reservation_id: Id
    price: Annotated[Money, Field(description="The total of the seats.")]
    currency: Currency
    held_until: Instant
    seats: Annotated[list[ReservedSeat], Field(min_length=1, description="By id.")]


class Reservation(Hold):
    held_until: Annotated[  # type: ignore[assignment]  # null once paid
        Instant | None,
        Field(
            description="When the hold expires or expired; later while a payment is in progress; "
            "null once it is paid."
        ),
    ]
    concert_seat_id: Annotated[Id, Field(description="The first of `seats`.")]
    schedule_id: Id
    seat_num: Annotated[str, Field(examples=["A1"], description="Of the first of `seats`.")]
    status: Literal["HELD", "PAYING", "CONFIRMED", "CANCELLED", "EXPIRED"]


class Payment(ResponseBody):
    payment_id: Id
    reservation_id: Id
    status: Literal["SUCCEEDED", "PENDING"]


class Health(ResponseBody):
    status: Literal["live", "ready", "not ready", "draining"]
    away: Annotated[
        list[str], Field(description="Services that do not answer; `open files` if none is left.")
    ] = []
    room_view: Annotated[
        Literal[
            "current",
            "outage",
            "healing",
            "stale",
            "missing",
            "unrecorded",
            "unsupported",
            "off",
        ]
        | None,
        Field(
            description="Whether orders and admissions are answered from the copy of the waiting"
            " room. If not, queue_service is asked. Does not make the gateway unready; during an"
            " `outage`, a queue_service that does not answer does not either."
        ),
    ] = None


class FieldProblem(ResponseBody):
    field: str
    message: str


class Problem(ResponseBody):
    """RFC 9457, with a stable `code`."""

    type: str
    title: str
    status: int
    detail: str
    code: Annotated[str, Field(examples=["SEAT_HELD"])]
    request_id: str
    errors: Annotated[list[FieldProblem] | None, Field(description="INVALID_REQUEST only.")] = None
    order: Annotated[int | None, Field(description="STILL_WAITING only.")] = None
    conflicts: Annotated[
        list[Id] | None,
        Field(
            description="SEAT_HELD and SEAT_SOLD: the ids of the seats that are held or sold. "
            "SINGLE_SEAT_LEFT: those of the seats that would be left alone. "
            "SEAT_NOT_FOUND: the first that does not exist."
        ),
    ] = None
    opens_at: Annotated[
        Instant | None, Field(description="QUEUE_NOT_OPEN only: when the room opens, if known.")
    ] = None
    limit: Annotated[int | None, Field(description="TOO_MANY_SEATS only: the most seats.")] = None
    challenge: Annotated[
        dict[str, Any] | None,
        Field(
            description="CHALLENGE_REQUIRED only: an ALTCHA challenge (`parameters`, `signature`), "
            "or the `siteKey` of the operator's provider."
        ),
    ] = None
