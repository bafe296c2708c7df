"""SIGTERM under load: nobody is cut off, and no success is lost."""

import asyncio
import signal

import pytest

from harness.local.stack import Stack
from tests.e2e.conftest import in_thread
from tests.e2e.shop import SLOW, Shop, eventually, sandbox_user
from tests.faults.invariants import assert_all_hold
from tests.faults.load import Load

FANS = 8


@pytest.mark.parametrize(
    "program", ["queue_service", "concert_service", "reservation_service", "payment_service"]
)
async def test_a_service_that_is_restarted_costs_a_503_at_most(
    shop: Shop, stack: Stack, program: str
) -> None:
    process = stack.process(program)
    async with Load(shop, shop.new_schedule(seats=3000).seats, fans=FANS) as load:
        for _ in range(2):
            # True: it ended by itself in time.
            assert await in_thread(process.stop)
            assert process.exit_code == 0
            await in_thread(process.start)
            await load.goes_on()
    print(f"\n{program}: {load.journeys} journeys, {dict(load.refusals)}")
    assert not load.broken
    assert set(load.refusals) <= {"503 UNAVAILABLE", "409 PAYMENT_IN_PROGRESS"}
    assert not load.without_retry_after
    await assert_all_hold(shop)
    load.assert_no_success_was_lost()


async def test_a_gateway_that_stops_sends_its_clients_away_and_cuts_nobody_off(
    shop: Shop, stack: Stack
) -> None:
    """Two gateways behind a load balancer that heeds `Connection: close`; each is restarted."""
    second = stack.add_replica("gateway")
    await in_thread(second.start)
    names = ["gateway", second.name]
    try:
        seats = shop.new_schedule(seats=3000).seats
        async with Load(shop, seats, fans=FANS, gateways=names) as load:
            for name in names:
                process = stack.process(name)
                assert await in_thread(process.stop)
                assert process.exit_code == 0
                await load.goes_on()
                await in_thread(process.start)
    finally:
        await in_thread(second.stop)
    print(f"\ngateways: {load.journeys} journeys, {dict(load.refusals)}")
    assert not load.broken
    assert not load.refusals
    await assert_all_hold(shop)
    load.assert_no_success_was_lost()


async def test_a_gateway_that_drains_says_so(shop: Shop, stack: Stack) -> None:
    """For a while it still answers, and asks to be left alone."""
    gateway = stack.add_replica("gateway")
    await in_thread(gateway.start)
    fan = await shop.admitted(gateway.name)
    gateway.signal(signal.SIGTERM)

    while (ready := await fan.request("GET", "/health/ready")).status_code != 503:
        assert ready.status_code == 200
    assert ready.json()["status"] == "draining"
    reply = await fan.concerts()
    assert (reply.status_code, reply.headers["connection"]) == (200, "close")
    assert await in_thread(gateway.wait, 20.0) == 0


async def test_a_payment_under_way_is_finished_by_a_service_that_stops(
    shop: Shop, stack: Stack
) -> None:
    """The fan who waits for the provider gets the answer."""
    process = stack.process("payment_service")
    await in_thread(process.stop)
    # The provider takes two seconds for this user.
    await in_thread(lambda: process.start(extra_env={"PAYMENT_PROVIDER_TIMEOUT_SECONDS": "5"}))
    try:
        await shop.ready()
        date_ = shop.new_schedule()
        fan = await shop.admitted(user_id=sandbox_user(SLOW))
        reservation = await fan.hold(date_.seats[0])
        paying = asyncio.create_task(fan.pay(reservation))

        async def charged() -> None:
            assert shop.number(
                "payment", "SELECT COUNT(*) FROM sandbox_charge WHERE user_id = %s", fan.user_id
            )

        await eventually(charged)
        assert await in_thread(process.stop)
        paid = await paying
        assert (paid.status_code, paid.json()["status"]) == (200, "SUCCEEDED"), paid.text
    finally:
        await in_thread(process.stop)
        await in_thread(process.start)
    await assert_all_hold(shop)
