"""The rules of rooms and draws, on the fake store and on MariaDB."""

import hashlib
import struct
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from concert_service.rooms.draws import DrawService
from concert_service.rooms.errors import (
    DrawNotClosed,
    InvalidRoom,
    PublicValueSet,
    RoomChanged,
    RoomHasBegun,
    RoomInUse,
    RoomNotFound,
    TooManyRooms,
)
from concert_service.rooms.ports import RoomStore
from concert_service.rooms.repository import RoomRepository, to_message
from concert_service.rooms.rules import MAX_ROOMS
from concert_service.rooms.service import RoomService
from concert_service.rooms.servicer import DrawServicer, RoomAdminServicer
from protos.frontrow.concert.v1 import rooms_pb2
from servicekit.errors import InvalidRequest, ServiceError
from servicekit.mysql import Database
from tests.fakes.rooms import FakeRoomStore

START = 1_900_000_000
"""When the tests begin, Unix time in seconds."""


class Clock:
    def __init__(self) -> None:
        self.seconds = START

    def __call__(self) -> int:
        return self.seconds * 1000


def fifo(name: str = "box", **fields: object) -> rooms_pb2.Room:
    room = rooms_pb2.Room(
        name=name,
        capacity=500,
        max_waiting=1_000_000,
        mode=rooms_pb2.ROOM_MODE_NORMAL,
        order=rooms_pb2.LINE_ORDER_FIFO,
        time_zone="Asia/Seoul",
    )
    return change(room, **fields)


def draw(name: str = "box", **fields: object) -> rooms_pb2.Room:
    """A draw that gathers for an hour from a minute after the start."""
    room = fifo(name)
    room.order = rooms_pb2.LINE_ORDER_DRAW
    return change(room, **{"gather_from": START + 60, "opens_at": START + 3660} | fields)


def change(room: rooms_pb2.Room, **fields: object) -> rooms_pb2.Room:
    """Sets fields; times are Unix time in seconds, None clears."""
    for field, value in fields.items():
        if value is None:
            room.ClearField(field)  # type: ignore[arg-type]
        elif room.DESCRIPTOR.fields_by_name[field].message_type is not None:
            getattr(room, field).seconds = value
        else:
            setattr(room, field, value)
    return room


class RealStore(RoomRepository):
    """The repository, in an empty table of rooms."""

    async def clear(self) -> None:
        async with self._database.transaction() as t:
            for table in ("cohort_part", "room", "catalogue_change"):
                await t.execute(f"DELETE FROM {table}")
            await t.execute("DELETE FROM concert WHERE id >= 910000000")

    async def publish(self, concert_id: int, room: str) -> None:
        async with self._database.connection() as connection:
            await connection.execute(
                "INSERT INTO concert (id, title, room) VALUES (%s, 'x', %s)",
                *(910_000_000 + concert_id, room),
            )


