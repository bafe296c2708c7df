"""A crowd before a room: what each of them sees, from joining to leaving."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from harness.client import AnyResponse
from tests.e2e.shop import Fan, Shop, place_of

_BATCH = 25
# What a fan is told while a part of the shop is away for a moment.
_ASK_AGAIN = (503, 504)
_NEVER = float("inf")


@dataclass
class Visitor:
    """One of the crowd; `number` counts from 0 in the order of joining."""

    fan: Fan
    number: int
    # Each order told, and whether the room said that it recovers from a loss.
    orders: list[tuple[int, bool]] = field(default_factory=list)
    # By time.monotonic(): the questions that were answered with "wait", the answer "come in".
    told_to_wait: list[float] = field(default_factory=list)
    told_to_come_in: float = 0.0
    refused: int = 0


class Crowd:
    """Visitors who join, wait, look around for a moment, and leave. `inside` are those who know
    that they are admitted and have not asked to leave."""

    def __init__(self, shop: Shop, gateway: str) -> None:
        self._shop = shop
        self._gateway = gateway
        self.visitors: list[Visitor] = []
        self.inside: set[int] = set()
        self.most_inside = 0
        self.through = 0

    async def join(self, count: int) -> None:
        """In batches: who joined before whom is beyond doubt between batches, and told by the
        place number within one."""
        for _ in range(count // _BATCH):
            batch = [self._shop.fan(self._gateway) for _ in range(_BATCH)]
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
        """Returns when everybody has been inside and left."""
        await asyncio.gather(*(self._visit(visitor) for visitor in self.visitors))

    async def _visit(self, visitor: Visitor) -> None:
        looked_around = False
        while not looked_around:
            await self._wait_for_the_turn(visitor)
            self.inside.add(visitor.number)
            self.most_inside = max(self.most_inside, len(self.inside))
            reply = await self._ask(visitor, "GET", "/concerts")
            self.inside.discard(visitor.number)
            # Back in line, if the room has just lost that the fan was admitted.
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
            visitor.told_to_wait.append(asked)
            # Sooner than told, for a quick test: the slot of a fan who sleeps stays empty.
            await asyncio.sleep(min(body["pollAfterSeconds"], 0.03 * order))

    async def _ask(self, visitor: Visitor, method: str, path: str) -> AnyResponse:
        while True:
            reply = await visitor.fan.request(method, path)
            if reply.status_code not in _ASK_AGAIN:
                return reply
            visitor.refused += 1
            await asyncio.sleep(0.2)

    def assert_nobody_was_overtaken(self, *, loss: tuple[float, float] = (_NEVER, _NEVER)) -> None:
        """Nobody was told to wait after one who joined later knew of being admitted.

        `loss` is when Redis began to lose the room, and when it had. Who was admitted before it
        and had not asked yet waits again, though others of the same moment knew already; so what
        was known before a loss does not count after it.
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
        """But for estimates, which are marked as such."""
        for visitor in self.visitors:
            firm = [order for order, recovering in visitor.orders if not recovering]
            assert firm == sorted(firm, reverse=True), visitor.number
            assert firm[-1:] == [0] or visitor.orders[-1] == (0, True)
