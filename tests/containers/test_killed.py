"""docker kill of each container in turn while fans buy: afterwards all invariants hold."""

import asyncio
import contextlib
import os
import signal

import pytest

from loadtests.metrics import Watch
from loadtests.opening import opened
from tests.containers.stack import PROGRAMS, SERVERS, Containers, docker
from tests.e2e.conftest import in_thread
from tests.e2e.shop import Shop, eventually
from tests.faults.invariants import assert_all_hold
from tests.faults.load import Load

FANS = 5
# Until an operator starts it.
_DOWN_SECONDS = 3.0


@pytest.mark.parametrize("service", [*PROGRAMS, *SERVERS])
async def test_the_shop_survives_the_death_of(shop: Shop, stack: Containers, service: str) -> None:
    container = stack.one(service)
    seats = shop.new_schedule(seats=3000).seats
    with contextlib.ExitStack() as opening:
        target = await in_thread(opening.enter_context, opened({"BASE_URL": shop.url()}, "none"))
        watch = opening.enter_context(Watch(target, {}))
        async with Load(shop, seats, fans=FANS) as load:
            await in_thread(stack.kill, container.name)
            await asyncio.sleep(_DOWN_SECONDS)
            await in_thread(stack.start, container.name)
            await load.goes_on(within=120)
    print(f"\n{service}: {load.journeys} journeys, {dict(load.refusals)}, {dict(load.broken)}")
    if service != "gateway":
        # Only the clients of the killed process lose a connection.
        assert not load.broken
    await assert_all_hold(shop, within=90)
    load.assert_no_success_was_lost()
    assert (watch.room.over_capacity, watch.room.overtakers) == (0, set())


@pytest.mark.parametrize("service", [*PROGRAMS, *SERVERS])
async def test_a_process_that_dies_is_restarted(
    shop: Shop, stack: Containers, service: str
) -> None:
    """docker kill counts as intended; the death of the process does not."""
    container = stack.one(service)
    os.kill(container.pid, signal.SIGKILL)

    async def restarted() -> None:
        pids = {each.pid for each in await in_thread(stack.of, service)}
        assert pids - {container.pid}

    await eventually(restarted, within=60, every=0.5)
    await in_thread(stack.wait_until_healthy)
    await shop.ready()


@pytest.mark.parametrize("service", [*PROGRAMS, *SERVERS])
async def test_docker_stop_ends_it_within_its_grace_period(stack: Containers, service: str) -> None:
    name = stack.one(service).name
    await in_thread(docker, "stop", name)
    code = docker("inspect", "--format", "{{.State.ExitCode}}", name)
    # Java reports SIGTERM with this status.
    assert code == ("143" if service == "kafka" else "0")
    await in_thread(stack.start, name)
