"""kill -9 of each program and each server while fans buy: afterwards everything adds up."""

import pytest

from harness.local.stack import Stack
from harness.topology import BY_MODULE
from tests.e2e.conftest import in_thread
from tests.e2e.shop import Shop
from tests.faults.invariants import assert_all_hold
from tests.faults.load import Load

FANS = 8


@pytest.mark.parametrize("name", [*BY_MODULE, "redis", "mariadb", "kafka"])
async def test_the_shop_survives_the_death_of(shop: Shop, stack: Stack, name: str) -> None:
    process = stack.process(name)
    async with Load(shop, shop.new_schedule(seats=3000).seats, fans=FANS) as load:
        await in_thread(process.kill)
        await in_thread(process.start)
        await load.goes_on()
    print(f"\n{name}: {load.journeys} journeys, {dict(load.refusals)}, {dict(load.broken)}")
    if name != "gateway":
        # Only who is connected to the dead sees the connection break.
        assert not load.broken
    await assert_all_hold(shop)
    load.assert_no_success_was_lost()
