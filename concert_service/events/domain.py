"""What the use cases of event documents take and return."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from concert_service.domain import EventStatus
from concert_service.events.difference import Change
from concert_service.events.problem import Problem

KEPT_DOCUMENTS = 20
ENDED = (EventStatus.CANCELLED, EventStatus.ARCHIVED)
"""Events in these states do not change any more."""


@dataclass(frozen=True, slots=True)
class Event:
    """The state of an event. `seats`: those of all dates, with those that the house blocks."""

    external_id: str
    concert_id: int
    version: int
    status: EventStatus
    title: str
    room: str
    schedule_ids: Sequence[int]
    seats: int


@dataclass(slots=True)
class Effects:
    """What reservation_service must know; seats by the id of their date."""

    blocked: dict[int, list[int]] = field(default_factory=dict)
    removed: dict[int, list[int]] = field(default_factory=dict)
    released: dict[int, list[int]] = field(default_factory=dict)
    closed: list[int] = field(default_factory=list)
    reopened: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import has done, or would do. No event: there is none yet, and nothing was stored."""

    external_id: str
    event: Event | None
    changes: Sequence[Change] = ()
    effects: Effects = field(default_factory=Effects)
    problems: Sequence[Problem] = ()
