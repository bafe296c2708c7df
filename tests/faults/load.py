"""Fans who buy without pause during a fault, and the responses that they got."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType

import httpx

from harness.client import Response, T
from tests.e2e.shop import Fan, Shop

# After these statuses a fan waits for _PAUSE seconds and retries.
_ASK_AGAIN = (429, 500, 503, 504)
_PAUSE = 0.1
# How long a journey may take after the end of the load: a consumer group notices a member that was
# killed after ten seconds.
_LAST_JOURNEYS = 60.0


class Load:
    """`fans` concurrent fans who buy one ticket after another, each as a new user.

        async with Load(shop, seats, fans=8) as load:
            ...break something and repair it...
            await load.goes_on()

    After `Connection: close` or a broken connection a fan uses the next of the `gateways`, as a
    load balancer would.
    """

    def __init__(
        self, shop: Shop, seats: Sequence[int], *, fans: int, gateways: Sequence[str] = ("gateway",)
    ) -> None:
        self._shop = shop
        self._seats = iter(seats)
        self._fan_count = fans
        self._gateways = list(gateways)
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        #: The successes that fans got: reservation → seat, and reservation → payment.
        self.held: dict[int, int] = {}
        self.paid: dict[int, int] = {}
        #: Responses other than success by status and code, and broken connections by exception.
        self.refusals: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()
        self.without_retry_after: Counter[str] = Counter()
        self.journeys = 0

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._buy_on()) for _ in range(self._fan_count)]
        await self.goes_on()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping = True
        if kind is None:
            async with asyncio.timeout(_LAST_JOURNEYS):
                await asyncio.gather(*self._tasks)
        else:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def goes_on(self, journeys: int = 10, within: float = 60.0) -> None:
        """Waits until `journeys` more tickets are bought."""
        goal = self.journeys + journeys
        deadline = time.monotonic() + within
        while self.journeys < goal:
            for task in self._tasks:
                if task.done():
                    task.result()
            assert time.monotonic() < deadline, f"nothing was bought: {self.refusals} {self.broken}"
            await asyncio.sleep(0.02)

    def assert_no_success_was_lost(self) -> None:
        """Asserts that every success that a fan got is in the databases."""
        reservations = {
            reservation: (seat, status, payment)
            for reservation, seat, status, payment in self._shop.rows(
                "reservation", "SELECT id, seat_id, status, payment_id FROM reservation"
            )
        }
        for reservation, seat in self.held.items():
            assert reservation in reservations, f"hold {reservation} was lost"
            assert reservations[reservation][0] == seat
        payments = dict(
            self._shop.rows(
                "payment", "SELECT id, reservation_id FROM payment WHERE status = 'SUCCEEDED'"
            )
        )
        for reservation, payment in self.paid.items():
            assert payments.get(payment) == reservation, f"payment {payment} was lost"
            assert reservations[reservation][1:] == ("CONFIRMED", payment)

    # -------------------------------------------------------------------------------------

    async def _buy_on(self) -> None:
        while not self._stopping:
            await self._buy(next(self._seats))
            self.journeys += 1

    async def _buy(self, seat: int) -> None:
        fan = self._shop.fan(self._gateways[0])
        await self._until_admitted(fan)
        # With a key, so that a retry after a lost response returns the same hold.
        held = await self._ask_inside(fan, lambda: fan.reserve(seat, key=f"seat-{seat}"))
        reservation = held.body.reservation_id
        self.held[reservation] = seat
        paid = await self._ask_inside(fan, lambda: fan.pay_to_the_end(reservation))
        assert paid.body.status == "SUCCEEDED"
        self.paid[reservation] = paid.body.payment_id
        await fan.close()

    async def _until_admitted(self, fan: Fan) -> None:
        order = (await self._ask(fan, fan.enter)).body.order
        while order:
            await asyncio.sleep(_PAUSE)
            order = (await self._ask(fan, fan.order)).body.order

    async def _ask_inside(
        self, fan: Fan, send: Callable[[], Awaitable[Response[T]]]
    ) -> Response[T]:
        """Enters again if the token is refused, as by a room that lost its data."""
        while (response := await self._ask(fan, send)).status_code in (401, 403):
            self.refusals[f"{response.status_code} {response.code}"] += 1
            await self._until_admitted(fan)
        return response

    async def _ask(self, fan: Fan, send: Callable[[], Awaitable[Response[T]]]) -> Response[T]:
        while True:
            try:
                response = await send()
            except httpx.TransportError as error:
                self.broken[type(error).__name__] += 1
                self._use_next_gateway(fan)
                await asyncio.sleep(_PAUSE)
                continue
            if response.headers.get("connection") == "close":
                self._use_next_gateway(fan)
            in_progress = response.status_code == 409 and response.code in (
                "IN_PROGRESS",
                "PAYMENT_IN_PROGRESS",
                # The lock of a first try whose service died; it expires.
                "SEAT_HELD",
            )
            if response.status_code not in _ASK_AGAIN and not in_progress:
                return response
            what = f"{response.status_code} {response.code}"
            self.refusals[what] += 1
            if "retry-after" not in response.headers and not in_progress:
                self.without_retry_after[what] += 1
            await asyncio.sleep(_PAUSE)

    def _use_next_gateway(self, fan: Fan) -> None:
        """Moves the fan, and all new fans, to the next gateway."""
        if fan.http.base_url.netloc == httpx.URL(self._shop.url(self._gateways[0])).netloc:
            self._gateways.append(self._gateways.pop(0))
        fan.http.base_url = httpx.URL(self._shop.url(self._gateways[0]))
