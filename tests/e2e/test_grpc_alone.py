"""Two adjacent seats bought over gRPC alone, by the example of the docs."""

import asyncio
import sys

from harness.files import REPOSITORY
from tests.e2e.shop import Shop, eventually, new_user_id


async def test_the_example_of_the_docs_buys_two_seats(shop: Shop) -> None:
    user_id = new_user_id()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "docs.examples.buy_over_grpc"),
        *("--user", str(user_id)),
        *(
            part
            for name in ("queue", "concert", "reservation", "payment")
            for part in (f"--{name}", shop.stack.address(f"{name}_service"))
        ),
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert shop.rows("payment", "SELECT status FROM payment WHERE user_id = %s", user_id) == [
        ("SUCCEEDED",)
    ]

    async def confirmed() -> None:
        assert shop.rows(
            "reservation", "SELECT status, seats FROM reservation WHERE user_id = %s", user_id
        ) == [("CONFIRMED", 2)]

    await eventually(confirmed)
