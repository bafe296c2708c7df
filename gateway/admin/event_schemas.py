"""What the routes of events take and return."""

from typing import Annotated, Any

from pydantic import Field

from gateway.admin.schemas import Change, Id, Instant, Model, Text


class Event(Model):
    external_id: str
    concert_id: Id
    version: int
    status: Annotated[str, Field(description="DRAFT, PUBLISHED, CANCELLED or ARCHIVED.")]
    title: str
    room: str
    schedule_ids: list[Id]
    seats: Annotated[int, Field(description="Of all schedules, also blocked ones.")]


class EventWithDocument(Model):
    event: Event
    document: dict[str, Any]


class Events(Model):
    events: list[Event]
    next_page_token: str | None = None


class SeatCount(Model):
    schedule_id: Id
    seats: int


class ImportResult(Model):
    """What an import changed, or with `dryRun` would change."""

    external_id: str
    concert_id: Annotated[int, Field(description="0: the event does not exist yet.")]
    version: int
    status: Annotated[str | None, Field(description="Absent: the event does not exist yet.")]
    dry_run: bool
    changes: list[Change]
    blocked: Annotated[list[SeatCount], Field(description="Seats that leave the sale.")]
    released: Annotated[list[SeatCount], Field(description="Seats that return to the sale.")]
    closed_schedules: list[Id]
    reopened_schedules: list[Id]


class StatusResult(Model):
    event: Event
    ended_holds: Annotated[int, Field(description="Holds that the change has ended.")]
    paid: Annotated[int, Field(description="Paid reservations of the schedules it has closed.")]
    paying_reservation_ids: Annotated[
        list[Id], Field(description="Whose payments finish; at most 1,000. Ask again until empty.")
    ]


class Files(Model):
    """The texts of two files, so that each mistake is named with its line."""

    document: Annotated[Text, Field(description="JSON, as docs/event.schema.json describes it.")]
    seats_csv: Annotated[Text, Field(description="Its seats, which replace its sections.")]


class SeatChoice(Model):
    section: Text
    label: Text


class SeatsOfSchedule(Model):
    schedule: Annotated[Text, Field(description="External id of the schedule.")]
    seats: Annotated[list[SeatChoice], Field(min_length=1, max_length=100_000)]


class Buyer(Model):
    reservation_id: Id
    user_id: Id
    status: Annotated[str, Field(description="PAYING or CONFIRMED.")]
    price: str
    currency: str | None = None
    payment_id: Id | None = None
    seats: list[str]
    held_until: Instant | None = None


class Buyers(Model):
    buyers: list[Buyer]
    more: Annotated[bool, Field(description="Ask again with the greatest id as `after`.")]
