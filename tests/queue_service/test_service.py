"""The use cases over the fake room: answers per item, limits, and payments that end a place."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import jwt
import pytest
from google.protobuf.message import DecodeError
from structlog.testing import CapturingLogger

from protos.frontrow.payment.v1 import events_pb2, payment_pb2
from protos.frontrow.queue.v1 import queue_pb2
from protos.limits import MAX_ITEMS
from queue_service import service as service_module
from queue_service.consumers import PaymentEvents
from queue_service.domain import Entry, Limits, Place, Refusal, Room
from queue_service.errors import BadLimit, MixedRooms, RoomNotFound, TooManyItems
from queue_service.service import ADMISSIONS, ADMITTED, WAITING, Entered, QueueService
from queue_service.tokens import Signer
from room_view.position import Pacing, PlaceState
from servicekit.errors import Unavailable
from servicekit.kafka import Record
from tests.fakes.queue import FakeQueueStore
from tests.queue_service.conftest import RULES, entries

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def store() -> FakeQueueStore:
    return FakeQueueStore(RULES, Limits(capacity=1, max_waiting=2))


@pytest.fixture
def service(store: FakeQueueStore) -> QueueService:
    pacing = Pacing(
        queue_pb2.RoomRules(
            poll_min_ms=1_000, poll_max_ms=10_000, admission_ttl_ms=RULES.admission_ttl_ms
        )
    )
    return QueueService(store, Signer("k1", SECRET), pacing, ["main", "vip"])


async def enter(service: QueueService, *user_ids: int) -> list[Entered]:
    entered = []
    for result in await service.enter_queue("main", entries(user_ids)):
        assert isinstance(result, Entered)
        entered.append(result)
    return entered


async def test_one_bad_item_spoils_no_other(service: QueueService) -> None:
    results = await service.enter_queue("main", entries([0, 11, -5, 12, 2**63, 13, 14]))
    refused = [r if isinstance(r, Refusal) else None for r in results]
    bad, full = Refusal.INVALID_REQUEST, Refusal.QUEUE_FULL
    assert refused == [bad, None, bad, None, bad, None, full]
    assert await service.enter_queue("main", entries([0])) == [bad]


async def test_the_token_is_that_of_the_place(service: QueueService) -> None:
    (entered,) = await enter(service, 11)
    claims = jwt.decode(entered.access_token, SECRET, algorithms=["HS256"])
    assert (claims["place"], claims["user"]) == (entered.place.number, 11)
    (again,) = await enter(service, 11)
    assert again.access_token == entered.access_token


async def test_a_token_of_an_old_place_is_issued_anew(
    service: QueueService, store: FakeQueueStore
) -> None:
    (entered,) = await enter(service, 11)
    given_at = entered.place.given_at
    store.advance(50)
    now = store.now // 1000
    (same,) = await service.enter_queue("main", [Entry(11)], given_at)
    assert isinstance(same, Entered)
    assert same.access_token == entered.access_token
    (fresh,) = await service.enter_queue("main", [Entry(11)], given_at + 1)
    assert isinstance(fresh, Entered)
    assert fresh.place == entered.place
    claims = jwt.decode(fresh.access_token, SECRET, algorithms=["HS256"])
    assert claims["iat"] == now
    assert claims["place"] == entered.place.number


async def test_a_poll_gets_a_fresh_token_for_an_old_one(
    service: QueueService, store: FakeQueueStore
) -> None:
    admitted, waiting, left = [entered.place for entered in await enter(service, 11, 12, 13)]
    await service.leave_queue("main", left.number, 13)
    store.advance(50)
    now = store.now // 1000
    renewed = replace(waiting, issued_at=now - 10)
    places = [admitted, waiting, renewed, left, Place("main", 0, 1, 1)]
    positions = (await service.get_positions(places, renew_issued_before=now - 10)).places
    has_token = [bool(position.access_token) for position in positions]
    assert has_token == [True, True, False, False, False]
    claims = jwt.decode(positions[1].access_token, SECRET, algorithms=["HS256"])
    assert claims == {
        "room": "main", "place": waiting.number, "user": 12, "epoch": waiting.epoch, "iat": now,
    }  # fmt: skip
    assert not any(
        position.access_token for position in (await service.get_positions(places)).places
    )


async def test_a_clock_that_was_set_back_dates_no_token_into_the_future(
    service: QueueService, store: FakeQueueStore
) -> None:
    await enter(service, 11)
    store.advance(-3_600)
    (entered,) = await enter(service, 12)
    claims = jwt.decode(
        entered.access_token, SECRET, algorithms=["HS256"], options={"verify_iat": False}
    )
    assert claims["iat"] == store.now // 1000


async def test_impossible_places_have_ended(service: QueueService) -> None:
    _, waiting = await enter(service, 11, 12)
    number, epoch = waiting.place.number, waiting.place.epoch
    positions = await service.get_positions(
        [
            Place("main", 0, 12, epoch),
            Place("main", -number, 12, epoch),
            waiting.place,
            Place("main", 2**53, 12, epoch),
            Place("main", number, 0, epoch),
            Place("main", number, 12, -1),
        ]
    )
    ended = PlaceState.ENDED
    states = [position.standing.state for position in positions.places]
    assert states == [ended, ended, PlaceState.WAITING, ended, ended, ended]
    await service.leave_queue("main", -1, 12)


async def test_a_call_takes_256_items_of_one_room(service: QueueService) -> None:
    assert len(await service.enter_queue("main", entries(range(1, MAX_ITEMS + 1)))) == MAX_ITEMS
    assert (await service.get_positions([])).places == []
    assert await service.enter_queue("main", []) == []
    with pytest.raises(TooManyItems):
        await service.enter_queue("main", entries(range(1, MAX_ITEMS + 2)))
    place = Place("main", 1, 1, 1)
    with pytest.raises(TooManyItems):
        await service.get_positions([place] * (MAX_ITEMS + 1))
    with pytest.raises(MixedRooms):
        await service.get_positions([place, Place("vip", 1, 1, 1)])


@pytest.mark.parametrize(
    "ask",
    [
        lambda s: s.enter_queue("nowhere", entries([1])),
        lambda s: s.get_positions([Place("nowhere", 1, 1, 1)]),
        lambda s: s.leave_queue("nowhere", 1, 1),
        lambda s: s.get_room("nowhere"),
        lambda s: s.update_room("", paused=True),
    ],
)
async def test_only_the_rooms_that_are_run(
    service: QueueService, ask: Callable[[QueueService], object]
) -> None:
    answer = ask(service)
    with pytest.raises(RoomNotFound):
        await answer  # type: ignore[misc]  # a coroutine, whichever it is


async def test_rooms_are_apart(service: QueueService) -> None:
    await enter(service, 11)
    assert (await service.get_room("main")).admitted == 1
    assert (await service.get_room("vip")).admitted == 0


async def test_operators_change_only_what_they_name(service: QueueService) -> None:
    room = await service.update_room("main", capacity=7)
    assert room.limits == Limits(7, 2, paused=False)
    room = await service.update_room("main", paused=True, max_waiting=0)
    assert room.limits == Limits(7, 0, paused=True)
    with pytest.raises(BadLimit):
        await service.update_room("main", capacity=-1)
    with pytest.raises(BadLimit):
        await service.update_room("main", max_waiting=2**53)


async def test_counts_are_metrics(service: QueueService) -> None:
    before = ADMISSIONS.labels("main")._value.get()
    await enter(service, 11, 12, 13)
    assert ADMISSIONS.labels("main")._value.get() - before == 1
    assert (WAITING.labels("main")._value.get(), ADMITTED.labels("main")._value.get()) == (2, 1)


async def test_an_unavailable_store_raises_unavailable(
    service: QueueService, store: FakeQueueStore
) -> None:
    store.unavailable = Unavailable("Redis is unavailable.")
    with pytest.raises(Unavailable):
        await service.enter_queue("main", entries([1]))


async def test_an_unavailable_store_is_logged_once_and_without_its_address(
    service: QueueService, store: FakeQueueStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = CapturingLogger()
    monkeypatch.setattr(service_module, "log", log)
    store.unavailable = Unavailable("Redis is unavailable.")
    store.unavailable.__cause__ = ConnectionError("Error 111 connecting to redis.internal:6379.")
    ticking = asyncio.create_task(service.keep_ticking("main", 0))
    for _ in range(5):
        await asyncio.sleep(0)
    store.unavailable = None
    for _ in range(5):
        await asyncio.sleep(0)
    ticking.cancel()
    await asyncio.wait([ticking])
    failed, back = log.calls
    assert (failed.method_name, failed.kwargs["error"]) == ("warning", "ConnectionError")
    assert "redis.internal" not in repr(failed)
    assert (failed.args, back.args) == (("store_unavailable",), ("store_available",))


def payment_event(**kind: object) -> Record:
    event = events_pb2.PaymentEvent(event_id="e1", payment_id=3, reservation_id=9, user_id=11)
    for name, value in kind.items():
        getattr(event, name).CopyFrom(value)
    return Record("payment.events", b"9", event.SerializeToString())


async def test_a_payment_ends_its_admission_once(service: QueueService) -> None:
    first, second = await enter(service, 11, 12)
    handle = PaymentEvents(service).handle
    admission = payment_pb2.Admission(room="main", place_number=first.place.number)
    paid = payment_event(succeeded=events_pb2.PaymentSucceeded(admission=admission))
    for _ in range(3):
        assert await handle([paid]) == ()
        states = [
            position.standing.state
            for position in (await service.get_positions([first.place, second.place])).places
        ]
        assert states == [PlaceState.ENDED, PlaceState.ADMITTED]
    (again,) = await enter(service, 11)
    await handle([paid])
    assert (await service.get_positions([again.place])).places[0].standing.order == 1


def paid_by(place: Place) -> Record:
    event = events_pb2.PaymentEvent(user_id=place.user_id)
    event.succeeded.admission.CopyFrom(
        payment_pb2.Admission(room=place.room, place_number=place.number)
    )
    return Record("payment.events", b"9", event.SerializeToString())


async def test_payments_that_come_together_are_one_change_of_the_room(
    service: QueueService, store: FakeQueueStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[int]] = []
    leave_all = store.leave_all

    async def counted(room: str, places: Sequence[Place]) -> Room:
        calls.append([place.user_id for place in places])
        return await leave_all(room, places)

    monkeypatch.setattr(store, "leave_all", counted)
    await service.update_room("main", max_waiting=1000)
    crowd = [one.place for one in await enter(service, *range(11, 11 + MAX_ITEMS))]
    crowd += [one.place for one in await enter(service, 801, 802, 803, 804)]
    failed = payment_event(failed=events_pb2.PaymentFailed(reason="NO_FUNDS"))
    await PaymentEvents(service).handle([failed, *map(paid_by, crowd[:3]), failed])
    assert calls == [[11, 12, 13]]
    room = await service.get_room("main")
    assert (room.admitted, room.waiting) == (1, len(crowd) - 4)
    # The store takes so many in one call.
    await PaymentEvents(service).handle([paid_by(place) for place in crowd[3:]])
    assert [len(call) for call in calls] == [3, MAX_ITEMS, 1]
    room = await service.get_room("main")
    assert (room.admitted, room.waiting) == (0, 0)


async def test_ends_that_the_store_has_lost_are_repeated(
    service: QueueService, store: FakeQueueStore
) -> None:
    buyer, follower = await enter(service, 11, 12)
    before = store.copy_rooms()
    await service.leave_queue("main", buyer.place.number, 11)
    store.cut_back(before)
    # The buyer is the first to ask, and is not handed the place that ended.
    (again,) = await enter(service, 11)
    assert again.place.number > follower.place.number
    positions = (await service.get_positions([buyer.place, follower.place, again.place])).places
    assert [p.standing.state for p in positions] == [
        PlaceState.ENDED, PlaceState.ADMITTED, PlaceState.WAITING,
    ]  # fmt: skip


async def test_ends_are_repeated_when_the_store_is_available(
    service: QueueService, store: FakeQueueStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    buyer, follower = await enter(service, 11, 12)
    before = store.copy_rooms()
    await service.leave_queue("main", buyer.place.number, 11)
    for _ in range(2):
        store.cut_back(before)
        with monkeypatch.context() as broken:

            async def leave(*_: object) -> None:
                raise Unavailable("The waiting room is unavailable.")

            broken.setattr(store, "leave_all", leave)
            with pytest.raises(Unavailable):
                await service.get_room("main")
        assert (await service.get_room("main")).admitted == 1
        positions = (await service.get_positions([buyer.place, follower.place])).places
        assert [p.standing.state for p in positions] == [PlaceState.ENDED, PlaceState.ADMITTED]


async def test_other_payment_events_end_nothing(service: QueueService) -> None:
    (first,) = await enter(service, 11)
    handle = PaymentEvents(service).handle
    number = first.place.number
    await handle([payment_event(succeeded=events_pb2.PaymentSucceeded())])
    await handle([payment_event(failed=events_pb2.PaymentFailed(reason="NO_FUNDS"))])
    await handle([payment_event(refunded=events_pb2.PaymentRefunded())])
    # Somebody else's place is not the payer's to give up.
    event = events_pb2.PaymentEvent(user_id=99)
    event.succeeded.admission.CopyFrom(payment_pb2.Admission(room="main", place_number=number))
    await handle([Record("payment.events", b"9", event.SerializeToString())])
    (position,) = (await service.get_positions([first.place])).places
    assert position.standing.state is PlaceState.ADMITTED
    with pytest.raises(DecodeError):
        await handle([Record("payment.events", b"9", b"\xff\xff")])


async def test_what_a_caller_remembers_is_checked(
    service: QueueService, store: FakeQueueStore
) -> None:
    before = await service.get_room("main")
    for memory in (
        replace(before.memory, epoch=2**53, last=2**53),
        replace(before.memory, seq=-1),
        replace(before.memory, epoch=before.epoch + 2, last=before.epoch + 1),
        replace(before.memory, seq=before.seq + 1, limits=Limits(-1, 0)),
    ):
        service.remember("main", memory)
        assert (await service.get_room("main")).epoch == before.epoch
    service.remember("main", replace(before.memory, seq=before.seq + 1))
    assert (await service.get_room("main")).epoch > before.epoch
    with pytest.raises(RoomNotFound):
        service.remember("nowhere", before.memory)


async def test_it_warns_of_a_replica_that_records_nothing(
    service: QueueService, store: FakeQueueStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = CapturingLogger()
    monkeypatch.setattr(service_module, "log", log)
    for _ in range(3):  # within a minute, and in the next one
        store.advance(20)
        store.unrecorded_at = store.now
        await service.get_room("main")
    assert [call.args for call in log.calls] == [("room_change_unrecorded",)]
    store.advance(21)
    store.unrecorded_at = store.now
    await service.get_room("main")
    assert len(log.calls) == 2
    # A replica that starts later says nothing of the past.
    store.advance(61)
    await service.get_room("main")
    assert len(log.calls) == 2
