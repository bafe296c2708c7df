"""The copy of a room whose line is a draw."""

import asyncio
from array import array
from collections.abc import AsyncIterator

import pytest

from gateway.room import draw as gateway_draw
from gateway.room.copy import RoomCopy
from gateway.room.draw import RoomDraw
from protos.frontrow.concert.v1 import rooms_pb2
from protos.frontrow.queue.v1 import queue_pb2
from room_view.draw import Draw, cohort_sha256, draw_key
from room_view.view import RoomView
from servicekit.errors import NotFound, ServiceError, Unavailable
from tests.gateway.polling import until
from tests.room_view import described_draw

SEED = bytes(range(32))
NUMBERS = [10 * n for n in range(1, 101)]
LATE = [2_001, 2_002]
Change = queue_pb2.RoomChange


class Lists:
    """concert_service, which may not answer."""

    def __init__(self) -> None:
        self.error: ServiceError | None = None
        self.asked = 0

    async def draw(self, room: rooms_pb2.Room) -> Draw:
        self.asked += 1
        if self.error is not None:
            raise self.error
        assert room.draw.cohort.sha256.hex() == described_draw.list_hash(NUMBERS)
        return Draw(array("q", NUMBERS), draw_key(room.draw.seed, room.draw.public_value))


class Gateway:
    """A copy of the room, and the room as queue_service has it."""

    def __init__(self) -> None:
        self.copy = RoomCopy(0.3)
        self.lists = Lists()
        self.draw = RoomDraw(self.copy, self.lists, "main")
        self.seq = 0
        self.epoch = 1
        self.fields = queue_pb2.RoomFields(definition_version=1, is_draw=True, cohort_last=2_000)

    @property
    def view(self) -> RoomView:
        assert self.copy.view is not None
        return self.copy.view

    def snapshot(self) -> None:
        snapshot = queue_pb2.RoomSnapshot(
            epoch=self.epoch, seq=self.seq, fields=self.fields, waiting=[*NUMBERS, *LATE],
            complete_at_seq=self.seq, is_first=True, is_last=True,
        )  # fmt: skip
        self.copy.apply(queue_pb2.WatchRoomResponse(snapshot=snapshot))

    def drawn(self, ranks: int) -> None:
        self.fields.drawn, self.fields.cohort_size = ranks, len(NUMBERS)
        self.seq += 1
        fields = queue_pb2.RoomFields()
        fields.CopyFrom(self.fields)
        changes = queue_pb2.RoomChanges(
            epoch=self.epoch, seq=self.seq, changes=[Change(kind=Change.KIND_FIELDS, fields=fields)]
        )
        self.copy.apply(queue_pb2.WatchRoomResponse(changes=[changes]))

    def orders(self, public_value: str = "") -> list[int | None]:
        """The orders of all, those of the cohort by their ranks. None: must be asked for; 0: not
        drawn yet."""
        expected = [*described_draw.order(SEED, public_value, NUMBERS), *LATE]
        standings = [self.view.standing(number, 1, 0) for number in expected]
        return [None if s is None else s.order if s.is_drawn else 0 for s in standings]


def definition(*, source: str = "", value: str = "", closed: bool = True) -> rooms_pb2.Room:
    room = rooms_pb2.Room(
        name="main",
        order=rooms_pb2.LINE_ORDER_DRAW,
        public_value_source=source,
        draw=rooms_pb2.Draw(seed=SEED, public_value=value),
    )
    if closed:
        digest = cohort_sha256(array("q", NUMBERS))
        room.draw.cohort.CopyFrom(rooms_pb2.Cohort(size=len(NUMBERS), sha256=digest))
    return room


@pytest.fixture
async def gateway(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    monkeypatch.setattr(gateway_draw, "_RETRY_SECONDS", 0.01)
    gateway = Gateway()
    running = asyncio.create_task(gateway.draw.run())
    yield gateway
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


ALL: list[int | None] = list(range(1, 103))


async def test_takes_the_draw_when_it_is_decided_and_follows_its_steps(gateway: Gateway) -> None:
    gateway.snapshot()
    gateway.draw.define(definition(closed=False))
    gateway.drawn(30)
    await asyncio.sleep(0.02)
    assert gateway.orders() == [*[None] * 100, 101, 102]
    assert gateway.lists.asked == 0
    gateway.draw.define(definition())
    await until(lambda: not gateway.view.is_behind() and gateway.view.ranks is not None)
    assert gateway.orders() == [*range(1, 31), *[0] * 70, 101, 102]
    gateway.drawn(100)
    assert gateway.orders() == ALL


async def test_is_idle_between_changes(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway.snapshot()
    taken = []
    use_draw = gateway.copy.use_draw

    def counted(draw: Draw | None) -> None:
        taken.append(draw)
        use_draw(draw)

    monkeypatch.setattr(gateway.copy, "use_draw", counted)
    gateway.draw.define(definition(closed=False))
    for _ in range(100):
        await asyncio.sleep(0)
    assert taken == [None]


async def test_waits_for_the_public_value(gateway: Gateway) -> None:
    gateway.snapshot()
    gateway.drawn(100)
    gateway.draw.define(definition(source="the lottery"))
    await asyncio.sleep(0.02)
    assert gateway.lists.asked == 0
    gateway.draw.define(definition(source="the lottery", value="7"))
    await until(lambda: gateway.orders("7") == ALL)


@pytest.mark.parametrize("error", [Unavailable("It is away."), NotFound("It knows no such room.")])
async def test_asks_for_places_until_concert_service_answers(
    gateway: Gateway, error: ServiceError
) -> None:
    gateway.lists.error = error
    gateway.snapshot()
    gateway.drawn(100)
    gateway.draw.define(definition())
    await until(lambda: gateway.lists.asked >= 3)
    assert gateway.orders() == [*[None] * 100, 101, 102]
    gateway.lists.error = None
    await until(lambda: gateway.orders() == ALL)


async def test_the_next_view_gets_the_draw_too(gateway: Gateway) -> None:
    gateway.draw.define(definition())
    gateway.snapshot()
    gateway.drawn(100)
    await until(lambda: gateway.orders() == ALL)
    gateway.epoch, gateway.seq = 2, 0
    gateway.snapshot()
    await until(lambda: gateway.orders() == ALL)
    assert gateway.lists.asked == 1
    # What the copy knows of the lost epoch keeps its order.
    assert gateway.copy.lost.newest is not None
    assert gateway.copy.lost.newest.order(LATE[0]) == 101


async def test_a_room_that_is_no_draw_any_more_has_its_line(gateway: Gateway) -> None:
    gateway.draw.define(definition())
    gateway.snapshot()
    gateway.drawn(100)
    await until(lambda: gateway.orders() == ALL)
    gateway.draw.define(None)
    await until(lambda: gateway.view.ranks is None)
    assert gateway.orders() == [*[None] * 100, 101, 102]
