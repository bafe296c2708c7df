"""Error table, 500, 503 UNAVAILABLE and 504: a service behind the gateway is to blame."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from harness.client import AnyResponse
from harness.local.stack import Stack
from tests.e2e.conftest import in_thread
from tests.e2e.refusals import assert_refused_for_now
from tests.e2e.shop import Fan, Shop, assert_problem, eventually


@pytest.fixture(scope="module")
def impatient(stack: Stack) -> str:
    """The name of a gateway that waits half a second for the services, and remembers nothing."""
    half_a_second = {f"GATEWAY_{kind}_BUDGET_SECONDS": "0.5" for kind in ("READ", "WRITE", "PAY")}
    at_once = {
        f"GATEWAY_{kind}_TTL_SECONDS": "0" for kind in ("ADMISSION", "SEATS", "SCHEDULES", "FACTS")
    }
    no_view = {"GATEWAY_ROOM_VIEW": "false"}
    gateway = stack.add_replica("gateway", half_a_second | at_once | no_view)
    gateway.start()
    return gateway.name


@pytest.fixture(scope="module")
def watching(stack: Stack) -> str:
    """The name of a gateway with a copy of the room, which waits half a second for the services."""
    half_a_second = {f"GATEWAY_{kind}_BUDGET_SECONDS": "0.5" for kind in ("READ", "WRITE", "PAY")}
    gateway = stack.add_replica("gateway", half_a_second)
    gateway.start()
    return gateway.name


@dataclass(frozen=True)
class Customer:
    """A fan at the impatient gateway who holds a seat, and free seats of the same date."""

    fan: Fan
    reservation: int
    free_seats: list[int]


@pytest.fixture
async def customer(shop: Shop, impatient: str) -> Customer:
    date_ = shop.new_schedule()
    fan = await shop.admitted(impatient)
    return Customer(fan, await fan.hold(date_.seats[0]), date_.seats[1:])


# 503 UNAVAILABLE, 504 TIMEOUT.


async def needing(service: str, fan: Fan, seat_id: int, reservation: int) -> list[AnyResponse]:
    """Replies to everything that the service behind the gateway is needed for."""
    match service:
        case "queue_service":
            return [await fan.enter(), await fan.order(), await fan.concerts(), await fan.leave()]
        case "concert_service":
            return [await fan.concerts(), await fan.schedules(1), await fan.seats(1)]
        case "reservation_service":
            return [
                await fan.schedules(1),
                await fan.seats(1),
                await fan.reserve(seat_id),
                await fan.reservation(reservation),
                await fan.cancel(reservation),
            ]
        case _:
            return [await fan.pay(reservation)]


async def answers_again(service: str, shop: Shop, impatient: str, customer: Customer) -> None:
    """Waits until a newcomer gets from the service what it is needed for, and can hold a seat.

    The services behind the gateway call each other. Each connects again by itself, within 1.2 s,
    so that the gateway may reach concert_service earlier than reservation_service does. That one
    has to ask for seats of a date that it does not know yet.
    """
    seat = shop.new_schedule().seats[0]

    async def answers() -> None:
        newcomer = await shop.admitted(impatient)
        replies = await needing(service, newcomer, customer.free_seats[1], customer.reservation)
        for reply in [*replies, await newcomer.reserve(seat)]:
            assert reply.status_code < 500, reply.text

    await eventually(answers)


SERVICES = ["queue_service", "concert_service", "reservation_service", "payment_service"]


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_that_hangs_is_a_timeout(
    shop: Shop, stack: Stack, impatient: str, customer: Customer, service: str
) -> None:
    fan, reservation, seat = customer.fan, customer.reservation, customer.free_seats[0]
    process = stack.process(service)
    process.signal(signal.SIGSTOP)
    try:
        for reply in await needing(service, fan, seat, reservation):
            assert_refused_for_now(reply, 504, "TIMEOUT")
    finally:
        process.signal(signal.SIGCONT)
    await answers_again(service, shop, impatient, customer)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_that_is_away_is_unavailable(
    shop: Shop, stack: Stack, impatient: str, customer: Customer, service: str
) -> None:
    fan, reservation, seat = customer.fan, customer.reservation, customer.free_seats[0]
    process = stack.process(service)
    await in_thread(process.stop)
    try:
        for reply in await needing(service, fan, seat, reservation):
            assert_refused_for_now(reply, 503, "UNAVAILABLE")
        ready = await fan.request("GET", "/health/ready")
        assert (ready.status_code, ready.json()["away"]) == (503, [service])
        assert (await fan.request("GET", "/health/live")).status_code == 200
    finally:
        await in_thread(process.start)

    async def ready_again() -> None:
        assert (await fan.request("GET", "/health/ready")).status_code == 200

    await eventually(ready_again)
    await answers_again(service, shop, impatient, customer)


@pytest.mark.parametrize("hangs", [True, False])
async def test_without_queue_service_admitted_people_go_on(
    shop: Shop, stack: Stack, watching: str, impatient: str, hangs: bool
) -> None:
    fan = await shop.admitted(watching)
    newcomer, elsewhere = shop.fan(watching), shop.fan(impatient)
    await in_view(fan)
    process = stack.process("queue_service")
    if hangs:
        process.signal(signal.SIGSTOP)
    else:
        await in_thread(process.stop)
    try:
        await asyncio.sleep(0.3)  # the last heartbeat gets too old
        for _ in range(10):
            order = (await fan.order()).body
            assert (order.order, order.recovering) == (0, True)
        assert (await fan.concerts()).status_code == 200
        assert_refused_for_now(await newcomer.enter(), 503, "UNAVAILABLE")
        # Whether the fan has left is not known after a timeout.
        left = await fan.leave()
        assert left.status_code == (504 if hangs else 503)
    finally:
        if hangs:
            process.signal(signal.SIGCONT)
        else:
            await in_thread(process.start)

    async def over() -> None:
        order = await fan.order()
        # 503 until then: whether the fan has left was not certain.
        assert order.status_code == 200
        assert (order.body.order, order.body.recovering) == (0, False)
        assert (await newcomer.enter()).status_code == 201
        # The gateway of the other tests connects again by itself, too.
        assert (await elsewhere.enter()).status_code == 201

    await eventually(over)


async def in_view(fan: Fan) -> None:
    """Waits until the copy of the room in the fan's gateway is in use, and has the fan."""

    async def current() -> None:
        assert (await fan.ready()).body.room_view == "current"

    await eventually(current)
    await asyncio.sleep(0.5)  # a change takes some 20 ms


