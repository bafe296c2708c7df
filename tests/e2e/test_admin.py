"""What an operator does with the waiting room while it runs, by the command."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import pytest

from harness.files import REPOSITORY
from harness.local.stack import Stack
from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc
from queue_service.admin_guard import credentials
from servicekit import client
from tests.e2e.conftest import DESK, NOBODY, in_thread
from tests.e2e.shop import Fan, Shop, assert_problem, eventually

Admin = Callable[..., Awaitable[str]]


async def run(*arguments: str, address: str, token: str = "") -> tuple[int, str]:
    """The exit code and the output of the command."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "queue_service.admin",
        *arguments,
        "--address",
        address,
        "--room",
        DESK,
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"QUEUE_ADMIN_TOKEN": token},
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


@pytest.fixture
async def admin(stack: Stack, shop: Shop, door: str) -> AsyncIterator[Admin]:
    address = stack.address("queue_service")

    async def command(*arguments: object) -> str:
        token = stack.secrets.admin_token
        code, output = await run(*map(str, arguments), address=address, token=token)
        assert code == 0, output
        return output

    yield command
    # Not by the command, each start of which takes a second.
    as_before = queue_pb2.UpdateRoomRequest(
        room=DESK, paused=False, capacity=1000, max_waiting=1000
    )
    async with client.connect(address) as channel:
        await client.call(
            queue_pb2_grpc.QueueAdminServiceStub(channel).UpdateRoom,
            as_before,
            budget=10,
            metadata=credentials(stack.secrets.admin_token),
        )
    await shop.empty(door)


@contextlib.asynccontextmanager
async def polling(fans: list[Fan]) -> AsyncIterator[None]:
    """They poll all the time, as fans do: a room admits nobody if it hears of nobody for
    QUEUE_GRACE_SECONDS, and the command may take so long to start."""
    ended = asyncio.Event()

    async def poll() -> None:
        while not ended.is_set():
            for fan in fans:
                await fan.order()
            await asyncio.sleep(0.3)

    polls = asyncio.create_task(poll())
    try:
        yield
    finally:
        ended.set()
        await polls


@pytest.fixture(scope="module")
async def door(stack: Stack) -> str:
    gateway = stack.add_replica("gateway", {"GATEWAY_ROOM": DESK})
    await in_thread(gateway.start)
    return gateway.name


async def test_a_paused_room_admits_nobody_until_it_is_resumed(
    shop: Shop, door: str, admin: Admin
) -> None:
    await admin("capacity", 1)
    inside, waiting = shop.fan(door), shop.fan(door)
    assert (await inside.enter()).json()["order"] == 0
    assert (await waiting.enter()).json()["order"] == 1
    assert "paused" in await admin("pause")
    assert_problem(await shop.fan(door).enter(), 503, "QUEUE_PAUSED")
    assert (await inside.concerts()).status_code == 200
    await inside.leave()
    # A slot is free, but the room is paused; the tick that would fill it runs ten times per second.
    await asyncio.sleep(0.3)
    assert (await waiting.order()).json()["order"] == 1
    async with polling([waiting]):
        assert "paused" not in await admin("resume")
    assert (await waiting.order()).json()["order"] == 0
    await waiting.leave()


async def test_capacity_follows_at_once_and_throws_nobody_out(
    shop: Shop, door: str, admin: Admin
) -> None:
    assert "0 of 0 admitted" in await admin("capacity", 0)
    crowd = [shop.fan(door) for _ in range(6)]
    for order, fan in enumerate(crowd, start=1):
        assert (await fan.enter()).json()["order"] == order
    async with polling(crowd):
        assert "4 of 4 admitted, 2 of" in await admin("capacity", 4)

    async def orders_are(fans: list[Fan], *orders: int) -> None:
        assert [(await fan.order()).json()["order"] for fan in fans] == list(orders)

    # An order may be as old as GATEWAY_ROOM_FRESH_SECONDS.
    await eventually(partial(orders_are, crowd, 0, 0, 0, 0, 1, 2), within=1)
    assert "4 of 2 admitted, 2 of" in await admin("capacity", 2)
    assert (await crowd[3].concerts()).status_code == 200
    # Two leave, and still nobody is admitted; the third makes room.
    for fan in crowd[:2]:
        await fan.leave()
    await asyncio.sleep(0.3)
    await orders_are(crowd[4:], 1, 2)
    await crowd[2].leave()
    await eventually(partial(orders_are, crowd[4:], 0, 1), within=1)
    for fan in crowd[3:]:
        await fan.leave()
    assert "0 of 2 admitted, 0 of" in await admin("show")


async def test_the_line_can_be_shortened(shop: Shop, door: str, admin: Admin) -> None:
    await admin("capacity", 0)
    assert "0 of 1 waiting" in await admin("max-waiting", 1)
    fan = shop.fan(door)
    assert (await fan.enter()).json()["order"] == 1
    assert_problem(await shop.fan(door).enter(), 429, "QUEUE_FULL")
    await admin("max-waiting", 2)
    other = shop.fan(door)
    assert (await other.enter()).json()["order"] == 2
    for one in (fan, other):
        await one.leave()


async def test_what_is_set_outlives_a_restart_of_the_service(
    shop: Shop, stack: Stack, door: str, admin: Admin
) -> None:
    await admin("capacity", 7)
    await in_thread(stack.process("queue_service").restart)

    async def still_seven() -> None:
        assert "of 7 admitted" in await admin("show")
        assert (await shop.fan(door).enter()).status_code == 201

    await eventually(still_seven)


async def test_a_wrong_command_or_address_says_so() -> None:
    code, output = await run("show", address=NOBODY)
    message = f"No queue_service answers at {NOBODY}, or its Redis is unavailable."
    assert (code, output.strip()) == (2, message)
    code, output = await run("capacity", "-1", address=NOBODY)
    assert code == 2
    assert "-1" in output


async def test_the_command_needs_the_admin_token(stack: Stack) -> None:
    address = stack.address("queue_service")
    code, output = await run("pause", address=address, token="another token")
    assert (code, "QUEUE_ADMIN_TOKEN" in output) == (2, True)
