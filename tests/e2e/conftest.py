"""One running system for all end-to-end tests; each test has users and seats of its own."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

import pytest

from concert_service.operators.domain import Role
from harness.local.ports import Ports
from harness.local.stack import Stack
from tests.e2e.operators import Admin, operator
from tests.e2e.shop import Shop

Result = TypeVar("Result")

# Beside "main", where everybody is admitted at once, rooms of their own for the tests of lines:
# DOOR opens and closes under tests of single fans, DESK under the operator's command, LINE sees a
# crowd, INVENTED somebody who invents users.
DOOR, DESK, LINE, INVENTED = "door", "desk", "line", "invented"
# An address where nobody listens.
NOBODY = "127.0.0.1:9"


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(
        tmp_path_factory.mktemp("system"),
        Ports.free(),
        program_env={
            "queue_service": {
                "QUEUE_ROOMS": json.dumps(["main", DOOR, DESK, LINE, INVENTED]),
                "QUEUE_CAPACITY": "100000",
                # Shorter than for fans on the internet, so that tests are quick.
                "QUEUE_POLL_MIN_SECONDS": "0.1",
                "QUEUE_POLL_MAX_SECONDS": "4",
                "QUEUE_GRACE_SECONDS": "5",
            },
            # What holds here must hold without the sweep.
            "reservation_service": {"RESERVATION_SWEEP_INTERVAL_SECONDS": "3600"},
            "payment_service": {
                "PAYMENT_PROVIDER_TIMEOUT_SECONDS": "2.5",
                "PAYMENT_RECOVERY_INTERVAL_SECONDS": "0.5",
            },
            # Crowds here come from one machine, and one user pays 50 times at once.
            "gateway": {
                "GATEWAY_REQUESTS_PER_SECOND": "0",
                # Tests that stop a service ask for the state of this moment.
                "GATEWAY_READINESS_TTL_SECONDS": "0",
                # Tests poll at once what they have just changed.
                "GATEWAY_ENFORCE_PACE": "false",
                "GATEWAY_DRAIN_ANNOUNCE_SECONDS": "0.2",
            },
        },
    )
    with stack:
        stack.start(seed="small")
        yield stack
        killed = stack.stop()
    assert killed == [], "these did not stop when asked"


@pytest.fixture
async def shop(stack: Stack) -> AsyncIterator[Shop]:
    shop = Shop(stack)
    yield shop
    await shop.close()


@pytest.fixture(scope="package")
def short_holds(stack: Stack) -> str:
    """The name of a gateway whose reservations last one second."""
    reservations = stack.add_replica(
        "reservation_service",
        {
            "RESERVATION_HOLD_SECONDS": "1",
            # The first replica listens to the payments for both.
            "RESERVATION_KAFKA_BOOTSTRAP": NOBODY,
        },
    )
    reservations.start()
    gateway = stack.add_replica("gateway", {"GATEWAY_RESERVATION_ADDR": reservations.address})
    gateway.start()
    return gateway.name


def start_all(stack: Stack, *names: str) -> None:
    """Starts the processes at once and waits until all of them serve."""
    stack.start_services(names)


async def in_thread(work: Callable[..., Result], *arguments: object) -> Result:
    """Runs what blocks, such as starting a process, beside the event loop."""
    return await asyncio.to_thread(work, *arguments)


@pytest.fixture
async def admin(stack: Stack) -> AsyncIterator[Admin]:
    """The admin API, with a key of the role operator."""
    async with operator(stack, Role.OPERATOR) as admin:
        yield admin
