"""`make demo`: buys one ticket through the public routes of the running system."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
from rich.console import Console

from harness.errors import UserError
from harness.local.ports import HOST, Ports

# How long a crowded waiting room or an undecided payment is waited for, in seconds.
_QUEUE_PATIENCE = 600.0
_PAYMENT_PATIENCE = 60.0
# And a shop that says "later" (429 and 503), which is safe to ask again.
_BUSY_PATIENCE = 30.0

# Held or sold under our hands this often: somebody else is buying everything.
_SEAT_TRIES = 20


class Demo:
    def __init__(self, client: httpx.Client, console: Console, user_id: int) -> None:
        self._client = client
        self._console = console
        self._user_id = user_id

    def buy_one_ticket(self) -> None:
        """Raises UserError with what the system answered where the journey ends early."""
        self._say(f"Buying one ticket as user {self._user_id} at {self._client.base_url}")
        entered = self._call(1, "POST", "/queues/enqueue", {"userId": self._user_id}, expect=201)
        self._client.headers["X-Access-Token"] = entered.headers["X-Access-Token"]
        self._say(f"   in the waiting room, order {entered.json()['order']}")
        self._wait_for_admission()
        reservation = self._hold_a_seat()
        self._pay(reservation)

    def _wait_for_admission(self) -> None:
        deadline = time.monotonic() + _QUEUE_PATIENCE
        while True:
            reply = self._call(2, "GET", "/queues/order", expect=200)
            order = reply.json()["order"]
            if order == 0:
                self._say("   admitted")
                return
            if time.monotonic() > deadline:
                raise UserError(f"still number {order} in line after {_QUEUE_PATIENCE:.0f} s.")
            self._say(f"   number {order} in line")
            time.sleep(min(float(reply.headers.get("Retry-After", 1)), 10))

    def _hold_a_seat(self) -> int:
        for tries, seat in enumerate(self._available_seats(), start=1):
            self._say(f"   taking seat {seat['seatNum']} (id {seat['id']}) at {seat['price']}")
            body = {"userId": self._user_id, "concertSeatId": seat["id"]}
            reply = self._call(6, "POST", "/concerts/reservation", body, expect=(200, 409))
            answer = reply.json()
            if reply.status_code == 200:
                self._say(
                    f"   reservation {answer['reservationId']}, held until {answer['heldUntil']}"
                )
                return int(answer["reservationId"])
            self._say(f"   somebody was quicker ({answer['code']}), trying another")
            if tries == _SEAT_TRIES:
                break
        raise UserError(
            "no seat could be had: try again, or, if the shop was started without any, fill it with"
            " make stop and then make run, or with make up SEED=full if it is in containers."
        )

    def _available_seats(self) -> Iterator[dict[str, Any]]:
        concerts = self._call(3, "GET", "/concerts", expect=200).json()["concerts"]
        self._say(
            f"   {len(concerts)} concerts, such as {concerts[0]['title']!r}"
            if concerts
            else "   none"
        )
        # Any will do; at random, so that many demos at once do not fight for one seat.
        for concert in random.sample(concerts, len(concerts)):
            path = f"/concerts/{concert['id']}/schedules"
            schedules = self._call(4, "GET", path, expect=200).json()["schedules"]
            open_ones = [item for item in schedules if item["status"] == "AVAILABLE"]
            self._say(f"   {concert['title']!r}: {len(open_ones)} dates with seats")
            for schedule in random.sample(open_ones, len(open_ones)):
                path = f"/concerts/schedules/{schedule['id']}/seats"
                seats = self._call(5, "GET", path, expect=200).json()["seats"]
                free = [seat for seat in seats if seat["status"] == "AVAILABLE"]
                self._say(f"   {schedule['date']}: {len(free)} of {len(seats)} seats are free")
                yield from random.sample(free, len(free))

    def _pay(self, reservation: int) -> None:
        deadline = time.monotonic() + _PAYMENT_PATIENCE
        path = f"/concerts/reservations/{reservation}/pay"
        while True:
            reply = self._call(7, "POST", path, {"userId": self._user_id}, expect=(200, 202))
            answer = reply.json()
            if reply.status_code == 200:
                self._say(f"   payment {answer['paymentId']}: {answer['status']}")
                self._say("Done: the ticket is bought.")
                return
            if time.monotonic() > deadline:
                raise UserError(f"the payment is still undecided after {_PAYMENT_PATIENCE:.0f} s.")
            self._say("   the payment provider has not answered yet, asking again")
            time.sleep(1)

    def _call(
        self,
        step: int,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        expect: int | tuple[int, ...],
    ) -> httpx.Response:
        deadline = time.monotonic() + _BUSY_PATIENCE
        while True:
            began = time.monotonic()
            reply = self._client.request(method, path, json=body)
            took = (time.monotonic() - began) * 1000
            self._say(f"{step}. {method} {path} → {reply.status_code} ({took:.0f} ms)")
            if reply.status_code not in (429, 503) or time.monotonic() > deadline:
                break
            self._say(f"   {_problem(reply)}; asking again")
            time.sleep(min(float(reply.headers.get("Retry-After", 1)), 10))
        if reply.status_code not in (expect if isinstance(expect, tuple) else (expect,)):
            raise UserError(f"{method} {path} answered {reply.status_code}: {_problem(reply)}")
        return reply

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _problem(reply: httpx.Response) -> str:
    """The code and the detail of a problem body, or the body as it is."""
    try:
        problem = reply.json()
        return f"{problem['code']}, {problem.get('detail') or problem.get('title')}"
    except (ValueError, KeyError, TypeError):
        return reply.text[:200]


def main() -> int:
    url = (
        os.environ.get("FRONTROW_URL") or f"http://{HOST}:{Ports.from_environ(os.environ).gateway}"
    )
    # Ids of real people in the shop's own database would not be this large.
    user_id = random.randint(10**9, 10**12)
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        try:
            Demo(client, Console(), user_id).buy_one_ticket()
        except UserError as error:
            print(f"frontrow: {error}", file=sys.stderr)
            return 2
        except httpx.TransportError as error:
            print(
                f"frontrow: Nothing answers at {url} ({type(error).__name__}): start the system"
                " with make run in another terminal and wait until it serves, or say with"
                " FRONTROW_URL where it does.",
                file=sys.stderr,
            )
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
