"""Polls that come far earlier than advised cost no call, and hide no admission for long."""

import asyncio
from types import SimpleNamespace

import pytest

from gateway import pace as pace_module
from gateway.pace import EARLY, Pace
from protos.frontrow.queue.v1 import queue_pb2
from tests.gateway.conftest import OpenGateway
from tests.gateway.fakes import Services
from tests.gateway.problems import assert_problem

PLACE = queue_pb2.Place(room="main", number=7, user_id=42, epoch=1)
ADMITTED = queue_pb2.Position(state=queue_pb2.PLACE_STATE_ADMITTED)


def waiting(
    order: int = 5_000,
    pause_ms: int = 60_000,
    *,
    recovering: bool = False,
    phase: queue_pb2.RoomPhase.ValueType = queue_pb2.ROOM_PHASE_OPEN,
) -> queue_pb2.Position:
    return queue_pb2.Position(
        state=queue_pb2.PLACE_STATE_WAITING,
        order=order,
        poll_after_ms=pause_ms,
        estimated_wait_ms=2 * pause_ms,
        recovering=recovering,
        phase=phase,
    )


class Clock:
    """Stands still until a test sets it, in seconds."""

    def __init__(self) -> None:
        self.now = 1_000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def pace() -> Pace:
    return Pace(enforced=True)


def order_of(pace: Pace) -> int | None:
    early = pace.early_answer(PLACE)
    return None if early is None else early.position.order


@pytest.mark.parametrize(
    ("order", "pause_ms", "seconds"),
    [(5_000, 60_000, 30), (101, 8_000, 4), (100, 10_000, 0.5), (1, 1_000, 0.5), (1, 100, 0.05)],
)
def test_an_answer_lasts_half_of_the_pause_and_near_the_front_half_a_second(
    pace: Pace, clock: Clock, order: int, pause_ms: int, seconds: float
) -> None:
    pace.remember(PLACE, waiting(order, pause_ms))
    clock.now += 0.99 * seconds
    assert order_of(pace) == order
    clock.now += 0.02 * seconds
    assert order_of(pace) is None


def test_it_says_the_pause_and_the_wait_that_remain(pace: Pace, clock: Clock) -> None:
    pace.remember(PLACE, waiting(recovering=True))
    clock.now += 20.5
    early = pace.early_answer(PLACE)
    assert early is not None
    assert (early.age, early.position.poll_after_ms) == (20, 39_500)
    assert early.position.estimated_wait_ms == 99_500
    assert early.position.recovering
    assert early.position.state == queue_pb2.PLACE_STATE_WAITING


def test_early_polls_do_not_prolong_it(pace: Pace, clock: Clock) -> None:
    pace.remember(PLACE, waiting())
    for _ in range(29):
        clock.now += 1
        assert order_of(pace) == 5_000
    clock.now += 1
    assert order_of(pace) is None


def test_an_older_answer_that_arrives_later_does_not_count(pace: Pace, clock: Clock) -> None:
    pace.remember(PLACE, waiting(400))
    pace.remember(PLACE, waiting(500))
    assert order_of(pace) == 400
    pace.remember(PLACE, waiting(600, recovering=True))  # lost places return in front of it
    assert order_of(pace) == 600


@pytest.mark.parametrize("phase", [queue_pb2.ROOM_PHASE_GATHERING, queue_pb2.ROOM_PHASE_DRAWING])
def test_before_the_opening_an_answer_lasts_half_a_second_and_the_order_may_grow(
    pace: Pace, clock: Clock, phase: queue_pb2.RoomPhase.ValueType
) -> None:
    for order in (5_000, 6_000):
        pace.remember(PLACE, waiting(order, phase=phase))
        early = pace.early_answer(PLACE)
        assert early is not None
        assert (early.position.order, early.position.phase) == (order, phase)
    # The rank that the draw gives may be greater than the number of those who had gathered.
    pace.remember(PLACE, waiting(7_000))
    assert order_of(pace) == 7_000
    pace.remember(PLACE, waiting(8_000))
    assert order_of(pace) == 7_000
    pace.remember(PLACE, waiting(7_000, phase=phase))
    clock.now += 0.5
    assert order_of(pace) is None


def test_an_admission_ends_it(pace: Pace, clock: Clock) -> None:
    pace.remember(PLACE, waiting())
    pace.remember(PLACE, ADMITTED)
    assert order_of(pace) is None


def test_a_place_that_ends_is_forgotten_for_good(pace: Pace, clock: Clock) -> None:
    """Also if the answer to an earlier poll is still on its way."""
    pace.remember(PLACE, waiting())
    pace.end(PLACE)
    pace.forget(PLACE)  # leaving again
    pace.remember(PLACE, waiting())
    assert order_of(pace) is None


def test_a_place_that_may_be_about_to_end_is_asked_for_once(pace: Pace, clock: Clock) -> None:
    pace.remember(PLACE, waiting())
    pace.forget(PLACE)
    assert order_of(pace) is None
    pace.remember(PLACE, waiting())
    assert order_of(pace) == 5_000


def test_switched_off_it_remembers_nothing(clock: Clock) -> None:
    pace = Pace(enforced=False)
    pace.remember(PLACE, waiting())
    pace.end(PLACE)
    assert order_of(pace) is None
    assert len(pace._answers) == 0


