"""`make demo`: buys one ticket through the public routes of the running system."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial

import httpx
from rich.console import Console

from gateway.schemas import Hold, Seat
from harness import stopping
from harness.client import Client, Response, T, connect
from harness.errors import UserError
from harness.local.ports import Ports

_ADMISSION_SECONDS = 600.0
_PAYMENT_SECONDS = 60.0
# How long a gateway may not know of a concert that was just published.
_PUBLISHED_SECONDS = 10.0
_TICKETS = 2
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
        await self._enter()
        await self._wait_for_admission()
        await self._pay(await self._hold_a_seat())

    async def buy_from_event(self, concert_id: int) -> None:
        """Buys the two best places of the first date of this concert that has some. Raises as
        `buy_one_ticket` does."""
        client = self._client
        self._say(f"Buying two tickets as user {client.user_id} at {client.http.base_url}")
        await self._enter(concert_id)
        await self._wait_for_admission()
        dates = (await self._call(4, partial(client.schedules, concert_id))).body.schedules
        for date in dates:
            best = partial(client.reserve_best, date.id, _TICKETS, allow_split=True)
            response = await self._call(6, best)
            if response.status_code != 409:
                self._say_held(response.body)
                await self._pay(response.body.reservation_id)
                return
            self._say(f"   {date.date}: {response.summary}")
        raise UserError("no date has two places that are available.")

    async def _enter(self, concert_id: int | None = None) -> None:
        deadline = time.monotonic() + _PUBLISHED_SECONDS
        entered = await self._call(1, partial(self._client.enter, concert_id))
        # A gateway learns of a concert that was just published within a second.
        while entered.code == "CONCERT_NOT_FOUND" and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
            entered = await self._call(1, partial(self._client.enter, concert_id))
        if entered.status_code in (401, 403):
            raise UserError(
                f"POST /queues/enqueue answered {entered.summary}\nmake demo works only with"
                " GATEWAY_IDENTITY=open and GATEWAY_CHALLENGE=none."
            )
        self._say(f"   in the waiting room, order {entered.body.order}")

    async def _wait_for_admission(self) -> None:
        deadline = time.monotonic() + _ADMISSION_SECONDS
        while order := (response := await self._call(2, self._client.order)).body.order:
            if time.monotonic() > deadline:
                raise UserError(f"still number {order} in line after {_ADMISSION_SECONDS:.0f} s.")
            opens_at = response.body.opens_at
            if response.body.phase == "GATHERING" and opens_at is not None:
                self._say(f"   {order} people gather; the room opens at {opens_at}")
            else:
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
                self._say_held(response.body)
                return response.body.reservation_id
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

    def _say_held(self, hold: Hold) -> None:
        seats = ", ".join(seat.seat_num for seat in hold.seats)
        self._say(
            f"   reservation {hold.reservation_id} of seat {seats}, held until {hold.held_until}"
        )

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


async def buy(url: str, concert_id: int | None = None) -> None:
    """Buys one ticket at the gateway, or two of this concert. Raises `UserError`."""
    # Far above the ids of the seeded data.
    user_id = random.randint(10**9, 10**12)
    async with connect(url) as http:
        try:
            demo = Demo(Client(http, user_id), Console())
            if concert_id is None:
                await demo.buy_one_ticket()
            else:
                await demo.buy_from_event(concert_id)
        except httpx.TransportError as error:
            raise UserError(
                f"Nothing answers at {url} ({type(error).__name__}): start the system with make run"
                " in another terminal and wait until it serves, or set FRONTROW_URL to where it"
                " serves."
            ) from error


def run(environ: Mapping[str, str]) -> None:
    """Buys one ticket at FRONTROW_URL, or at the gateway of `make run`. Raises UserError."""
    stopping.run_async(buy(url_of(environ)))


def url_of(environ: Mapping[str, str]) -> str:
    """Returns the address of the public routes."""
    usual = f"http://{Ports.from_environ(environ).address('gateway')}"
    return environ.get("FRONTROW_URL") or usual
