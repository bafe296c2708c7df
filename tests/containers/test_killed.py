"""docker kill of each container in turn while fans buy: afterwards everything adds up."""

import asyncio
import contextlib
import os
import signal

import pytest

from loadtests.opening import opened
from loadtests.watch import Watch
from tests.containers.stack import PROGRAMS, SERVERS, Containers, docker
from tests.e2e.conftest import in_thread
from tests.e2e.shop import Shop, eventually
from tests.faults.invariants import assert_all_hold
from tests.faults.load import Load

FANS = 5
# An operator notices, and starts it.
_AWAY_SECONDS = 3.0


@pytest.mark.parametrize("service", [*PROGRAMS, *SERVERS])
async def test_the_shop_survives_the_death_of(shop: Shop, stack: Containers, service: str) -> None:
    container = stack.one(service)
    seats = shop.new_schedule(seats=3000).seats
    with contextlib.ExitStack() as opening:
        target = await in_thread(opening.enter_context, opened({"BASE_URL": shop.url()}, "none"))
        watch = opening.enter_context(Watch(target, {}))
        async with Load(shop, seats, fans=FANS) as load:
            await in_thread(stack.kill, container.name)
            await asyncio.sleep(_AWAY_SECONDS)
            await in_thread(stack.start, container.name)
            await load.goes_on(within=120)
    print(f"\n{service}: {load.journeys} journeys, {dict(load.refusals)}, {dict(load.broken)}")
    if service != "gateway":
        # Only who is connected to the dead sees the connection break.
        assert not load.broken
    await assert_all_hold(shop, within=90)
    load.assert_nothing_told_was_lost()
    assert (watch.room.over_capacity, watch.room.overtakers) == (0, set())


@pytest.mark.parametrize("service", [*PROGRAMS, *SERVERS])
async def test_what_dies_by_itself_comes_back_by_itself(
    shop: Shop, stack: Containers, service: str
) -> None:
    """docker kill counts as somebody's wish; a process that is killed does not."""
    container = stack.one(service)
    os.kill(container.cgroup.pid, signal.SIGKILL)

    async def came_back() -> None:
        pids = {each.cgroup.pid for each in await in_thread(stack.of, service)}
        assert pids - {container.cgroup.pid}

    await eventually(came_back, within=60, every=0.5)
    await in_thread(stack.wait_until_healthy, container.name)
    await shop.ready()


@pytest.mark.parametrize("service", [*PROGRAMS, *SERVERS])
async def test_what_is_told_to_stop_ends_by_itself(stack: Containers, service: str) -> None:
    """Within its grace period, not killed at the end of it."""
    name = stack.one(service).name
    await in_thread(docker, "stop", name)
    code = docker("inspect", "--format", "{{.State.ExitCode}}", name)
    # Java says so that it was SIGTERM.
    assert code == ("143" if service == "kafka" else "0")
    await in_thread(stack.start, name)
