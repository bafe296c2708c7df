"""What somebody who invents user ids at one address can do, before and after limits are set."""

import asyncio
import itertools
from collections import Counter

import httpx
import pytest

from harness.local.stack import Stack
from tests.e2e.conftest import INVENTED, NOBODY

IDS = 1_000
AT_ONCE = 20
_first_ids = itertools.count(8_000_001, IDS)


async def statuses(*urls: str) -> Counter[int]:
    """Enters with 1,000 ids from one address, through the gateways in turn."""
    users = iter(range(first := next(_first_ids), first + IDS))
    found: Counter[int] = Counter()

    async def flood(client: httpx.AsyncClient, url: str) -> None:
        for user in users:
            response = await client.post(f"{url}/queues/enqueue", json={"userId": user})
            found[response.status_code] += 1

    async with httpx.AsyncClient(timeout=30) as client:
        await asyncio.gather(*(flood(client, urls[n % len(urls)]) for n in range(AT_ONCE)))
    return found


@pytest.mark.long
async def test_a_thousand_invented_ids(stack: Stack) -> None:
    limited = stack.add_replica(
        "queue_service",
        {
            "QUEUE_ENTRIES_PER_SOURCE": "30",
            "QUEUE_ENTRIES_PER_SOURCE_WINDOW_SECONDS": "86400",
            "QUEUE_KAFKA_BOOTSTRAP": NOBODY,
        },
    )
    room = {"GATEWAY_ROOM": INVENTED}
    behind = room | {"GATEWAY_QUEUE_ADDR": limited.address}
    gateways = [
        stack.add_replica("gateway", settings)
        for settings in (
            behind,
            behind,
            room | {"GATEWAY_CHALLENGE": "altcha", "GATEWAY_CHALLENGE_ALTCHA_KEY": "k" * 32},
        )
    ]
    replicas = [limited, *gateways]
    await asyncio.to_thread(stack.start_services, [replica.name for replica in replicas])
    one, two, challenging = (f"http://{gateway.address}" for gateway in gateways)

    assert await statuses(stack.gateway_url) == {201: IDS}
    # Two gateways allow no more than one.
    assert await statuses(one, two) == {201: 30, 429: IDS - 30}
    assert await statuses(challenging) == {403: IDS}
    for replica in replicas:
        await asyncio.to_thread(replica.stop)
        stack.programs.remove(replica)
