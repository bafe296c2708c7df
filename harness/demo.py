"""`make demo`: buys one ticket through the public routes of the running system."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial

import httpx
from rich.console import Console

from gateway.schemas import Seat
from harness import stopping
from harness.client import Client, Response, T, connect
from harness.errors import UserError
from harness.local.ports import Ports

_ADMISSION_SECONDS = 600.0
_PAYMENT_SECONDS = 60.0
# How long a request that is refused with 429 or 503 is repeated: both are safe to repeat.
_BUSY_SECONDS = 30.0
# After this many seats were taken by others, somebody is buying everything.
_SEATS_TRIED = 20


class Demo:
    """Buys one ticket and says each step on the console."""

    def __init__(self, client: Client, console: Console) -> None:
        self._client = client
        self._console = console

    async def buy_one_ticket(self) -> None:
        """Raises `UserError` with the gateway's answer if no ticket can be bought, and
        `httpx.TransportError` if the gateway does not answer."""
        client = self._client
        self._say(f"Buying one ticket as user {client.user_id} at {client.http.base_url}")
        entered = await self._call(1, client.enter)
        if entered.status_code in (401, 403):
            raise UserError(
                f"POST /queues/enqueue answered {entered.summary}\nmake demo works only with"
                " GATEWAY_IDENTITY=open and GATEWAY_CHALLENGE=none."
            )
        self._say(f"   in the waiting room, order {entered.body.order}")
        await self._wait_for_admission()
        await self._pay(await self._hold_a_seat())

    async def _wait_for_admission(self) -> None:
        deadline = time.monotonic() + _ADMISSION_SECONDS
        while order := (response := await self._call(2, self._client.order)).body.order:
            if time.monotonic() > deadline:
                raise UserError(f"still number {order} in line after {_ADMISSION_SECONDS:.0f} s.")
            self._say(f"   number {order} in line")
            await _wait_before_retry(response)
        self._say("   admitted")

    async def _hold_a_seat(self) -> int:
        """Returns the id of the reservation."""
        tries = 0
        async for seat in self._available_seats():
            self._say(f"   taking seat {seat.seat_num} (id {seat.id}) at {seat.price}")
            response = await self._call(6, partial(self._client.reserve, seat.id))
            if response.status_code != 409:
                hold = response.body
                seats = ", ".join(seat.seat_num for seat in hold.seats)
                self._say(
                    f"   reservation {hold.reservation_id} of seat {seats}, held until"
                    f" {hold.held_until}"
                )
                return hold.reservation_id
            self._say(f"   somebody was quicker ({response.code}), trying another")
            tries += 1
            if tries == _SEATS_TRIED:
                break
        raise UserError(
            "no seat is available: try again, or, if the shop was started without any, fill it with"
            " make stop and then make run, or with make up SEED=full if it is in containers."
        )

    async def _available_seats(self) -> AsyncIterator[Seat]:
        client = self._client
        concerts = (await self._call(3, client.concerts)).body.concerts
        titles = f", such as {concerts[0].title!r}" if concerts else ""
        self._say(f"   {len(concerts)} concerts{titles}")
        # In random order, so that many demos at once do not compete for one seat.
        for concert in random.sample(concerts, len(concerts)):
            dates = (await self._call(4, partial(client.schedules, concert.id))).body
            available = [date for date in dates.schedules if date.status == "AVAILABLE"]
            self._say(f"   {concert.title!r}: {len(available)} dates with seats")
            for date in random.sample(available, len(available)):
                seats = (await self._call(5, partial(client.seats, date.id))).body.seats
                free = [seat for seat in seats if seat.status == "AVAILABLE"]
                self._say(f"   {date.date}: {len(free)} of {len(seats)} seats are free")
                for seat in random.sample(free, len(free)):
                    yield seat

    async def _pay(self, reservation_id: int) -> None:
        deadline = time.monotonic() + _PAYMENT_SECONDS
        while True:
            payment = (await self._call(7, partial(self._client.pay, reservation_id))).body
            if payment.status == "SUCCEEDED":
                self._say(f"   payment {payment.payment_id}: {payment.status}")
                self._say("Done: the ticket is bought.")
                return
            if time.monotonic() > deadline:
                raise UserError(f"the payment is still pending after {_PAYMENT_SECONDS:.0f} s.")
            self._say("   the payment provider has not answered yet, asking again")
            await asyncio.sleep(1)

    async def _call(self, step: int, send: Callable[[], Awaitable[Response[T]]]) -> Response[T]:
        """Sends a request, and repeats it while the shop is busy."""
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            began = time.monotonic()
            response = await send()
            took = (time.monotonic() - began) * 1000
            request = response.http.request
            self._say(
                f"{step}. {request.method} {request.url.path} → {response.status_code}"
                f" ({took:.0f} ms)"
            )
            if response.status_code not in (429, 503) or time.monotonic() > deadline:
                return response
            self._say(f"   {response.summary}; asking again")
            await _wait_before_retry(response)

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


async def _wait_before_retry(response: Response[T]) -> None:
    await asyncio.sleep(min(response.retry_after or 1, 10))


async def buy(url: str) -> None:
    """Buys one ticket at the gateway. Raises `UserError`."""
    # Far above the ids of the seeded data.
    user_id = random.randint(10**9, 10**12)
    async with connect(url) as http:
        try:
            await Demo(Client(http, user_id), Console()).buy_one_ticket()
        except httpx.TransportError as error:
            raise UserError(
                f"Nothing answers at {url} ({type(error).__name__}): start the system with make run"
                " in another terminal and wait until it serves, or set FRONTROW_URL to where it"
                " serves."
            ) from error


def run(environ: Mapping[str, str]) -> None:
    """Buys one ticket at FRONTROW_URL, or at the gateway of `make run`. Raises UserError."""
    usual = f"http://{Ports.from_environ(environ).address('gateway')}"
    stopping.run_async(buy(environ.get("FRONTROW_URL") or usual))
