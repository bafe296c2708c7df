"""Waits for a condition of a test."""

import asyncio
from collections.abc import Callable

import httpx


async def until(condition: Callable[[], bool]) -> None:
    """Polls until `condition` holds, for at most 30 s."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def uncounted(response: httpx.Response) -> dict[str, object]:
    """Returns the body without `seatsLeft`, which is counted in the background: an answer has it or
    not, as it happens."""
    body: dict[str, object] = response.json()
    body.pop("seatsLeft", None)
    return body
