"""Stacks of containers. They are slow and need a Docker engine: `make test-containers`."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from harness.containers.engine import Engine
from harness.errors import UserError
from tests.containers.stack import Containers
from tests.e2e.shop import Shop, eventually

HERE = Path(__file__).parent
# The tests that end with `down` come last of those that share a stack. The second stack comes after
# that, because two at the same time would have half of the machine each.
_ORDER = ["test_locked_in", "test_killed", "test_data", "test_two_of_each"]
# Starting everything with a tenth of a core each is slow.
_SECONDS_PER_TEST = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    try:
        Engine("frontrow-test", os.environ)
        reason = ""
    except UserError as error:
        reason = f"no containers here: {error}"
    items.sort(key=lambda item: _ORDER.index(item.path.stem) if item.path.parent == HERE else -1)
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(_SECONDS_PER_TEST))
            item.add_marker(pytest.mark.skipif(bool(reason), reason=reason))


def started(project: str, **settings: str) -> Iterator[Containers]:
    stack = Containers(project, **settings)
    stack.run("down", DATA="delete")  # left by a run that was killed
    try:
        stack.run("up")
        yield stack
    finally:
        stack.run("down", DATA="delete")


@pytest.fixture(scope="session")
def stack() -> Iterator[Containers]:
    """One of each program, within 2 cores and 4 GiB."""
    yield from started("frontrow-test")


@pytest.fixture
async def shop(stack: Containers) -> AsyncIterator[Shop]:
    shop = stack.shop()

    async def admits() -> None:
        fan = shop.fan()
        order = (await fan.enter()).body.order
        await fan.leave()
        assert order == 0

    # A test before may have stopped Redis: then the room admits nobody until its grace has ended.
    await eventually(admits, within=120, every=1.0)
    yield shop
    await shop.close()
