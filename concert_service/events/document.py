"""The form of an event document. docs/event.schema.json is generated from these models.

The models check each value by itself; `rules` checks what values have to do with each other.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    StringConstraints,
    Tag,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticCustomError

from concert_service.events.instants import to_instant, zone_names
from concert_service.texts import one_line, several_lines
from protos import money

MAX_DOCUMENT_BYTES = 8_000_000
"""Together with the CSV file of its seats."""

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
"""What a receiver has to accept: a document, and what else a message has."""

# A layout of more takes too many bytes for one response: see `concert_service.seat_map`.
MAX_SEATS = 50_000
# Of all schedules: one transaction adds them.
MAX_SEATS_OF_ALL_SCHEDULES = 500_000
MAX_NAME = 32
MAX_LABEL = 16
MAX_PLACE = 65_535
_MAX_COORDINATE = 2**31 - 1
_PRICE = re.compile(r"\d{1,12}(\.\d{1,3})?", re.ASCII)


def _price(value: object) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if not isinstance(value, str) or not _PRICE.fullmatch(value):
        raise PydanticCustomError(
            "price",
            "Must be a string of at most 12 digits, with at most 3 after a point, as in"
            ' "150000" or "49.90".',
        )
    return Decimal(value)


def _currency(value: str) -> str:
    if not money.is_currency(value):
        raise PydanticCustomError("currency", "Must be the ISO 4217 code of a currency, as in EUR.")
    return value


def _zone(value: str) -> str:
    if value not in zone_names():
        raise PydanticCustomError(
            "time_zone", "Must be the IANA name of a time zone, as in Asia/Seoul."
        )
    return value


class Allowance:
    """How many mistakes a validation may still find, given to it as its context. A document of 8 MB
    can have millions, of which each takes 1.5 kB."""

    def __init__(self, mistakes: int) -> None:
        self.left = mistakes


def _while_allowed(
    value: object, validate: ValidatorFunctionWrapHandler, info: ValidationInfo
) -> object:
    """Validates an item of a long list, unless so many mistakes were found before that the document
    is refused in any case."""
    allowance = info.context
    if not isinstance(allowance, Allowance):
        return validate(value)
    if allowance.left <= 0:
        return value
    before = allowance.left
    try:
        return validate(value)
    except ValidationError as error:
        # With those of the items inside, which are subtracted already.
        allowance.left = before - error.error_count()
        raise


_WhileAllowed = WrapValidator(_while_allowed)

Name = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_NAME), AfterValidator(one_line)
]
RowName = Annotated[str, StringConstraints(min_length=1, max_length=16), AfterValidator(one_line)]
Label = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_LABEL), AfterValidator(one_line)
]
ExternalId = Annotated[
    str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
]
Instant = Annotated[
    datetime,
    BeforeValidator(to_instant),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
Price = Annotated[
    Decimal,
    BeforeValidator(_price),
    WithJsonSchema({"type": "string", "pattern": f"^{_PRICE.pattern}$"}),
]
Separator = Literal["", "-", " ", "."]
Place = Annotated[int, Field(ge=1, le=MAX_PLACE)]
Coordinate = Annotated[int, Field(ge=-_MAX_COORDINATE, le=_MAX_COORDINATE)]
Rank = Annotated[int, Field(ge=1, le=1_000_000)]


class _Model(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
    )


class PriceCategory(_Model):
    """Seats of one price."""

    name: Name
    """As buyers see it."""

    price: Price
    """0 or more, with no more decimal places than the currency has."""


class ListedSeat(_Model):
    """One seat of a row."""

    label: Label
    """As printed on the ticket. Once in its section."""

    place: Place
    """Seats of one row whose places follow one another are adjacent."""

    price_category: Name | None = None
    """Default: that of the row."""

    accessible: bool = False
    """For somebody in a wheelchair."""

    companion: bool = False
    """For the companion of somebody in an accessible seat."""

    x: Coordinate | None = None
    y: Coordinate | None = None


class ListedRow(_Model):
    """A row whose seats are listed."""

    name: RowName
    rank: Rank | None = None
    """The best row of the hall has the lowest. Default: after the rows that have one, in the order
    of the document."""

    price_category: Name | None = None
    """Of seats that name none."""

    seats: Annotated[
        list[Annotated[ListedSeat, _WhileAllowed]], Field(min_length=1, max_length=MAX_SEATS)
    ]


class NumberedRow(_Model):
    """A row whose seats are numbered: row A from 1 to 3 has the seats A1, A2, A3."""

    name: RowName
    rank: Rank | None = None
    """The best row of the hall has the lowest. Default: after the rows that have one, in the order
    of the document."""

    price_category: Name
    first: Place = Field(alias="from")
    last: Place = Field(alias="to")
    separator: Separator = ""
    """Between the row and the number in the labels. Rows 1 and 11 need one: without it, both have a
    seat 111."""

    accessible: list[Annotated[Place, _WhileAllowed]] = []
    """The numbers of seats for people in wheelchairs."""

    companions: list[Annotated[Place, _WhileAllowed]] = []
    """The numbers of seats for their companions."""

    x: Coordinate | None = None
    """Of the first seat."""

    y: Coordinate | None = None
    """Of all its seats."""

    step: Coordinate = 1
    """How much x grows from seat to seat."""


class StandingPlaces(_Model):
    """Places that are assigned in any order; buyers do not choose among them."""

    capacity: Annotated[int, Field(ge=1, le=MAX_SEATS)]
    price_category: Name
    rank: Rank | None = None
    """As of a row."""


class SeatedSection(_Model):
    """A part of the hall that has seats."""

    name: Name
    rows: Annotated[
        list[
            Annotated[
                Annotated[ListedRow, Tag("<listed>")] | Annotated[NumberedRow, Tag("<numbered>")],
                Discriminator(lambda row: _tag(row, "seats", "<listed>", "<numbered>")),
                _WhileAllowed,
            ]
        ],
        Field(min_length=1, max_length=2_000),
    ]


class StandingSection(_Model):
    """A part of the hall that has a capacity and no seats: its places are GA1, GA2, …"""

    name: Name
    general_admission: StandingPlaces


class SeatReference(_Model):
    """Names a seat."""

    section: Name
    label: Label


class EventSchedule(_Model):
    """One date of the event. All of them have the same seats."""

    external_id: ExternalId
    """Once in the event. Imports keep the date that has it."""

    starts_at: Instant
    """With an offset from UTC. The date at the venue is what buyers see."""

    sales_from: Instant | None = None
    """When seats may be held. Default: as soon as the event is published."""

    sales_until: Instant | None = None
    """Default: until the end of the date at the venue."""

    cancelled: bool = False
    blocked: Annotated[
        list[Annotated[SeatReference, _WhileAllowed]], Field(max_length=MAX_SEATS)
    ] = []
    """Seats that the house keeps."""


class EventDocument(_Model):
    """An event: its seats, prices and dates."""

    json_schema_url: str | None = Field(default=None, alias="$schema", max_length=500)
    """For editors that check the document against this schema while somebody writes it."""

    external_id: ExternalId
    """Names the event for ever: importing a document with the same one changes that event."""

    title: Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(one_line)]
    description: Annotated[
        str, StringConstraints(max_length=5_000), AfterValidator(several_lines)
    ] = ""
    venue: Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(one_line)]
    time_zone: Annotated[str, AfterValidator(_zone)]
    """IANA name of the venue's time zone."""

    image_url: Annotated[
        str, StringConstraints(max_length=500, pattern=r"^(https?://[!-~]+)?$")
    ] = ""
    currency: Annotated[str, AfterValidator(_currency)]
    """ISO 4217 code of all prices."""

    room: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,64}$")] = "main"
    """The waiting room that leads to the event."""

    price_categories: Annotated[list[PriceCategory], Field(min_length=1, max_length=100)]
    sections: Annotated[
        list[
            Annotated[
                Annotated[StandingSection, Tag("<standing>")]
                | Annotated[SeatedSection, Tag("<seated>")],
                Discriminator(
                    lambda section: _tag(section, "generalAdmission", "<standing>", "<seated>")
                ),
            ]
        ],
        Field(min_length=1, max_length=200),
    ]
    schedules: Annotated[list[EventSchedule], Field(min_length=1, max_length=500)]


