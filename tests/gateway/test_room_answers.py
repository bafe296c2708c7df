"""Requests that are answered from the copy of the room, and those that only queue_service can
answer."""

import asyncio
import logging
import time

import pytest

from gateway.room import watch as watch_module
from gateway.room.answers import ASKED
from gateway.room.watch import RECONNECTS
from protos.frontrow.queue.v1 import queue_pb2
from tests.gateway.fakes import Services, sign
from tests.gateway.polling import uncounted, until
from tests.gateway.problems import assert_problem
from tests.gateway.watching import OpenWatching, Watching, shopping


class TestWithoutACall:
    async def test_the_order_is_the_one_that_a_call_would_give(
        self, room: Services, open_watching: OpenWatching
    ) -> None:
        gateway = await open_watching()
        place = room.queue.waiting[1]
        answered = await gateway.get("/queues/order", place)
        assert gateway.calls() == 0
        room.queue.watch.supported = False
        asked = await (await open_watching()).get("/queues/order", place)
        room.queue.watch.supported = True
        assert gateway.calls() == 1
        expected = room.queue.position(place)
        assert uncounted(answered) == {
            "order": 2,
            "pollAfterSeconds": expected.poll_after_ms / 1000,
            "estimatedWaitSeconds": expected.estimated_wait_ms / 1000,
            "admittedUntil": None,
            "recovering": False,
            "phase": "OPEN",
        }
        assert answered.headers["Retry-After"] == str(-(-expected.poll_after_ms // 1000))
        assert answered.headers.keys() == asked.headers.keys()

    async def test_somebody_who_shops_is_admitted_everywhere(
        self, room: Services, open_watching: OpenWatching
    ) -> None:
        gateway = await open_watching()
        place = shopping(room)
        polled = await gateway.get("/queues/order", place)
        assert (polled.json()["order"], polled.json()["recovering"]) == (0, False)
        for path in ("/concerts", "/concerts/1/schedules", "/concerts/schedules/11/seats"):
            assert (await gateway.get(path, place)).status_code in (200, 404), path
        assert gateway.calls() == 0

    async def test_who_waits_is_refused_with_the_order_of_now(
        self, room: Services, open_watching: OpenWatching
    ) -> None:
        gateway = await open_watching()
        place = room.queue.waiting[2]
        refused = assert_problem(
            await gateway.get("/concerts", place),
            403,
            "STILL_WAITING",
            -(-room.queue.position(place).poll_after_ms // 1000),
        )
        assert refused["order"] == 3
        assert gateway.calls() == 0

    async def test_changes_arrive_at_once(
        self, room: Services, open_watching: OpenWatching
    ) -> None:
        gateway = await open_watching()
        last = room.queue.waiting[2]
        assert await gateway.order(last) == 3
        room.queue.end(room.queue.waiting[0].number)
        await gateway.caught_up()
        assert await gateway.order(last) == 2
        assert gateway.calls() == 0

    async def test_heartbeats_are_few_however_many_ask(
        self, room: Services, open_watching: OpenWatching
    ) -> None:
        gateway = await open_watching()
        place = room.queue.waiting[0]
        before = room.queue.watch.heartbeats
        started = time.monotonic()
        while time.monotonic() - started < 0.7:
            await gateway.order(place)
        assert 2 <= room.queue.watch.heartbeats - before <= 6
        await asyncio.sleep(0.2)
        quiet = room.queue.watch.heartbeats
        await asyncio.sleep(0.5)
        assert room.queue.watch.heartbeats == quiet  # none while nobody asks


def asked() -> dict[str, float]:
    """Returns the count of each reason for a call."""
    samples = (sample for metric in ASKED.collect() for sample in metric.samples)
    return {s.labels["why"]: s.value for s in samples if s.name == "room_view_asked_total"}


def reconnects() -> float:
    """Returns how many streams have ended."""
    (metric,) = RECONNECTS.collect()
    return metric.samples[0].value


class TestAsked:
    @pytest.mark.parametrize("path", ["/queues/order", "/concerts"])
    async def test_a_request_that_leads_to_a_call_is_counted_once(
        self, room: Services, open_watching: OpenWatching, path: str
    ) -> None:
        gateway = await open_watching()
        place = room.queue.waiting[0]
        await gateway.get(path, place)
        before = asked()
        room.queue.end(shopping(room).number)
        await gateway.caught_up()
        await gateway.get(path, place)
        assert gateway.calls() == 1
        assert asked() == {**before, "unclaimed": before["unclaimed"] + 1}

    async def test_an_admission_is_claimed_at_once_and_by_a_call(
        self, room: Services, open_watching: OpenWatching
    ) -> None:
        gateway = await open_watching()
        place = room.queue.waiting[0]
        assert await gateway.order(place) == 1
        room.queue.end(shopping(room).number)
        await gateway.caught_up()
        assert await gateway.order(place) == 0
        assert gateway.calls() == 1
        await gateway.caught_up()
        assert place.number not in room.queue.unclaimed
        assert (await gateway.get("/concerts", place)).status_code == 200
        assert await gateway.order(place) == 0
        assert gateway.calls() == 1

    async def test_an_earlier_answer_does_not_hide_an_admission(
        self, room: Services, open_watching: OpenWatching
    ) -> None:
        gateway = await open_watching(enforce_pace=True)
        place = room.queue.waiting[0]
        entered = await gateway.http.post("/queues/enqueue", json={"userId": place.user_id})
        assert entered.json()["order"] == 1  # remembered for half of the advised pause
        room.queue.end(shopping(room).number)
        await gateway.caught_up()
        polled = await gateway.get("/queues/order", place)
        assert (polled.json()["order"], "Age" in polled.headers) == (0, False)

    async def test_an_early_poll_gets_the_order_of_now(
        self, room: Services, open_watching: OpenWatching
    ) -> None:
        gateway = await open_watching(enforce_pace=True)
        place = room.queue.waiting[2]
        await gateway.http.post("/queues/enqueue", json={"userId": place.user_id})
        room.queue.end(room.queue.waiting[0].number)
        await gateway.caught_up()
        polled = await gateway.get("/queues/order", place)
        assert (polled.json()["order"], "Age" in polled.headers) == (2, False)
        assert gateway.calls() == 0

    async def test_an_unknown_place(self, room: Services, open_watching: OpenWatching) -> None:
        gateway = await open_watching()
        unknown = queue_pb2.Place(room="main", number=999, user_id=9, epoch=1)
        for path in ("/queues/order", "/concerts"):
            assert_problem(await gateway.get(path, unknown), 401, "TOKEN_EXPIRED")
        assert gateway.calls() == 2

    async def test_the_admission_of_another_user(
        self, room: Services, open_watching: OpenWatching
    ) -> None:
        gateway = await open_watching()
        place = queue_pb2.Place()
        place.CopyFrom(shopping(room))
        place.user_id += 100
        await gateway.get("/concerts", place)
        assert gateway.calls() == 1

    async def test_an_admission_that_has_lapsed(
        self, room: Services, open_watching: OpenWatching
    ) -> None:
        gateway = await open_watching()
        room.queue.admitted_until_ms = time.time_ns() // 1_000_000 + 150
        room.queue.capacity = 3
        place = room.queue.waiting[0]
        room.queue.admit()
        await gateway.order(place)
        await gateway.caught_up()
        assert (await gateway.get("/concerts", place)).status_code == 200
        asked = gateway.calls()
        await asyncio.sleep(0.2)
        await gateway.get("/concerts", place)
        assert gateway.calls() == asked + 1

    async def test_a_place_that_is_younger_than_the_bound(
        self, room: Services, open_watching: OpenWatching, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gateway = await open_watching()
        now_ms = time.time_ns() // 1_000_000
        number = (now_ms - 1_767_225_600_000) << 12
        monkeypatch.setattr(room.queue, "_places_given", number)
        place = room.queue.enter(77)
        await gateway.caught_up()
        assert await gateway.order(place) == 4
        assert gateway.calls() == 1
        await asyncio.sleep(0.35)
        assert await gateway.order(place) == 4
        assert gateway.calls() == 1

    async def test_an_over_aged_token_gets_a_fresh_one(
        self, room: Services, open_watching: OpenWatching
    ) -> None:
        gateway = await open_watching(token_max_age_seconds=600)
        old = sign(room.queue.waiting[0], iat=int(time.time()) - 900)
        polled = await gateway.http.get("/queues/order", headers={"X-Access-Token": old})
        assert polled.headers["X-Access-Token"] not in ("", old)
        assert gateway.calls() == 1


async def room_view(gateway: Watching) -> str:
    return str((await gateway.http.get("/health/ready")).json()["roomView"])


class TestNotInUse:
    async def test_a_queue_service_of_the_version_before(
        self, room: Services, open_watching: OpenWatching
    ) -> None:
        room.queue.watch.supported = False
        gateway = await open_watching()
        assert await gateway.order(room.queue.waiting[1]) == 2
        assert gateway.clients.rooms.main.watch is not None
        watch = gateway.clients.rooms.main.watch
        await until(lambda: not watch.supported)
        assert await room_view(gateway) == "unsupported"
        before = asked()
        assert await gateway.order(room.queue.waiting[1]) == 2
        assert gateway.calls() == 2
        assert asked() == {**before, "no_view": before["no_view"] + 1}

    async def test_a_queue_service_of_the_version_before_is_logged_once(
        self,
        room: Services,
        open_watching: OpenWatching,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(watch_module, "_UNSUPPORTED_SECONDS", 0.01)
        caplog.set_level(logging.INFO)
        room.queue.watch.supported = False
        before = reconnects()
        await open_watching()
        await until(lambda: reconnects() >= before + 3)
        events = [record.message for record in caplog.records]
        assert events.count("room_view_unsupported") == 1
        assert "unexpected_status" not in events

    async def test_after_a_change_that_was_not_recorded(
        self, room: Services, open_watching: OpenWatching
    ) -> None:
        gateway = await open_watching()
        place = room.queue.waiting[1]
        now_ms = time.time_ns() // 1_000_000
        room.queue.watch.change_fields(queue_pb2.RoomFields(unrecorded_at_ms=now_ms - 59_000))
        await gateway.caught_up()
        assert await gateway.order(place) == 2
        assert gateway.calls() == 1
        assert await room_view(gateway) == "unrecorded"
        room.queue.watch.change_fields(queue_pb2.RoomFields(unrecorded_at_ms=now_ms - 61_000))
        await gateway.caught_up()
        assert await gateway.order(place) == 2
        assert gateway.calls() == 1
        assert await room_view(gateway) == "current"

    async def test_without_heartbeats_it_asks_after_the_bound(
        self, room: Services, open_watching: OpenWatching
    ) -> None:
        gateway = await open_watching()
        place = room.queue.waiting[1]
        await gateway.order(place)
        room.queue.watch.answers = False
        await asyncio.sleep(0.31)
        started = time.monotonic()
        assert await gateway.order(place) == 2
        assert 0.2 < time.monotonic() - started < 0.6
        assert gateway.calls() == 1
        # Nobody else waits for the heartbeat that is overdue.
        started = time.monotonic()
        assert await gateway.order(place) == 2
        assert time.monotonic() - started < 0.2
        assert gateway.calls() == 2
        assert await room_view(gateway) == "stale"
        room.queue.watch.answers = True


class TestItsOwnAnswers:
    """A view never contradicts an answer that this gateway gave after the view's time."""

    async def test_leaving_counts_at_once(
        self, room: Services, open_watching: OpenWatching, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gateway = await open_watching()
        place = room.queue.waiting[0]
        assert await gateway.order(place) == 1
        # The end is on its way to the copy for longer than the response to the client.
        monkeypatch.setattr(room.queue.watch, "send", lambda _: None)
        token = {"X-Access-Token": sign(place)}
        assert (await gateway.http.delete("/queues/order", headers=token)).status_code == 204
        view = gateway.clients.rooms.main.copy.view
        assert view is not None
        assert view.order(place.number) == 1
        assert_problem(await gateway.get("/queues/order", place), 401, "TOKEN_EXPIRED")

    async def test_an_order_is_at_most_that_of_a_later_call(
        self, room: Services, open_watching: OpenWatching, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gateway = await open_watching()
        place = room.queue.waiting[2]
        assert await gateway.order(place) == 3
        monkeypatch.setattr(room.queue.watch, "send", lambda _: None)
        room.queue.end(room.queue.waiting[0].number)
        entered = await gateway.http.post("/queues/enqueue", json={"userId": place.user_id})
        assert entered.json()["order"] == 2
        assert await gateway.order(place) == 2
        assert gateway.calls() == 0

    async def test_nobody_waits_again_after_an_admission(
        self, room: Services, open_watching: OpenWatching, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gateway = await open_watching()
        place = room.queue.waiting[0]
        assert await gateway.order(place) == 1
        monkeypatch.setattr(room.queue.watch, "send", lambda _: None)
        room.queue.end(shopping(room).number)
        entered = await gateway.http.post("/queues/enqueue", json={"userId": place.user_id})
        assert entered.json()["order"] == 0
        assert await gateway.order(place) == 0
        assert (await gateway.get("/concerts", place)).status_code == 200


async def test_calls_carry_what_the_copy_knows(room: Services, open_watching: OpenWatching) -> None:
    gateway = await open_watching()
    await gateway.http.post("/queues/enqueue", json={"userId": 900})
    await gateway.get("/queues/order", queue_pb2.Place(room="main", number=999, user_id=9, epoch=1))
    place = room.queue.waiting[0]
    seq = room.queue.watch.seq
    await gateway.caught_up()
    await gateway.http.delete("/queues/order", headers={"X-Access-Token": sign(place)})
    for method in ("EnterQueue", "GetPositions", "LeaveQueue"):
        (call,) = room.faults.of(method)
        memory = call.request.memory
        assert (memory.epoch, memory.capacity, memory.max_waiting) == (1, 10, 1_000), method
        assert 5 <= memory.seq <= seq
        assert memory.last > 0
    assert room.queue.watch.first_requests[-1].memory == queue_pb2.RoomMemory()


async def test_a_stream_that_ends_is_continued(room: Services, open_watching: OpenWatching) -> None:
    gateway = await open_watching()
    place = room.queue.waiting[2]
    view = gateway.clients.rooms.main.copy.view
    room.queue.watch.disconnect()
    await until(lambda: len(room.queue.watch.first_requests) == 2)
    memory = room.queue.watch.first_requests[1].memory
    assert (memory.epoch, memory.seq) == (room.queue.watch.epoch, room.queue.watch.seq)
    assert gateway.clients.rooms.main.copy.view is view
    room.queue.end(room.queue.waiting[0].number)
    await gateway.caught_up()
    assert await gateway.order(place) == 2
    assert gateway.calls() == 0


async def test_after_a_gap_it_watches_anew(room: Services, open_watching: OpenWatching) -> None:
    gateway = await open_watching()
    place = room.queue.waiting[2]
    room.queue.watch.seq += 1  # a change that nobody sent
    room.queue.end(room.queue.waiting[0].number)
    await gateway.caught_up()
    assert len(room.queue.watch.first_requests) == 2
    assert await gateway.order(place) == 2
    assert gateway.calls() == 0
