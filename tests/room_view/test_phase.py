"""What a room does at each moment of its times, and in each mode."""

from typing import Any

import pytest

from protos.frontrow.queue.v1 import queue_pb2
from room_view.phase import admits, gives_places, is_ordered, is_over, next_change_ms, phase_of

GATHERS, CLOSES_LINE, OPENS, CLOSES = 1_000, 1_800, 2_000, 3_000
NOT_OPEN = queue_pb2.ROOM_PHASE_NOT_OPEN
GATHERING = queue_pb2.ROOM_PHASE_GATHERING
DRAWING = queue_pb2.ROOM_PHASE_DRAWING
OPEN = queue_pb2.ROOM_PHASE_OPEN
PAUSED = queue_pb2.ROOM_PHASE_PAUSED
DRAINING = queue_pb2.ROOM_PHASE_DRAINING
BYPASSED = queue_pb2.ROOM_PHASE_BYPASSED
CLOSED = queue_pb2.ROOM_PHASE_CLOSED


def fields(**changes: Any) -> queue_pb2.RoomFields:
    """A room that gathers, opens and closes, with some changes."""
    times = {"gather_from_ms": GATHERS, "opens_at_ms": OPENS, "closes_at_ms": CLOSES}
    return queue_pb2.RoomFields(definition_version=1, **{**times, **changes})


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (GATHERS - 1, NOT_OPEN),
        (GATHERS, GATHERING),
        (OPENS - 1, GATHERING),
        (OPENS, OPEN),
        (CLOSES - 1, OPEN),
        (CLOSES, CLOSED),
    ],
)
def test_each_time_begins_a_phase(now: int, expected: int) -> None:
    assert phase_of(fields(), now) == expected


@pytest.mark.parametrize(
    ("mode", "at_each_time"),
    [
        ("paused", (NOT_OPEN, PAUSED, PAUSED, CLOSED)),
        ("draining", (DRAINING, DRAINING, DRAINING, CLOSED)),
        ("bypassed", (BYPASSED, BYPASSED, BYPASSED, CLOSED)),
    ],
)
def test_modes_at_each_time(mode: str, at_each_time: tuple[int, ...]) -> None:
    room = fields(**{mode: True})
    assert tuple(phase_of(room, now) for now in (0, GATHERS, OPENS, CLOSES)) == at_each_time


def test_a_draw_closes_gathering_before_the_opening() -> None:
    draw = fields(is_draw=True, gather_until_ms=CLOSES_LINE)
    assert phase_of(draw, CLOSES_LINE - 1) == GATHERING
    assert phase_of(draw, CLOSES_LINE) == DRAWING
    assert phase_of(draw, OPENS) == OPEN


def test_a_room_without_a_definition_is_open_or_paused() -> None:
    assert phase_of(queue_pb2.RoomFields(), 0) == OPEN
    assert phase_of(queue_pb2.RoomFields(paused=True), 0) == PAUSED
    assert is_ordered(queue_pb2.RoomFields(), 0)
    assert next_change_ms(queue_pb2.RoomFields(opens_at_ms=OPENS), 0) == 0


def test_a_room_without_times_is_open() -> None:
    room = queue_pb2.RoomFields(definition_version=1)
    assert phase_of(room, 0) == OPEN
    assert next_change_ms(room, 0) == 0


def test_what_each_phase_allows() -> None:
    every = queue_pb2.RoomPhase.values()
    assert {p for p in every if gives_places(p)} == {GATHERING, DRAWING, OPEN, BYPASSED}
    assert {p for p in every if admits(p)} == {OPEN, BYPASSED}
    assert {p for p in every if is_over(p)} == {DRAINING, CLOSED}


def test_places_have_no_order_before_the_opening() -> None:
    assert not is_ordered(fields(), OPENS - 1)
    assert not is_ordered(fields(paused=True), OPENS - 1)
    assert is_ordered(fields(), OPENS)
    assert is_ordered(fields(bypassed=True), GATHERS)


@pytest.mark.parametrize(("now", "expected"), [(0, 1_000), (999, 1), (1_000, 1_000), (3_000, 0)])
def test_the_next_time_of_the_definition(now: int, expected: int) -> None:
    assert next_change_ms(fields(), now) == expected
