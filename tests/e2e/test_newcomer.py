"""What somebody types who has just cloned: `make demo`, and the purchase that `make run` prints."""

import asyncio
import json
import os
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

from harness.local.supervisor import journey
from tests.e2e.shop import Fan, Shop, eventually


async def output_of(*command: str, typed: str = "", **env: str) -> str:
    """What a program says, on either channel; it must end by itself with status 0."""
    program = await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, stderr=STDOUT, env={**os.environ, **env}
    )
    try:
        said, _ = await asyncio.wait_for(program.communicate(typed.encode()), timeout=60)
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    assert program.returncode == 0, said.decode()
    return said.decode()


async def assert_bought(fan: Fan, reservation: int) -> None:
    """The buyer, who enters anew, sees the ticket as bought."""
    assert (await fan.enter()).status_code == 201

    async def confirmed() -> None:
        reply = await fan.reservation(reservation)
        assert reply.json().get("status") == "CONFIRMED", reply.text

    await eventually(confirmed)


async def test_the_printed_journey_buys_a_ticket(shop: Shop) -> None:
    text = journey(shop.url())
    commands = "".join(line for line in text.splitlines(keepends=True) if line.startswith("  "))
    said = await output_of(
        "bash",
        typed=commands + "\necho user: $USER_ID",
        # As on a machine whose package managers need a proxy.
        http_proxy="http://127.0.0.1:1",
        no_proxy="",
    )
    # The commands print the replies to: enqueue, order, concerts, reservation, pay.
    entered, order, concerts, held, paid = (
        json.loads(line) for line in said.splitlines() if line.startswith("{")
    )
    assert entered["order"] == 0
    assert order["order"] == 0
    assert len(concerts["concerts"]) >= 2
    assert paid["status"] == "SUCCEEDED"
    assert paid["reservationId"] == held["reservationId"]
    user = re.search(r"^user: (\d+)$", said, re.MULTILINE)
    assert user, said
    await assert_bought(shop.fan(user_id=int(user[1])), held["reservationId"])


async def test_the_demo_buys_a_ticket(shop: Shop, repository: Path) -> None:
    said = await output_of(
        "env",
        "-C",
        str(repository),
        sys.executable,
        "-m",
        "harness.cli",
        "demo",
        FRONTROW_URL=shop.url(),
    )
    for step in range(1, 8):
        assert re.search(rf"^{step}\. (GET|POST) /\S+ → 20\d ", said, re.MULTILINE), said
    assert re.search(r"payment \d+: SUCCEEDED\nDone: the ticket is bought\.\n$", said), said
    user = re.search(r"as user (\d+) ", said)
    reservation = re.search(r"reservation (\d+) of seat \w+, held until", said)
    assert user, said
    assert reservation, said
    await assert_bought(shop.fan(user_id=int(user[1])), int(reservation[1]))
