"""The JSON bodies, as the OpenAPI page states them. The hottest replies are written as ready
bytes in `routes`; the tests hold them against these models."""

from datetime import date as Date
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from gateway.requests import Body, Id

Money = Annotated[str, Field(pattern=r"^\d+\.\d{2}$", examples=["150000.00"])]
Instant = Annotated[
    str, Field(json_schema_extra={"format": "date-time"}, examples=["2026-12-24T19:30:00.000Z"])
]


class Reply(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class EnterQueueBody(Body):
    user_id: Id


class ReserveBody(Body):
    user_id: Id
    concert_seat_id: Id


class PayBody(Body):
    user_id: Id


class QueueOrder(Reply):
    order: Annotated[int, Field(ge=0, description="1 = next in line, 0 = admitted.")]
    poll_after_seconds: Annotated[
        float, Field(description="Ask again after this time; 0 when admitted.")
    ]
    estimated_wait_seconds: Annotated[
        float, Field(description="What the remaining wait may be; 0 when admitted.")
    ]
    admitted_until: Annotated[
        Instant | None, Field(description="End of the admission; null while waiting.")
    ]
    recovering: Annotated[
        bool, Field(description="The room recovers from a loss: the order is an estimate.")
    ]


class Concert(Reply):
    id: Id
    title: str


class Concerts(Reply):
    concerts: list[Concert]
    next_page_token: Annotated[str, Field(description="Absent on the last page.")] = ""


class Schedule(Reply):
    id: Id
    date: Date
    status: Literal["AVAILABLE", "SOLD_OUT"]


class Schedules(Reply):
    schedules: list[Schedule]


class Seat(Reply):
    id: Id
    seat_num: Annotated[str, Field(examples=["A1"])]
    price: Money
    status: Literal["AVAILABLE", "HELD", "SOLD"]


class Seats(Reply):
    seats: list[Seat]


class Hold(Reply):
    reservation_id: Id
    price: Money
    held_until: Instant


class Reservation(Hold):
    held_until: Annotated[  # type: ignore[assignment]  # a hold has an end, a sold seat none
        Instant | None,
        Field(
            description="When the hold lapses, or lapsed; later while a payment is under way; "
            "null once it is paid."
        ),
    ]
    concert_seat_id: Id
    schedule_id: Id
    seat_num: Annotated[str, Field(examples=["A1"])]
    status: Literal["HELD", "PAYING", "CONFIRMED", "CANCELLED", "EXPIRED"]


class Payment(Reply):
    payment_id: Id
    reservation_id: Id
    status: Literal["SUCCEEDED", "PENDING"]


class Health(Reply):
    status: Literal["live", "ready", "not ready", "draining"]
    away: Annotated[list[str], Field(description="Services that do not answer.")] = []


class FieldProblem(Reply):
    field: str
    message: str


class Problem(Reply):
    """RFC 9457, with a stable `code`."""

    type: str
    title: str
    status: int
    detail: str
    code: Annotated[str, Field(examples=["SEAT_HELD"])]
    request_id: str
    errors: Annotated[list[FieldProblem] | None, Field(description="INVALID_REQUEST only.")] = None
    order: Annotated[int | None, Field(description="STILL_WAITING only.")] = None
