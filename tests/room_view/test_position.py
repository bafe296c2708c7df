"""How often to ask again, and how long it may take."""

from collections import Counter
from typing import Any

import pytest

from protos.frontrow.queue.v1 import queue_pb2
from room_view.position import ENDED, Pacing, PlaceState, Position, Standing

NOW = 1_800_000_000_000
ROOM = queue_pb2.RoomFields(
    capacity=500,
    max_waiting=1_000_000,
    pace_at_ms=NOW - 60_000,
    pace_now=6_000,
    pace_before=6_000,
)


def pacing(poll_max_ms: int = 60_000) -> Pacing:
    return Pacing(
        queue_pb2.RoomRules(poll_min_ms=1_000, poll_max_ms=poll_max_ms, admission_ttl_ms=600_000)
    )


PACING = pacing()


def but(**changes: Any) -> queue_pb2.RoomFields:
    """The fields of ROOM with some changed."""
    fields = queue_pb2.RoomFields()
    fields.CopyFrom(ROOM)
    for name, value in changes.items():
        setattr(fields, name, value)
    return fields


def position(standing: Standing, fields: queue_pb2.RoomFields) -> Position:
    return PACING.position(standing, 1, fields, NOW)


def waiting(order: int) -> Standing:
    return Standing(PlaceState.WAITING, order=order)


def test_the_wait_follows_the_recent_pace() -> None:
    # 12,000 in two minutes are 100 per second.
    assert position(waiting(100), ROOM).estimated_wait_ms == 1_000
    assert position(waiting(100_000), ROOM).estimated_wait_ms == 1_000_000


def test_without_a_recent_pace_everybody_is_thought_slow() -> None:
    # 500 slots, each free once in ten minutes.
    still = but(pace_at_ms=0, pace_now=0, pace_before=0)
    assert position(waiting(500), still).estimated_wait_ms == 600_000
    closed = but(capacity=0, pace_at_ms=0, pace_now=0, pace_before=0)
    assert position(waiting(1), closed).estimated_wait_ms == 600_000


def test_a_grace_is_waited_for_first() -> None:
    recovering = but(grace_until_ms=NOW + 5_000, settled_at_ms=NOW + 5_000)
    seen = position(waiting(100), recovering)
    assert seen.estimated_wait_ms == 6_000
    assert seen.recovering
    settling = but(settled_at_ms=NOW + 5_000)
    assert position(waiting(100), settling).recovering
    assert not position(waiting(100), ROOM).recovering


@pytest.mark.parametrize(
    ("order", "poll"),
    [
        (1, 1_000),
        (100, 1_000),
        (1_000, 5_000),
        (2_000, 10_000),
        (12_000, 60_000),
        (10**6, 60_000),
    ],
)
def test_polls_come_at_half_the_wait_within_their_limits(order: int, poll: int) -> None:
    assert poll_after(order, ROOM) == within_a_quarter(poll)


@pytest.mark.parametrize(("order", "poll"), [(1, 1_100), (10, 2_000), (90, 10_000)])
def test_in_a_slow_room_the_first_ask_often_all_the_same(order: int, poll: int) -> None:
    slow = but(capacity=10, pace_now=0, pace_before=0)
    assert poll_after(order, slow) == within_a_quarter(poll)


def test_no_poll_is_outside_the_limits() -> None:
    polls = [poll_after(order, ROOM) for order in range(1, 50_000)]
    assert min(polls) >= 1_000
    assert max(polls) <= 60_000


def test_the_first_hundred_poll_as_often_as_with_a_longest_pause_of_ten_seconds() -> None:
    """A free slot idles until its owner polls."""
    ten = pacing(poll_max_ms=10_000)
    for room in (ROOM, but(capacity=10, pace_now=0, pace_before=0)):
        for order in range(1, 101):
            standing = waiting(order)
            assert position(standing, room) == ten.position(standing, 1, room, NOW)


def test_beyond_the_first_hundred_the_pause_grows_with_the_order() -> None:
    slow = but(capacity=10, pace_now=0, pace_before=0)
    assert poll_after(101, slow) == within_a_quarter(10_010)
    assert poll_after(1_100, slow) == within_a_quarter(20_000)
    assert poll_after(5_100, slow) == within_a_quarter(60_000)


def test_neighbours_in_line_do_not_come_back_together() -> None:
    # Any 100 of them over the last quarter of 60 s: in no tenth of it more than 15.
    for first in range(12_000, 15_000, 100):
        polls = [poll_after(order, ROOM) for order in range(first, first + 100)]
        tenths = Counter((60_000 - poll) // 1_500 for poll in polls)
        assert len(tenths) == 10
        assert max(tenths.values()) <= 15


def poll_after(order: int, room: queue_pb2.RoomFields) -> int:
    """Milliseconds until the next poll of a place with this order."""
    return position(waiting(order), room).poll_after_ms


def within_a_quarter(poll: int) -> object:
    """At `poll` or up to a quarter earlier, in milliseconds."""
    return pytest.approx(poll * 7 / 8, abs=poll / 8)


@pytest.mark.parametrize("standing", [ENDED, Standing(PlaceState.ADMITTED, admitted_until_ms=9)])
def test_who_does_not_wait_has_no_reason_to_ask(standing: Standing) -> None:
    seen = position(standing, ROOM)
    assert (seen.estimated_wait_ms, seen.poll_after_ms) == (0, 60_000)
    assert seen.standing is standing


OPENING = but(definition_version=1, opens_at_ms=NOW + 30_000)


def polls_of_gathered(waiting_places: int, fields: queue_pb2.RoomFields) -> list[int]:
    """When neighbours poll next, in ms."""
    return [
        PACING.position(waiting(waiting_places), number, fields, NOW).poll_after_ms
        for number in range(2**40, 2**40 + 1_000)
    ]


def test_the_first_polls_after_an_opening_are_spread() -> None:
    after = [poll - 30_000 for poll in polls_of_gathered(100_000, OPENING)]
    assert min(after) >= 0
    assert max(after) < 20_000  # 5,000 a second
    per_second = Counter(poll // 1_000 for poll in after)
    assert len(per_second) == 20
    assert max(per_second.values()) < 100


def test_long_before_an_opening_polls_are_as_rare_as_is_allowed() -> None:
    polls = polls_of_gathered(10, but(definition_version=1, opens_at_ms=NOW + 3_600_000))
    assert 45_000 <= min(polls) < max(polls) <= 60_000


def test_who_gathers_is_told_how_long_it_is_until_the_opening() -> None:
    """Their order is the number of people, and nobody knows the pace: not hours for 40 people."""
    slow = but(
        definition_version=1, opens_at_ms=NOW + 17_000, capacity=1, pace_now=0, pace_before=0
    )
    assert position(waiting(40), slow).estimated_wait_ms == 17_000
    slow.is_draw, slow.gather_until_ms = True, NOW
    assert position(waiting(40), slow).estimated_wait_ms == 17_000
    slow.paused = True
    assert position(waiting(40), slow).estimated_wait_ms == 17_000
    slow.paused, slow.opens_at_ms = False, NOW
    assert position(waiting(40), slow).estimated_wait_ms > 17_000


def test_a_limit_per_minute_makes_the_wait_longer() -> None:
    slow = but(definition_version=1, admissions_per_minute=60)
    assert position(waiting(100), slow).estimated_wait_ms == 100_000


def test_positions_tell_the_phase() -> None:
    assert position(ENDED, ROOM).phase == queue_pb2.ROOM_PHASE_OPEN
    assert position(waiting(1), OPENING).message().phase == queue_pb2.ROOM_PHASE_GATHERING
