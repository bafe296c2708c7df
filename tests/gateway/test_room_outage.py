"""While queue_service or its Redis does not answer, the last view speaks."""

import asyncio
import time
from collections.abc import Callable

import pytest
from structlog.testing import CapturingLogger

from gateway.room import outage as outage_module
from gateway.room import watch
from gateway.room.outage import QueueOutage
from protos.frontrow.queue.v1 import queue_pb2
from servicekit.batching import Batcher
from servicekit.errors import Unavailable
from tests.gateway.fakes import Services, sign
from tests.gateway.polling import until
from tests.gateway.problems import assert_problem
from tests.gateway.watching import OpenWatching, Watching, shopping

BUDGET = 0.3
BOUND = 0.3
METHODS = ("GetPositions", "EnterQueue", "LeaveQueue")

Fault = Callable[[Services], None]


def refuse(services: Services) -> None:
    """Redis does not answer, and queue_service says so."""
    services.queue.watch.answers = False
    for method in METHODS:
        services.faults.errors[method] = Unavailable("The waiting room is unavailable.")


def hang(services: Services) -> None:
    """queue_service does not answer at all, as after SIGSTOP."""
    services.queue.watch.answers = services.queue.watch.speaks = False
    for method in METHODS:
        services.faults.delays[method] = 60


def restore(services: Services) -> None:
    services.queue.watch.answers = services.queue.watch.speaks = True
    services.faults.errors.clear()
    services.faults.delays.clear()


@pytest.fixture(params=[refuse, hang])
def fault(request: pytest.FixtureRequest) -> Fault:
    chosen: Fault = request.param
    return chosen


@pytest.fixture
async def gateway(room: Services, open_watching: OpenWatching) -> Watching:
    gateway = await open_watching(read_budget_seconds=BUDGET, write_budget_seconds=BUDGET)
    assert await gateway.order(room.queue.waiting[1]) == 2
    return gateway


async def begin(gateway: Watching, room: Services, fault: Fault) -> None:
    """Lets the view become too old, and a poll notice the outage."""
    fault(room)
    await asyncio.sleep(BOUND + 0.01)
    await gateway.order(room.queue.waiting[1])
    assert gateway.clients.rooms.main.answers.in_outage


async def test_polls_are_answered_from_the_last_view_without_waiting(
    room: Services, gateway: Watching, fault: Fault
) -> None:
    started = time.monotonic()
    await begin(gateway, room, fault)
    # The heartbeat that was due when the fault came, one more, and one call.
    assert time.monotonic() - started < 2 * BOUND + BUDGET + 0.2
    started = time.monotonic()
    for _ in range(20):
        polled = (await gateway.get("/queues/order", room.queue.waiting[1])).json()
        assert (polled["order"], polled["recovering"]) == (2, True)
        assert polled["pollAfterSeconds"] >= 1
    admitted = (await gateway.get("/queues/order", shopping(room))).json()
    assert (admitted["order"], admitted["recovering"]) == (0, True)
    # Even if each had waited for a heartbeat only, they would have taken longer.
    assert time.monotonic() - started < 21 * BOUND


async def test_callers_in_line_behind_the_call_that_failed_do_not_wait_for_another(
    room: Services, gateway: Watching
) -> None:
    hang(room)
    await asyncio.sleep(BOUND + 0.01)
    started = time.monotonic()
    place = room.queue.waiting[1]

    async def late(seconds: float) -> int:
        await asyncio.sleep(seconds)
        return await gateway.order(place)

    orders = await asyncio.gather(*(late(0.02 * n) for n in range(20)))
    assert set(orders) == {2}
    assert time.monotonic() - started < BOUND + BUDGET + 0.3


