"""Signs of life wait in bounded memory until a heartbeat confirms them."""

import time

import pytest

from gateway.room import signs as room_signs
from gateway.room.signs import SignsOfLife
from protos.frontrow.queue.v1 import queue_pb2
from protos.limits import MAX_ITEMS

ABSENT_AFTER_MS = 300_000


def place(number: int) -> queue_pb2.Place:
    return queue_pb2.Place(room="main", number=number)


@pytest.fixture
def signs() -> SignsOfLife:
    signs = SignsOfLife()
    signs.use(queue_pb2.RoomRules(absent_after_ms=ABSENT_AFTER_MS))
    return signs


def take_all(signs: SignsOfLife) -> list[int]:
    """Sends and confirms everything."""
    numbers: list[int] = []
    heartbeat_id = 1_000
    while signs.pending:
        numbers += [place.number for place in signs.take(heartbeat_id)]
        signs.confirmed(heartbeat_id)
        heartbeat_id += 1
    return numbers


def test_no_message_takes_any_while_too_many_are_unconfirmed(signs: SignsOfLife) -> None:
    for number in range(1, 20 * MAX_ITEMS + 1):
        signs.note(place(number))
    taken = [len(signs.take(heartbeat_id)) for heartbeat_id in range(1, 21)]
    assert taken == [MAX_ITEMS] * 8 + [0] * 12
    assert signs.is_held
    signs.confirmed(20)  # without any: it answers the earlier ones
    assert not signs.is_held
    assert take_all(signs) == list(range(8 * MAX_ITEMS + 1, 20 * MAX_ITEMS + 1))


def test_an_outage_with_many_streams_keeps_the_newest_only(
    signs: SignsOfLife, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_signs, "_MAX_PENDING", 1_000)
    number = 0
    for heartbeat_id in range(1, 40):
        for _ in range(300):
            number += 1
            signs.note(place(number))
        signs.take(heartbeat_id)
        if heartbeat_id % 5 == 0:
            signs.disconnected()
            assert signs.pending <= 1_000
    signs.disconnected()
    assert take_all(signs) == list(range(number - 999, number + 1))
    # What was dropped is reported at its next poll, and what was reported is not.
    signs.note(place(number - 1_000))
    signs.note(place(number))
    assert take_all(signs) == [number - 1_000]


def test_each_of_100_000_places_is_reported_once_in_a_quarter_of_the_window(
    signs: SignsOfLife, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for a few, which share their memory with too many others."""
    now = 1_000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    first = 1_790_000_000_000_000
    numbers = range(first, first + 1_300_000, 13)

    def poll_all() -> int:
        """How many are reported."""
        reported = 0
        for number in numbers:
            signs.note(place(number))
            if signs.pending == MAX_ITEMS:
                reported += len(take_all(signs))
        return reported + len(take_all(signs))

    assert poll_all() == len(numbers)
    for _ in range(2):
        now += ABSENT_AFTER_MS / 1_000 / 10
        assert poll_all() <= 0.05 * len(numbers)
    now += ABSENT_AFTER_MS / 1_000 / 10
    assert poll_all() >= 0.95 * len(numbers)


def test_a_loss_makes_all_places_report_again(signs: SignsOfLife) -> None:
    signs.note(place(1))
    assert take_all(signs) == [1]
    signs.report_again()
    signs.note(place(1))
    assert take_all(signs) == [1]
