"""SCALE=2: two of each program within the same caps, rolled without lost requests."""

from collections import Counter
from collections.abc import Iterator
from functools import partial

import httpx
import pytest

from harness import topology
from loadtests.containers import Cgroup
from tests.containers.conftest import started
from tests.containers.stack import PROGRAMS, Containers, docker
from tests.e2e.conftest import in_thread
from tests.e2e.shop import Shop
from tests.faults.invariants import assert_all_hold
from tests.faults.load import Load

GATEWAYS = ("gateway", "gateway_2")
FANS = 4
# A call that must not be retried and reaches a service that is stopping is refused. The largest
# share of purchases:
REFUSALS = 0.05
NEW_VERSION = "frontrow-test-next"


@pytest.fixture(scope="module", autouse=True)
def no_new_version() -> Iterator[None]:
    """Of an image, before and after."""
    docker("rmi", f"frontrow:{NEW_VERSION}", check=False)
    yield
    docker("rmi", f"frontrow:{NEW_VERSION}", check=False)


@pytest.fixture(scope="module")
def stack() -> Iterator[Containers]:
    """Two of each program, within 2 cores and 4 GiB too."""
    yield from started("frontrow-test-pair", SCALE="2")


def test_two_of_each_share_the_caps(stack: Containers) -> None:
    counts = Counter(each.service for each in stack.all())
    assert counts == {**dict.fromkeys(PROGRAMS, 2), "mariadb": 1, "redis": 1, "kafka": 1}
    assert sum(Cgroup(each.pid).cores() or 99 for each in stack.all()) <= 2.001
    assert sum(Cgroup(each.pid).memory_limit() or 1 << 50 for each in stack.all()) <= 4 * 2**30


async def test_both_of_each_are_called(stack: Containers, shop: Shop) -> None:
    seats = shop.new_schedule(seats=400).seats
    async with Load(shop, seats[:200], fans=FANS, gateways=GATEWAYS) as load:
        await load.goes_on(20, within=120)
    async with Load(shop, seats[200:], fans=FANS, gateways=GATEWAYS[::-1]) as load:
        await load.goes_on(20, within=120)
    for program in topology.PROGRAMS:
        for each in stack.of(program.name) if program.name != "gateway" else ():
            url = f"http://{each.addresses['services']}:{program.metrics_port}/metrics"
            page = (await in_thread(partial(httpx.get, url, trust_env=False))).text
            # Without the health checks.
            lines = [line for line in page.splitlines() if line.startswith("grpc_calls_total{")]
            served = [line for line in lines if "Health" not in line and 'code="OK"' in line]
            assert served, f"{each.name} had no call: {lines}"


async def test_a_new_version_is_rolled_out_while_fans_buy(stack: Containers, shop: Shop) -> None:
    before = {each.id for each in stack.all() if each.service in PROGRAMS}
    # More than can be bought in the minutes that it takes.
    seats = shop.new_schedule(seats=9_999).seats
    async with Load(shop, seats, fans=FANS, gateways=GATEWAYS) as load:
        await in_thread(partial(stack.run, "roll", FRONTROW_VERSION=NEW_VERSION))
        await load.goes_on(within=120)
    print(f"\n{load.journeys} journeys, {dict(load.refusals)}, {dict(load.broken)}")
    after = [each for each in stack.all() if each.service in PROGRAMS]
    assert Counter(each.service for each in after) == dict.fromkeys(PROGRAMS, 2)
    assert not before & {each.id for each in after}
    images = {docker("inspect", "--format", "{{.Config.Image}}", each.name) for each in after}
    assert images == {f"frontrow:{NEW_VERSION}"}, "it was built, and runs"
    # No request was cut off. Without a load balancer, each fan may fail to connect once to each
    # gateway, and uses the other.
    assert set(load.broken) <= {"ConnectError"}, load.broken
    assert load.broken.total() <= FANS * len(GATEWAYS)
    assert_refused_rarely(load)
    await assert_all_hold(shop, within=90)
    load.assert_no_success_was_lost()


@pytest.mark.parametrize("service", PROGRAMS)
async def test_one_of_two_may_die(stack: Containers, shop: Shop, service: str) -> None:
    victim = stack.of(service)[0]
    if service == "gateway":
        # The one that fans begin with.
        first = f":{stack.port}"
        (victim,) = [
            each for each in stack.of(service) if docker("port", each.name).endswith(first)
        ]
    seats = shop.new_schedule(seats=3000).seats
    async with Load(shop, seats, fans=FANS, gateways=GATEWAYS) as load:
        await in_thread(stack.kill, victim.name)
        await load.goes_on(20, within=120)
        await in_thread(stack.start, victim.name)
        await load.goes_on(within=120)
    print(f"\n{service}: {load.journeys} journeys, {dict(load.refusals)}, {dict(load.broken)}")
    # Of the dead gateway every fan may lose a connection, and then fail to connect.
    assert load.broken.total() <= (2 * FANS if service == "gateway" else 0), load.broken
    assert_refused_rarely(load)
    await assert_all_hold(shop, within=90)
    load.assert_no_success_was_lost()


def assert_refused_rarely(load: Load) -> None:
    assert set(load.refusals) <= {"503 UNAVAILABLE"}, load.refusals
    assert load.refusals.total() <= REFUSALS * load.journeys, load.refusals
    assert not load.without_retry_after