async def test_an_outage_that_begins_while_requests_wait_for_a_heartbeat_refuses_none(
    room: Services, gateway: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the first of them would try queue_service, and the others would get 503."""
    await begin(gateway, room, hang)
    answers = gateway.clients.rooms.main.answers
    answers.call_succeeded()
    assert not answers.in_outage

    async def waited() -> bool:
        await answers.call_failed()
        return False

    monkeypatch.setattr(answers, "becomes_usable", waited)
    calls = gateway.calls()
    polls = [gateway.get("/queues/order", room.queue.waiting[n]) for n in (1, 2)]
    reads = [gateway.get("/concerts", shopping(room)) for _ in range(2)]
    polled = await asyncio.gather(*polls, *reads)
    assert [answer.status_code for answer in polled] == [200] * 4
    assert gateway.calls() == calls


async def test_a_call_that_fails_while_the_view_is_fresh_begins_no_outage(
    room: Services, gateway: Watching
) -> None:
    """One of two replicas hangs; the callers in line behind that call get to the other one."""
    room.queue.capacity = 8
    room.queue.admit()
    unclaimed = [room.queue.admitted[number] for number in room.queue.unclaimed]
    await gateway.caught_up()
    room.faults.delays["GetPositions"] = 60
    calls = gateway.calls()
    unlucky = asyncio.create_task(gateway.get("/queues/order", unclaimed[0]))
    await until(lambda: gateway.calls() > calls)
    room.faults.delays.clear()
    await asyncio.sleep(BUDGET / 2)
    others = [gateway.get("/queues/order", place) for place in unclaimed[1:]]
    assert others
    assert {answer.status_code for answer in await asyncio.gather(*others)} == {200}
    assert (await unlucky).status_code == 504
    assert not gateway.clients.rooms.main.answers.in_outage


async def test_a_view_that_misses_changes_does_not_speak(
    room: Services, gateway: Watching, fault: Fault
) -> None:
    view = gateway.clients.rooms.main.copy.view
    assert view
    view.fields.unrecorded_at_ms = int(time.time() * 1000)
    fault(room)
    await asyncio.sleep(BOUND + 0.01)
    assert (await gateway.get("/queues/order", room.queue.waiting[1])).status_code in (503, 504)
    assert not gateway.clients.rooms.main.answers.in_outage
    view.fields.unrecorded_at_ms = 0
    assert await gateway.order(room.queue.waiting[1]) == 2
    assert gateway.clients.rooms.main.answers.in_outage
    view.fields.unrecorded_at_ms = int(time.time() * 1000)
    assert_problem(await gateway.get("/queues/order", room.queue.waiting[1]), 503, "UNAVAILABLE", 1)


async def test_people_who_are_admitted_go_on(
    room: Services, gateway: Watching, fault: Fault
) -> None:
    await begin(gateway, room, fault)
    for path in ("/concerts", "/concerts/1/schedules"):
        assert (await gateway.get(path, shopping(room))).status_code == 200
    refused = await gateway.get("/concerts", room.queue.waiting[0])
    assert (refused.status_code, refused.json()["code"]) == (403, "STILL_WAITING")


async def test_what_must_be_certain_is_503_and_leaves_no_trace(
    room: Services, gateway: Watching
) -> None:
    room.queue.capacity = 3
    room.queue.admit()  # one that nobody has claimed
    await gateway.caught_up()
    unclaimed = room.queue.admitted[next(iter(room.queue.unclaimed))]
    await begin(gateway, room, refuse)
    unknown = queue_pb2.Place(room="main", number=999, user_id=9, epoch=1)
    for place in (unclaimed, unknown):
        for path in ("/queues/order", "/concerts"):
            assert_problem(await gateway.get(path, place), 503, "UNAVAILABLE", 1)
    entered = await gateway.http.post("/queues/enqueue", json={"userId": 900})
    assert_problem(entered, 503, "UNAVAILABLE", 1)
    left = await gateway.http.delete(
        "/queues/order", headers={"X-Access-Token": sign(room.queue.waiting[0])}
    )
    assert_problem(left, 503, "UNAVAILABLE", 1)
    restore(room)
    await until(lambda: gateway.clients.rooms.main.answers.usable() is not None)
    assert await gateway.order(room.queue.waiting[0]) == 1
    assert await gateway.order(unclaimed) == 0


async def test_one_call_at_a_time_tries_for_those_that_the_view_does_not_know(
    room: Services, gateway: Watching
) -> None:
    await begin(gateway, room, hang)
    calls = gateway.calls()
    unknown = [
        queue_pb2.Place(room="main", number=number, user_id=9, epoch=1)
        for number in range(900, 920)
    ]
    started = time.monotonic()
    responses = await asyncio.gather(*(gateway.get("/queues/order", p) for p in unknown))
    assert {response.status_code for response in responses} == {503}
    assert gateway.calls() == calls + 1
    assert time.monotonic() - started < 10 * BUDGET  # one after the other: 20


async def test_it_ends_with_the_first_heartbeat(
    room: Services, gateway: Watching, fault: Fault
) -> None:
    await begin(gateway, room, fault)
    restore(room)
    calls = gateway.calls()

    recovering = True
    async with asyncio.timeout(5):
        while recovering:
            polled = (await gateway.get("/queues/order", room.queue.waiting[1])).json()
            assert polled["order"] == 2
            recovering = polled["recovering"]
            await asyncio.sleep(0.02)
    assert not gateway.clients.rooms.main.answers.in_outage
    assert gateway.calls() == calls


async def test_people_who_polled_are_reported_afterwards(room: Services, gateway: Watching) -> None:
    await begin(gateway, room, hang)
    place = room.queue.waiting[2]
    assert await gateway.order(place) == 3
    # If Redis has lost its data, a sign of life restores the place in line.
    assert await gateway.order(shopping(room)) == 0
    restore(room)
    await until(lambda: place.number in [seen.number for seen in room.queue.watch.seen])
    assert shopping(room).number not in [seen.number for seen in room.queue.watch.seen]


async def test_changes_do_not_replace_the_answer_to_a_heartbeat(
    room: Services, gateway: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A demoted Redis answers no script, while its log may still be read."""
    monkeypatch.setattr(watch, "_SILENT_SECONDS", 0.3)
    await until(lambda: not gateway.clients.rooms.main.copy.freshness.is_asking)
    room.queue.watch.answers = False
    streams = len(room.queue.watch.first_requests)
    async with asyncio.timeout(5):
        while len(room.queue.watch.first_requests) == streams:
            gateway.clients.rooms.main.copy.freshness.is_fresh()
            room.queue.watch.record()
            await asyncio.sleep(0.05)


async def test_the_answer_to_a_heartbeat_may_come_after_a_long_snapshot(
    room: Services, open_watching: OpenWatching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_SILENT_SECONDS", 0.3)
    room.queue.watch.answers = False
    gateway = await open_watching()
    for n in range(16):
        part = queue_pb2.RoomSnapshot(epoch=1, seq=0, is_first=n == 0)
        room.queue.watch.send(queue_pb2.WatchRoomResponse(snapshot=part))
        await asyncio.sleep(0.05)
        gateway.clients.rooms.main.copy.freshness.is_fresh()
    assert len(room.queue.watch.first_requests) == 1


async def test_the_last_view_speaks_no_longer_than_allowed(
    room: Services, open_watching: OpenWatching
) -> None:
    gateway = await open_watching(read_budget_seconds=BUDGET, room_outage_seconds=1)
    place = room.queue.waiting[1]
    assert await gateway.order(place) == 2
    await begin(gateway, room, refuse)
    await asyncio.sleep(1)
    assert_problem(await gateway.get("/queues/order", place), 503, "UNAVAILABLE", 1)
    assert_problem(await gateway.get("/concerts", shopping(room)), 503, "UNAVAILABLE", 1)


async def test_the_last_view_speaks_after_a_long_silence(
    room: Services, open_watching: OpenWatching, fault: Fault
) -> None:
    """Nobody asks for heartbeats then, but the stream would have brought each change."""
    gateway = await open_watching(read_budget_seconds=BUDGET, room_outage_seconds=2)
    place = room.queue.waiting[1]
    assert await gateway.order(place) == 2
    await asyncio.sleep(2.2)
    await begin(gateway, room, fault)
    polled = (await gateway.get("/queues/order", place)).json()
    assert (polled["order"], polled["recovering"]) == (2, True)


async def test_a_view_without_a_stream_ages(room: Services, open_watching: OpenWatching) -> None:
    gateway = await open_watching(read_budget_seconds=BUDGET, room_outage_seconds=1)
    place = room.queue.waiting[1]
    assert await gateway.order(place) == 2
    gateway.clients.rooms.main.copy.disconnected()
    refuse(room)
    await asyncio.sleep(1.1)
    assert_problem(await gateway.get("/queues/order", place), 503, "UNAVAILABLE", 1)
    assert not gateway.clients.rooms.main.answers.in_outage


async def test_the_gateway_stays_ready_while_the_last_view_speaks(
    room: Services, open_watching: OpenWatching
) -> None:
    gateway = await open_watching(
        read_budget_seconds=BUDGET, room_outage_seconds=1.5, readiness_ttl_seconds=0.1
    )
    assert await gateway.order(room.queue.waiting[1]) == 2

    async def ready() -> tuple[int, list[str], str]:
        response = await gateway.http.get("/health/ready")
        return response.status_code, response.json()["away"], response.json()["roomView"]

    assert await ready() == (200, [], "current")
    hang(room)
    await asyncio.sleep(BOUND + 0.01)
    unhealthy = gateway.clients.unavailable_services

    async def without_queue_service() -> list[str]:
        return [*await unhealthy(), "queue_service"]

    gateway.clients.unavailable_services = without_queue_service  # type: ignore[method-assign]
    assert await ready() == (200, [], "outage")
    await asyncio.sleep(1.5)
    assert (await ready())[:2] == (503, ["queue_service"])


async def test_without_a_view_each_request_asks(
    room: Services, open_watching: OpenWatching
) -> None:
    room.queue.watch.supported = False
    gateway = await open_watching()
    refuse(room)
    for _ in range(3):
        polled = await gateway.get("/queues/order", room.queue.waiting[1])
        assert_problem(polled, 503, "UNAVAILABLE", 1)
    assert not gateway.clients.rooms.main.answers.in_outage


class TestItsLength:
    @pytest.fixture
    def log(self, monkeypatch: pytest.MonkeyPatch) -> CapturingLogger:
        log = CapturingLogger()
        monkeypatch.setattr(outage_module, "log", log)
        return log

    @pytest.mark.parametrize(
        ("claim_ms", "absent_ms", "used"),
        [(150_000, 300_000, None), (60_000, 120_000, None), (30_000, 300_000, 30.0),
         (150_000, 90_000, 45.0)],
    )  # fmt: skip
    def test_it_is_at_most_the_claim_window_and_half_of_the_absence_window(
        self, log: CapturingLogger, claim_ms: int, absent_ms: int, used: float | None
    ) -> None:
        outage = QueueOutage(60, "main")
        rules = queue_pb2.RoomRules(claim_window_ms=claim_ms, absent_after_ms=absent_ms)
        for _ in range(2):  # each snapshot says it
            outage.use(rules)
        events = [(call.args[0], call.kwargs["used"]) for call in log.calls]
        assert events == ([] if used is None else [("room_outage_seconds_reduced", used)])
        now = time.monotonic()
        assert outage.begin(now - (used or 60) + 1)
        assert not outage.begin(now - (used or 60))

    def test_a_view_that_is_too_old_is_logged_once_and_ends_no_outage(
        self, log: CapturingLogger
    ) -> None:
        outage = QueueOutage(60, "main")
        for _ in range(2):
            assert not outage.begin(time.monotonic() - 61)
        outage.end()
        assert [call.args[0] for call in log.calls] == ["room_view_too_old"]

    def test_it_is_logged_once(self, log: CapturingLogger) -> None:
        outage = QueueOutage(60, "main")
        outage.end()
        for _ in range(3):
            outage.begin(time.monotonic())
        outage.end()
        outage.end()
        assert [call.args[0] for call in log.calls] == ["room_outage_began", "room_outage_ended"]


async def test_a_batcher_fails_those_that_wait() -> None:
    started = asyncio.Event()

    async def send(items: object) -> list[int]:
        started.set()
        await asyncio.sleep(60)
        return []

    batcher = Batcher[int, int](send, budget=1, max_batch=1)
    first, second = (asyncio.create_task(batcher.submit(n)) for n in range(2))
    await started.wait()
    batcher.fail_waiting(Unavailable("gone"))
    with pytest.raises(Unavailable):
        await second
    assert not first.done()
    first.cancel()