@pytest.fixture(params=["fake", "real"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[FakeRoomStore | RealStore]:
    if request.param == "fake":
        yield FakeRoomStore()
        return
    async with Database(request.getfixturevalue("mysql_urls")["concert"]) as database:
        real = RealStore(database)
        await real.clear()
        yield real
        await real.clear()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rooms(store: RoomStore, clock: Clock) -> RoomService:
    return RoomService(store, clock)


@pytest.fixture
def draws(store: RoomStore, clock: Clock) -> DrawService:
    return DrawService(store, clock)


BAD_FIELDS: list[tuple[str, rooms_pb2.Room]] = [
    ("name", fifo("")),
    ("name", fifo("Box")),
    ("name", fifo("x" * 65)),
    ("capacity", fifo(capacity=-1)),
    ("capacity", fifo(capacity=1_000_000_001)),
    ("max_waiting", fifo(max_waiting=-1)),
    ("admissions_per_minute", fifo(admissions_per_minute=-1)),
    ("mode", fifo(mode=0)),
    ("mode", fifo(mode=9)),
    ("order", fifo(order=0)),
    ("order", fifo(order=9)),
    ("time_zone", fifo(time_zone="Mars/Olympus")),
    ("time_zone", fifo(time_zone="../etc/passwd")),
    ("message", fifo(message="x" * 281)),
    ("message", fifo(message="two\nlines")),
    ("message", fifo(message="turned \u202e round")),
    ("gather_from", fifo(gather_from=-5, opens_at=START)),
    ("gather_from", fifo(gather_from=START, opens_at=START)),
    ("gather_until", fifo(gather_until=START, opens_at=START)),
    ("opens_at", fifo(gather_from=START)),
    ("opens_at", fifo(opens_at=10**12)),
    ("closes_at", fifo(opens_at=START, closes_at=START)),
    ("public_value_source", fifo(public_value_source="a lottery")),
    ("opens_at", draw(opens_at=None)),
    ("gather_from", draw(gather_from=None)),
    ("gather_from", draw(gather_from=START + 4000)),
    ("gather_until", draw(gather_until=START + 60)),
    ("gather_until", draw(gather_until=START + 3661)),
    ("public_value_source", draw(public_value_source="x" * 501)),
    ("public_value_source", draw(public_value_source="bell \x07")),
]


@pytest.mark.parametrize(
    ("field", "room"), BAD_FIELDS, ids=[f"{n}-{field}" for n, (field, _) in enumerate(BAD_FIELDS)]
)
async def test_a_bad_field_is_named_and_nothing_is_stored(field: str, room: rooms_pb2.Room) -> None:
    store = FakeRoomStore()
    with pytest.raises(InvalidRequest) as refused:
        await RoomService(store, Clock()).put_room(room, 0)
    assert refused.value.metadata["field"] == field
    assert store.stored == {}


async def test_a_definition_is_stored_as_it_is(rooms: RoomService, store: RoomStore) -> None:
    asked = fifo(
        admissions_per_minute=600, message='שלום "🎟"', opens_at=START + 5, closes_at=START + 9
    )
    put = await rooms.put_room(asked, 0)
    assert (put.version, put.definition, put.seed) == (1, asked, None)
    assert await store.room("box") == put
    assert list(await rooms.list_rooms()) == [put]
    asked.version = 1
    assert to_message(put) == asked


async def test_the_same_definition_again_changes_nothing(rooms: RoomService) -> None:
    first = await rooms.put_room(draw(), 0)
    assert await rooms.put_room(draw(), 0) == first
    # The repetition of a request whose answer was lost.
    assert await rooms.put_room(draw(), 77) == first


async def test_two_operators(rooms: RoomService) -> None:
    await rooms.put_room(fifo(), 0)
    second = await rooms.put_room(fifo(capacity=10), 1)
    with pytest.raises(RoomChanged) as refused:
        await rooms.put_room(fifo(capacity=20), 1)
    assert refused.value.metadata["version"] == "2"
    assert list(await rooms.list_rooms()) == [second]
    with pytest.raises(RoomChanged) as refused:
        await rooms.put_room(fifo("other"), 3)
    assert refused.value.metadata["version"] == "0"


async def test_a_draw_commits_to_its_own_seed(rooms: RoomService) -> None:
    one = await rooms.put_room(draw("one"), 0)
    two = await rooms.put_room(draw("two"), 0)
    assert one.seed is not None
    assert two.seed is not None
    assert (len(one.seed), one.seed == two.seed) == (32, False)
    assert to_message(one).draw.seed_sha256 == hashlib.sha256(one.seed).digest()
    changed = await rooms.put_room(draw("one", opens_at=START + 9000), 1)
    assert changed.seed == one.seed


async def test_gathering_closes_ten_seconds_before_the_opening(rooms: RoomService) -> None:
    put = await rooms.put_room(draw(), 0)
    assert put.definition.gather_until.seconds == START + 3650
    # Half of a gathering that is short.
    short = await rooms.put_room(draw("short", opens_at=START + 64), 0)
    assert short.definition.gather_until.seconds == START + 62


async def test_a_draw_that_becomes_none_before_it_begins_loses_its_seed(rooms: RoomService) -> None:
    await rooms.put_room(draw(), 0)
    assert (await rooms.put_room(fifo(), 0)).seed is None


GATHERING, CLOSED, OPENED = START + 100, START + 3655, START + 3700


@pytest.mark.parametrize(
    ("before", "at", "after", "refused"),
    [
        # Before gathering, everything may change.
        (draw(), START, draw(opens_at=START + 50, gather_from=START + 40), None),
        (draw(), START, draw(public_value_source="a lottery"), None),
        (fifo(opens_at=START + 99), START, fifo(opens_at=START + 9), None),
        # Two seconds before a time, it counts as passed.
        (draw(), START + 59, fifo(), "gather_from"),
        (draw(), START + 3648, draw(opens_at=START + 9999), "gather_until"),
        # While people gather, the opening may.
        (draw(), GATHERING, draw(opens_at=START + 9999), None),
        (draw(), GATHERING, draw(opens_at=GATHERING + 20), None),
        (draw(), GATHERING, draw(gather_from=START + 61), "gather_from"),
        (draw(), GATHERING, draw(public_value_source="a lottery"), "public_value_source"),
        (
            draw(),
            GATHERING,
            fifo(gather_from=START + 60, opens_at=START + 3660),
            "order",
        ),
        # After it, the times of a draw do not, but limits, mode, message and end do.
        (draw(), CLOSED, draw(opens_at=START + 9999), "gather_until"),
        (draw(), CLOSED, draw(gather_until=START + 3650, opens_at=START + 9999), "opens_at"),
        (
            draw(),
            OPENED,
            draw(capacity=1, max_waiting=2, mode=rooms_pb2.ROOM_MODE_PAUSED, message="m"),
            None,
        ),
        (draw(), OPENED, draw(closes_at=START + 9999), None),
        (draw(closes_at=START + 9999), OPENED, draw(closes_at=OPENED + 1), None),
        (fifo(opens_at=START + 99), START + 50, fifo(opens_at=START + 999), None),
        (fifo(opens_at=START + 99), START + 98, fifo(opens_at=START + 999), "opens_at"),
        (fifo(), START, fifo(opens_at=START + 99), "opens_at"),
        (fifo(), START, draw(), "gather_from"),
    ],
)
async def test_what_may_change_when(
    before: rooms_pb2.Room, at: int, after: rooms_pb2.Room, refused: str | None
) -> None:
    clock = Clock()
    rooms = RoomService(FakeRoomStore(), clock)
    stored = await rooms.put_room(before, 0)
    clock.seconds = at
    if refused is None:
        assert (await rooms.put_room(after, 0)).version == 2
        return
    with pytest.raises(RoomHasBegun) as error:
        await rooms.put_room(after, 0)
    assert error.value.metadata["field"] == refused
    assert list(await rooms.list_rooms()) == [stored]


@pytest.mark.parametrize("opens_in", [-10, 9, 10])
async def test_gathering_does_not_close_in_the_past(
    rooms: RoomService, clock: Clock, opens_in: int
) -> None:
    stored = await rooms.put_room(draw(), 0)
    clock.seconds = GATHERING
    with pytest.raises(InvalidRoom) as error:
        await rooms.put_room(draw(opens_at=GATHERING + opens_in), 0)
    assert error.value.metadata["field"] == "gather_until"
    assert list(await rooms.list_rooms()) == [stored]
    await rooms.put_room(draw(opens_at=GATHERING + 11), 0)


async def test_a_room_that_was_removed_begins_anew(
    rooms: RoomService, draws: DrawService, clock: Clock
) -> None:
    first = await rooms.put_room(draw(), 0)
    clock.seconds = CLOSED
    await draws.put_cohort("box", "a", 0, [1, 2], True)
    await rooms.remove_room("box")
    await rooms.remove_room("box")
    await rooms.remove_room("never-was")
    assert list(await rooms.list_rooms()) == []
    with pytest.raises(RoomNotFound):
        await draws.get_draw("box")
    second = await rooms.put_room(draw(), 0)
    assert second.version > first.version
    assert second.cohort_sha256 is None
    assert second.seed != first.seed
    # The numbers of the first life are gone too.
    await draws.put_cohort("box", "a", 0, [9], True)
    assert list((await draws.get_cohort("box", 0))[0]) == [9]


async def test_a_room_that_published_concerts_need_stays(
    rooms: RoomService, store: FakeRoomStore | RealStore
) -> None:
    await rooms.put_room(fifo(), 0)
    await store.publish(3, "box")
    with pytest.raises(RoomInUse) as refused:
        await rooms.remove_room("box")
    assert int(refused.value.metadata["concerts"]) % 10 == 3
    assert len(await rooms.list_rooms()) == 1


async def test_there_are_at_most_a_thousand_rooms() -> None:
    rooms = RoomService(FakeRoomStore(), Clock())
    for number in range(MAX_ROOMS):
        await rooms.put_room(fifo(f"room-{number}"), 0)
    with pytest.raises(TooManyRooms):
        await rooms.put_room(fifo("one-more"), 0)
    await rooms.put_room(fifo("room-7", capacity=3), 0)
    await rooms.remove_room("room-8")
    await rooms.put_room(fifo("one-more"), 0)


async def closed_draw(rooms: RoomService, clock: Clock, source: str = "") -> bytes:
    """A draw after its gathering; returns its seed."""
    put = await rooms.put_room(draw(public_value_source=source), 0)
    clock.seconds = CLOSED
    assert put.seed is not None
    return put.seed


async def test_the_first_attempt_to_finish_decides(
    rooms: RoomService, draws: DrawService, clock: Clock
) -> None:
    await closed_draw(rooms, clock)
    assert (await draws.put_cohort("box", "a", 0, [1, 5], False)).cohort_sha256 is None
    assert (await draws.put_cohort("box", "b", 0, [1, 5, 7], False)).cohort_sha256 is None
    done = await draws.put_cohort("box", "b", 3, [2**63], True)
    # Repetitions, and the parts of those who were slower, change nothing.
    assert await draws.put_cohort("box", "b", 3, [2**63], True) == done
    assert await draws.put_cohort("box", "a", 2, [6], True) == done
    assert done.cohort_size == 4
    assert done.cohort_sha256 == hashlib.sha256(struct.pack(">4Q", 1, 5, 7, 2**63)).digest()
    parts = [list((await draws.get_cohort("box", offset))[0]) for offset in (0, 1, 2, 3, 4)]
    assert parts == [[1, 5, 7], [5, 7], [7], [2**63], []]


async def test_nobody_may_have_gathered(
    rooms: RoomService, draws: DrawService, clock: Clock
) -> None:
    await closed_draw(rooms, clock)
    done = await draws.put_cohort("box", "a", 0, [], True)
    assert (done.cohort_size, done.cohort_sha256) == (0, hashlib.sha256(b"").digest())
    assert list((await draws.get_cohort("box", 0))[0]) == []


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ([(0, [3, 3])], "ascend"),
        ([(0, [4, 3])], "ascend"),
        ([(1, [3])], "begins at 0"),
        ([(0, [3]), (1, [3])], "ascend"),
        ([(0, [3]), (2, [5])], "begins at 1"),
        ([(0, [3]), (0, [4])], "other numbers"),
        ([(-1, [3])], "at most"),
        ([(0, range(100_001))], "at most"),
    ],
)
async def test_parts_of_a_cohort_ascend_without_gaps(
    rooms: RoomService,
    draws: DrawService,
    clock: Clock,
    parts: Sequence[tuple[int, Sequence[int]]],
    problem: str,
) -> None:
    await closed_draw(rooms, clock)
    *good, bad = parts
    for offset, numbers in good:
        await draws.put_cohort("box", "a", offset, numbers, False)
    with pytest.raises(InvalidRequest):
        await draws.put_cohort("box", "a", bad[0], bad[1], True)
    with pytest.raises(DrawNotClosed):
        await draws.get_cohort("box", 0)