def test_the_size_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace_module, "_MAX_REMEMBERED", 10)
    pace = Pace(enforced=True)
    for number in range(100):
        pace.remember(queue_pb2.Place(number=number), waiting())
    assert len(pace._answers) == 10
    assert pace.early_answer(queue_pb2.Place(number=99)) is not None


class TestOverHttp:
    @pytest.fixture(autouse=True)
    def _clock(self, clock: Clock) -> None:
        pass

    @pytest.fixture
    def far(self, services: Services) -> dict[str, str]:
        """The token of a place behind 200 others."""
        services.queue.capacity = 0
        for user in range(1_001, 1_201):
            services.queue.enter(user)
        return {"X-Access-Token": services.token(42)}

    async def test_early_polls_cost_no_call(
        self, open_gateway: OpenGateway, services: Services, far: dict[str, str], clock: Clock
    ) -> None:
        client = await open_gateway(enforce_pace=True)
        before = EARLY._value.get()
        first = await client.get("/queues/order", headers=far)
        assert (first.json()["order"], first.json()["pollAfterSeconds"]) == (201, 201.5)
        assert "Age" not in first.headers
        clock.now += 100
        early = [await client.get("/queues/order", headers=far) for _ in range(20)]
        assert {response.status_code for response in early} == {200}
        assert {response.json()["order"] for response in early} == {201}
        assert {response.json()["pollAfterSeconds"] for response in early} == {101.5}
        assert {response.headers["Retry-After"] for response in early} == {"102"}
        assert {response.headers["Age"] for response in early} == {"100"}
        assert len(services.faults.of("GetPositions")) == 1
        assert EARLY._value.get() - before == 20
        clock.now += 1
        services.queue.end(services.queue.waiting[0].number)
        assert (await client.get("/queues/order", headers=far)).json()["order"] == 200

    async def test_the_first_pause_counts_from_entering(
        self, open_gateway: OpenGateway, services: Services, far: dict[str, str]
    ) -> None:
        client = await open_gateway(enforce_pace=True)
        entered = await client.post("/queues/enqueue", json={"userId": 42})
        polled = await client.get("/queues/order", headers=far)
        assert polled.json() == entered.json()
        assert not services.faults.of("GetPositions")

    async def test_the_token_is_verified_first(
        self, open_gateway: OpenGateway, far: dict[str, str]
    ) -> None:
        client = await open_gateway(enforce_pace=True)
        await client.get("/queues/order", headers=far)
        forged = {"X-Access-Token": far["X-Access-Token"][:-4] + "AAAA"}
        assert_problem(await client.get("/queues/order", headers=forged), 401, "INVALID_TOKEN")

    async def test_other_requests_of_a_waiting_place_ask_once_per_second(
        self, open_gateway: OpenGateway, services: Services, far: dict[str, str], clock: Clock
    ) -> None:
        client = await open_gateway(enforce_pace=True)
        for _ in range(10):
            refused = await client.get("/concerts", headers=far)
            assert_problem(refused, 403, "STILL_WAITING", 202)
            assert refused.json()["order"] == 201
        assert len(services.faults.of("GetPositions")) == 1
        clock.now += 1
        services.queue.capacity = 1_000
        services.queue.end(1)
        assert (await client.get("/concerts", headers=far)).status_code == 200
        assert (await client.get("/queues/order", headers=far)).json()["order"] == 0

    async def test_a_place_that_has_left_is_not_in_line(
        self, open_gateway: OpenGateway, services: Services, far: dict[str, str]
    ) -> None:
        client = await open_gateway(enforce_pace=True)
        await client.get("/queues/order", headers=far)
        assert (await client.delete("/queues/order", headers=far)).status_code == 204
        assert_problem(await client.get("/queues/order", headers=far), 401, "TOKEN_EXPIRED")

    async def test_a_place_that_could_not_leave_keeps_its_pace(
        self, open_gateway: OpenGateway, services: Services, far: dict[str, str]
    ) -> None:
        client = await open_gateway(enforce_pace=True)
        await client.get("/queues/order", headers=far)
        services.faults.errors["LeaveQueue"] = RuntimeError("broken")
        failed = await client.delete("/queues/order", headers=far)
        assert_problem(failed, 500, "INTERNAL")
        polls = [await client.get("/queues/order", headers=far) for _ in range(10)]
        assert {poll.json()["order"] for poll in polls} == {201}
        assert len(services.faults.of("GetPositions")) == 2  # one before, one after

    async def test_a_poll_on_its_way_while_the_place_leaves(
        self, open_gateway: OpenGateway, services: Services, far: dict[str, str]
    ) -> None:
        client = await open_gateway(enforce_pace=True)
        services.faults.delays["GetPositions"] = 0.1
        polling = asyncio.create_task(client.get("/queues/order", headers=far))
        await asyncio.sleep(0.03)
        await client.delete("/queues/order", headers=far)
        await polling
        assert_problem(await client.get("/queues/order", headers=far), 401, "TOKEN_EXPIRED")

    async def test_requests_beyond_their_limit_are_refused(
        self, open_gateway: OpenGateway, far: dict[str, str]
    ) -> None:
        client = await open_gateway(enforce_pace=True, requests_per_second=5)
        statuses = [(await client.get("/queues/order", headers=far)).status_code for _ in range(7)]
        assert statuses == [200] * 5 + [429] * 2