Row = ListedRow | NumberedRow
Section = SeatedSection | StandingSection
# What pydantic puts into the location of an error, and no document has.
TAGS = frozenset({"<listed>", "<numbered>", "<standing>", "<seated>"})


def _tag(value: object, key: str, with_key: str, without: str) -> str:
    """Decides by one member which form was meant, so that mistakes are those of one form."""
    if isinstance(value, dict):
        return with_key if key in value else without
    return with_key if isinstance(value, ListedRow | StandingSection) else without


class _Schema(GenerateJsonSchema):
    """Without titles, which only repeat the names."""

    def field_title_should_be_set(self, schema: object) -> bool:
        return False


def json_schema() -> dict[str, JsonValue]:
    """Returns the JSON Schema (2020-12) of event documents."""
    schema: dict[str, JsonValue] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **EventDocument.model_json_schema(by_alias=True, schema_generator=_Schema),
    }
    return schema


def labels_of(row: Row) -> Iterator[tuple[str, int]]:
    """Yields the label and the place of each seat of a row."""
    if isinstance(row, ListedRow):
        yield from ((seat.label, seat.place) for seat in row.seats)
    else:
        yield from ((f"{row.name}{row.separator}{n}", n) for n in range(row.first, row.last + 1))


def standing_label(number: int) -> str:
    """Returns the label of the n-th place of a section without seats."""
    return f"GA{number}"