# 500 INTERNAL.

PROBLEM_MEMBERS = {"type", "title", "status", "detail", "code", "requestId"}


@pytest.mark.parametrize(
    ("schema", "table"),
    [("concert", "concert"), ("reservation", "reservation"), ("payment", "payment")],
)
async def test_a_defect_is_internal_and_says_nothing(
    stack: Stack, customer: Customer, schema: str, table: str
) -> None:
    """A table that is missing stands for any mistake of ours."""
    fan, reservation, seat = customer.fan, customer.reservation, customer.free_seats[0]
    with stack.mariadb.administrator(schema) as cursor:
        cursor.execute("SET lock_wait_timeout = 10")
        cursor.execute(f"RENAME TABLE {table} TO {table}_away")
        try:
            questions: dict[str, list[Callable[[], Awaitable[AnyResponse]]]] = {
                "concert": [fan.concerts],
                "reservation": [
                    lambda: fan.reserve(seat),
                    lambda: fan.reservation(reservation),
                ],
                "payment": [lambda: fan.pay(reservation)],
            }
            for ask in questions[schema]:
                reply = await ask()
                problem = assert_problem(reply, 500, "INTERNAL")
                assert table not in problem.detail
                assert set(reply.json()) == PROBLEM_MEMBERS
        finally:
            cursor.execute(f"RENAME TABLE {table}_away TO {table}")
    assert (await fan.pay_to_the_end(reservation)).status_code == 200
