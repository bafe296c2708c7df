"""A running system of which the fault tests may break anything, as long as they mend it again."""

import json
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from harness.local.ports import Ports
from harness.local.stack import Stack
from tests.e2e.shop import Shop
from tests.faults.room import Room, two_of_each

# Rooms of their own for the crowd that loses its Redis, and for the people behind two gateways.
LINE, HALL = "line", "hall"


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(
        tmp_path_factory.mktemp("broken"),
        Ports.free(),
        program_env={
            "queue_service": {
                "QUEUE_ROOMS": json.dumps(["main", LINE, HALL]),
                "QUEUE_CAPACITY": "100000",
                "QUEUE_KAFKA_SESSION_SECONDS": "2",
                "QUEUE_POLL_MIN_SECONDS": "0.3",
                "QUEUE_POLL_MAX_SECONDS": "2",
                # Three times as long as the longest pause between two polls.
                "QUEUE_GRACE_SECONDS": "6",
            },
            # Crashed drivers are succeeded, and dead services given up, within seconds.
            "reservation_service": {"RESERVATION_KAFKA_SESSION_SECONDS": "2"},
            "payment_service": {
                "PAYMENT_KAFKA_SESSION_SECONDS": "2",
                "PAYMENT_RESERVATION_TIMEOUT_SECONDS": "1",
                "PAYMENT_PROVIDER_TIMEOUT_SECONDS": "1",
                "PAYMENT_LEASE_SECONDS": "2.5",
                "PAYMENT_RECOVERY_INTERVAL_SECONDS": "0.3",
            },
            "gateway": {
                "GATEWAY_REQUESTS_PER_SECOND": "0",
                # Tests that stop a service ask for the state of this moment.
                "GATEWAY_READINESS_TTL_SECONDS": "0",
                # The crowd polls early, and its orders are compared between gateways.
                "GATEWAY_ENFORCE_PACE": "false",
                "GATEWAY_DRAIN_ANNOUNCE_SECONDS": "1",
            },
        },
    )
    with stack:
        stack.start(seed="none")
        yield stack


@pytest.fixture
async def shop(stack: Stack) -> AsyncIterator[Shop]:
    shop = Shop(stack)
    # The test before may have restarted a program to which the gateway reconnects only now.
    await shop.ready()
    yield shop
    await shop.close()


@pytest.fixture(autouse=True)
def mended(stack: Stack) -> Iterator[None]:
    """A test that fails half-way must not fail the next one."""
    usual = list(stack.programs)
    yield
    for process in stack.processes():
        if process in usual or process in stack.servers:
            process.signal(signal.SIGCONT)
            if not process.running:
                process.start()
        else:
            process.stop()
    stack.programs[:] = usual


@pytest.fixture(scope="package")
async def room(stack: Stack) -> AsyncIterator[Room]:
    """The room HALL behind two gateways, which call two replicas of queue_service."""
    async with two_of_each(stack, HALL, stack.redis_url) as room:
        yield room
