"""A crowd in a waiting room: what each visitor sees, from joining to leaving."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass, field

import httpx

from harness.client import AnyResponse
from tests.e2e.shop import Fan, Shop, place_of

_BATCH = 25
# Statuses after which a visitor retries: a part of the shop is briefly unavailable.
_RETRIED = (503, 504)
_NEVER = float("inf")
# GATEWAY_ROOM_FRESH_SECONDS: a response may describe the room as it was so long before the request.
_FRESH_SECONDS = 0.3


@dataclass
class Visitor:
    """One visitor; `number` counts from 0 in the order of joining."""

    fan: Fan
    number: int
    # Each order that the gateway returned, and whether it was marked as recovering.
    orders: list[tuple[int, bool]] = field(default_factory=list)
    # By time.monotonic(): the earliest moments that the responses to wait may describe, and when
    # the response of order 0 came.
    told_to_wait: list[float] = field(default_factory=list)
    told_to_come_in: float = 0.0
    refused: int = 0
    requests: itertools.count[int] = field(default_factory=itertools.count)


class Crowd:
    """Visitors who join, wait, list the concerts, and leave. `inside` holds those who know that
    they are admitted and have not left.

    Each visitor uses the gateways in turn. Two polls of one visitor are at least `spacing` seconds
    apart, however short the advised pause is.
    """

    def __init__(self, shop: Shop, *gateways: str, spacing: float = 0.0) -> None:
        self._shop = shop
        self._gateways = gateways
        self._spacing = spacing
        self.visitors: list[Visitor] = []
        self.inside: set[int] = set()
        self.most_inside = 0
        self.through = 0

    async def join(self, count: int) -> None:
        """Lets visitors join in batches. Batches join one after another; within a batch the place
        number gives the order."""
        for _ in range(count // _BATCH):
            gateways = itertools.cycle(self._gateways)
            batch = [self._shop.fan(next(gateways)) for _ in range(_BATCH)]
            replies = await asyncio.gather(*(fan.enter() for fan in batch))
            pairs = sorted(
                zip(batch, replies, strict=True), key=lambda pair: place_of(pair[0].token)
            )
            for fan, reply in pairs:
                visitor = Visitor(fan, len(self.visitors))
                visitor.orders.append((reply.json()["order"], False))
                self.visitors.append(visitor)
        places = [place_of(visitor.fan.token) for visitor in self.visitors]
        assert places == sorted(places)

    async def go_through(self) -> None:
        """Returns when every visitor has been admitted and has left."""
        await asyncio.gather(*(self._visit(visitor) for visitor in self.visitors))

    async def _visit(self, visitor: Visitor) -> None:
        looked_around = False
        while not looked_around:
            await self._wait_for_the_turn(visitor)
            self.inside.add(visitor.number)
            self.most_inside = max(self.most_inside, len(self.inside))
            reply = await self._ask(visitor, "GET", "/concerts")
            self.inside.discard(visitor.number)
            # 403: the room has just lost the admission, so the fan waits again.
            looked_around = reply.status_code != 403
            assert reply.status_code in (200, 403), reply.text
        reply = await self._ask(visitor, "DELETE", "/queues/order")
        assert reply.status_code == 204, reply.text
        self.through += 1

    async def _wait_for_the_turn(self, visitor: Visitor) -> None:
        while True:
            asked = time.monotonic()
            reply = await self._ask(visitor, "GET", "/queues/order")
            assert reply.status_code == 200, (visitor.number, reply.text)
            body = reply.json()
            order = body["order"]
            visitor.orders.append((order, body["recovering"]))
            if order == 0:
                visitor.told_to_come_in = time.monotonic()
                return
            visitor.told_to_wait.append(asked - _FRESH_SECONDS)
            # Earlier than the response says: a slot stays empty while its fan sleeps.
            pause = min(body["pollAfterSeconds"], 0.03 * order)
            await asyncio.sleep(max(pause, self._spacing))

    async def _ask(self, visitor: Visitor, method: str, path: str) -> AnyResponse:
        while True:
            gateway = self._gateways[next(visitor.requests) % len(self._gateways)]
            visitor.fan.http.base_url = httpx.URL(self._shop.url(gateway))
            reply = await visitor.fan.request(method, path)
            if reply.status_code not in _RETRIED:
                return reply
            visitor.refused += 1
            await asyncio.sleep(0.2)

    def assert_nobody_was_overtaken(self, *, loss: tuple[float, float] = (_NEVER, _NEVER)) -> None:
        """Asserts that no response to wait came after a visitor who joined later was admitted.

        `loss` is the time in which Redis lost the room. A visitor who was admitted before it
        without knowing waits again, so responses before the loss are not compared with responses
        after it.
        """
        began, ended = loss
        earliest = earliest_since = _NEVER  # of those who joined later
        for visitor in reversed(self.visitors):
            waited = [at for at in visitor.told_to_wait if at < began]
            waited_since = [at for at in visitor.told_to_wait if at >= began]
            assert max(waited, default=0.0) < earliest, f"{visitor.number} was overtaken"
            assert max(waited_since, default=0.0) < earliest_since, (
                f"{visitor.number} was overtaken"
            )
            earliest = min(earliest, visitor.told_to_come_in)
            if visitor.told_to_come_in > ended:
                earliest_since = min(earliest_since, visitor.told_to_come_in)

    def assert_no_order_grew(self) -> None:
        """Asserts that no visitor's order grew, except for orders marked as recovering."""
        for visitor in self.visitors:
            firm = [order for order, recovering in visitor.orders if not recovering]
            assert firm == sorted(firm, reverse=True), visitor.number
            assert firm[-1:] == [0] or visitor.orders[-1] == (0, True)
