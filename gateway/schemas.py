"""The JSON bodies, as the OpenAPI document states them. The most frequent responses are written as
encoded bytes in `routes`; the tests check them against these models."""

from datetime import date as Date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from gateway.requests import Id, RequestBody

Seconds = Annotated[int, Field(ge=1)]
Money = Annotated[str, Field(pattern=r"^\d+\.\d{2}$", examples=["150000.00"])]
Instant = Annotated[
    str, Field(json_schema_extra={"format": "date-time"}, examples=["2026-12-24T19:30:00.000Z"])
]


class ResponseBody(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class EnterQueueRequest(RequestBody):
    user_id: Id


class EnterQueueWithLoginRequest(RequestBody):
    """The user comes from the Authorization header; a userId must be the same one."""

    user_id: Id | None = None


class HoldSeatRequest(RequestBody):
    user_id: Id
    concert_seat_id: Id


class PayReservationRequest(RequestBody):
    user_id: Id


class QueueOrder(ResponseBody):
    order: Annotated[int, Field(ge=0, description="1 = next in line, 0 = admitted.")]
    poll_after_seconds: Annotated[
        float, Field(description="Poll again after this time; 0 when admitted.")
    ]
    estimated_wait_seconds: Annotated[
        float, Field(description="Estimate of the remaining wait; 0 when admitted.")
    ]
    admitted_until: Annotated[
        Instant | None, Field(description="End of the admission; null while waiting.")
    ]
    recovering: Annotated[
        bool, Field(description="The room recovers from a data loss; the order is an estimate.")
    ]


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


class Hold(ResponseBody):
    reservation_id: Id
    price: Money
    held_until: Instant


class Reservation(Hold):
    held_until: Annotated[  # type: ignore[assignment]  # null once paid
        Instant | None,
        Field(
            description="When the hold expires or expired; later while a payment is in progress; "
            "null once it is paid."
        ),
    ]
    concert_seat_id: Id
    schedule_id: Id
    seat_num: Annotated[str, Field(examples=["A1"])]
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
    challenge: Annotated[
        dict[str, Any] | None,
        Field(
            description="CHALLENGE_REQUIRED only: an ALTCHA challenge (`parameters`, `signature`), "
            "or the `siteKey` of the operator's provider."
        ),
    ] = None
