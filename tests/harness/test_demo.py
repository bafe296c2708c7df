"""The demo in a shop that sells nothing."""

import httpx
import pytest
from rich.console import Console

from harness.errors import UserError
from harness.local.demo import Demo


def test_says_how_to_fill_a_shop_without_seats() -> None:
    def nothing_for_sale(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"concerts": []})

    transport = httpx.MockTransport(nothing_for_sale)
    with httpx.Client(base_url="http://shop", transport=transport) as client:
        demo = Demo(client, Console(quiet=True), 1)
        with pytest.raises(UserError, match=r"make stop and then make run, .* make up SEED=full"):
            demo._hold_a_seat()