async def test_a_cohort_needs_a_draw_whose_gathering_has_closed(
    rooms: RoomService, draws: DrawService, clock: Clock
) -> None:
    await rooms.put_room(fifo("line"), 0)
    await rooms.put_room(draw(), 0)
    refusals: list[tuple[str, type[ServiceError]]] = [
        ("none", RoomNotFound),
        ("line", InvalidRequest),
        ("box", DrawNotClosed),
    ]
    for name, error in refusals:
        with pytest.raises(error):
            await draws.put_cohort(name, "a", 0, [1], True)
    clock.seconds = START + 3647  # the clock of the caller may be ahead
    with pytest.raises(DrawNotClosed):
        await draws.put_cohort("box", "a", 0, [1], True)
    clock.seconds = START + 3648
    assert (await draws.put_cohort("box", "a", 0, [1], True)).cohort_size == 1


async def test_a_public_value_is_set_once_and_after_the_list(
    rooms: RoomService, draws: DrawService, clock: Clock
) -> None:
    await rooms.put_room(draw("without"), 0)
    with pytest.raises(InvalidRequest):
        await rooms.set_public_value("without", "7")
    await closed_draw(rooms, clock, "the lottery of 5 May")
    with pytest.raises(DrawNotClosed):
        await rooms.set_public_value("box", "7 12 33")
    await draws.put_cohort("box", "a", 0, [1], True)
    for bad in ("", "x" * 501, "7\n12"):
        with pytest.raises(InvalidRequest):
            await rooms.set_public_value("box", bad)
    done = await rooms.set_public_value("box", "7 12 33")
    assert done.public_value == "7 12 33"
    assert await rooms.set_public_value("box", "7 12 33") == done
    with pytest.raises(PublicValueSet):
        await rooms.set_public_value("box", "7 12 34")
    with pytest.raises(RoomNotFound):
        await rooms.set_public_value("none", "7")


