"""The demo in a shop that sells nothing, and at an address where no shop is."""

import httpx
import pytest
from rich.console import Console

from harness.client import Client, connect
from harness.demo import Demo, buy
from harness.errors import UserError


async def test_says_how_to_fill_a_shop_without_seats() -> None:
    def nothing_for_sale(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"concerts": []})

    async with connect("http://shop", httpx.MockTransport(nothing_for_sale)) as http:
        demo = Demo(Client(http), Console(quiet=True))
        with pytest.raises(UserError, match=r"make stop and then make run, .* make up SEED=full"):
            await demo._hold_a_seat()


@pytest.mark.parametrize(
    ("status", "code"), [(401, "IDENTITY_REQUIRED"), (403, "CHALLENGE_REQUIRED")]
)
async def test_says_that_it_has_no_login_and_solves_no_challenge(status: int, code: str) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        problem = {"title": "No.", "status": status, "code": code, "requestId": "1"}
        return httpx.Response(status, json=problem | {"type": "urn:x", "detail": "No."})

    async with connect("http://shop", httpx.MockTransport(refuse)) as http:
        demo = Demo(Client(http), Console(quiet=True))
        with pytest.raises(UserError) as refused:
            await demo.buy_one_ticket()
    assert code in str(refused.value)
    assert str(refused.value).endswith(
        "only with GATEWAY_IDENTITY=open and GATEWAY_CHALLENGE=none."
    )


async def test_says_how_to_start_a_shop_that_does_not_answer() -> None:
    with pytest.raises(UserError, match=r"Nothing answers at http://127\.0\.0\.1:9 .*make run"):
        await buy("http://127.0.0.1:9")
