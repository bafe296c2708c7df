"""A room of a million places on its way from a replica of queue_service to a gateway."""

import random
import time
import tracemalloc

import pytest

from gateway.room.copy import RoomCopy as GatewayCopy
from protos.frontrow.queue.v1 import queue_pb2
from queue_service.room_copy import RoomCopy
from room_view.line import Line
from room_view.view import RoomView
from tests.queue_service.watching import RULES, Store

pytestmark = pytest.mark.long

MILLION = 1_000_000


def replica() -> RoomCopy:
    numbers = sorted(random.Random(1).sample(range(2**45), MILLION))
    copy = RoomCopy(Store(), "main", RULES)
    copy.view = RoomView(1, 5, RULES, queue_pb2.RoomFields(), numbers[-1], Line(numbers))
    return copy


def make(copy: RoomCopy) -> tuple[list[bytes], list[float]]:
    """The messages of a snapshot, and the seconds that each takes."""
    messages: list[bytes] = []
    taken: list[float] = []
    parts = copy.snapshot()
    while True:
        start = time.perf_counter()
        part = next(parts, None)
        if part is None:
            return messages, taken
        messages.append(queue_pb2.WatchRoomResponse(snapshot=part).SerializeToString())
        taken.append(time.perf_counter() - start)


def take(messages: list[bytes]) -> tuple[GatewayCopy, list[float]]:
    """The copy that these messages make, and the seconds that each takes."""
    copy, taken = GatewayCopy(0.3), []
    for message in messages:
        start = time.perf_counter()
        copy.apply(queue_pb2.WatchRoomResponse.FromString(message))
        taken.append(time.perf_counter() - start)
    return copy, taken


def best(runs: list[list[float]]) -> list[float]:
    """The shortest time of each step: other programs disturb some of them."""
    return list(map(min, zip(*runs, strict=True)))


def test_a_snapshot_stalls_nobody() -> None:
    source = replica()
    messages = make(source)[0]
    making = best([make(source)[1] for _ in range(3)])
    taking = best([take(messages)[1] for _ in range(3)])
    assert max(making) <= 20e-3
    assert max(taking) <= 20e-3
    assert sum(making) + sum(taking) <= 0.5


def test_a_copy_takes_at_most_10_megabytes() -> None:
    messages = make(replica())[0]
    tracemalloc.start()
    copy, _ = take(messages)
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert copy.view is not None
    assert len(copy.view.line) == MILLION
    assert used <= 10e6