@pytest.mark.parametrize("source", ["", "a lottery"])
async def test_the_seed_is_public_only_after_everything_is_fixed(
    rooms: RoomService, draws: DrawService, clock: Clock, source: str
) -> None:
    servicer = DrawServicer(draws)

    async def public() -> rooms_pb2.GetDrawResponse:
        return await servicer.GetDraw(rooms_pb2.GetDrawRequest(room="box"), None)  # type: ignore[arg-type]

    seed = await closed_draw(rooms, clock, source)
    found = await public()
    assert found.seed_sha256 == hashlib.sha256(seed).digest()
    assert (found.seed, found.HasField("cohort")) == (b"", False)
    clock.seconds = OPENED  # but the list is late
    assert (await public()).seed == b""
    await draws.put_cohort("box", "a", 0, [1, 2], True)
    clock.seconds = CLOSED
    assert ((await public()).seed, (await public()).cohort.size) == (b"", 2)
    clock.seconds = OPENED
    if source:
        assert (await public()).seed == b""
        await rooms.set_public_value("box", "7")
    assert (await public()).seed == seed


async def test_operators_do_not_see_the_seed() -> None:
    store: RoomStore = FakeRoomStore()
    servicer = RoomAdminServicer(RoomService(store, Clock()))
    put = await servicer.PutRoom(rooms_pb2.PutRoomRequest(room=draw()), None)  # type: ignore[arg-type]
    listed = await servicer.ListRooms(rooms_pb2.ListRoomsRequest(), None)  # type: ignore[arg-type]
    assert list(listed.rooms) == [put.room]
    assert (put.room.draw.seed, len(put.room.draw.seed_sha256)) == (b"", 32)


def test_the_fake_is_a_store() -> None:
    make: Callable[[], RoomStore] = FakeRoomStore
    assert make()
