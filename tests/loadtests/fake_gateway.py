"""A gateway for k6 that gives right answers, until it is told to mix something up."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

CONCERTS, SCHEDULES, SCHEDULE_IDS, SEATS = 3, 5, 100, 4
#: What the scripts must be told of it.
ENVIRON = {
    "CONCERTS": str(CONCERTS),
    "SCHEDULES": str(SCHEDULES),
    "SCHEDULE_IDS": str(SCHEDULE_IDS),
    "SEATS": str(SEATS),
    "USERS": "1000",
}
Body = dict[str, Any]
#: Method and pattern of the path → how many requests get the right response, and what makes the
#: status and the body of later ones wrong.
Mistakes = dict[str, tuple[int, Callable[[int, Body], tuple[int, Body]]]]

_PROBLEM = {"type": "urn:test", "title": "Refused.", "detail": "Refused.", "requestId": "r"}
_ORDER = {
    "recovering": False, "pollAfterSeconds": 1, "estimatedWaitSeconds": 1, "admittedUntil": None,
}  # fmt: skip


class FakeGateway:
    """Its state: who has entered, which seats are held and by which reservation, who has left."""

    def __init__(self, mistakes: Mistakes, lets_in: bool, remembers: bool) -> None:
        self.mistakes = mistakes
        self.lets_in = lets_in
        self.remembers = remembers
        self.asked: Counter[str] = Counter()
        self.users: dict[str, int] = {}
        self.seats: dict[int, int] = {}
        self.left: set[str] = set()
        self.url = ""
        self._ids = itertools.count(1)

    async def respond(self, request: Request) -> Response:
        method, path = request.method, request.url.path
        token = request.headers.get("X-Access-Token", "")
        headers = {"Retry-After": "1"}
        if self.remembers and path == "/queues/order":
            headers["Age"] = "0"
        if path == "/queues/enqueue":
            headers["X-Access-Token"] = token = f"a.{next(self._ids)}.b"
            self.users[token] = (await request.json())["userId"]
        seat = (await request.json())["concertSeatId"] if path == "/concerts/reservation" else 0
        status, body = self._right(method, path, token, seat)
        for what, (times, mistaken) in self.mistakes.items():
            if re.fullmatch(what, f"{method} {path}"):
                self.asked[what] += 1
                if self.asked[what] > times:
                    status, body = mistaken(status, body)
        if status == 204:
            return Response(status_code=204)
        problem = _PROBLEM | {"status": status} if status >= 400 else {}
        return JSONResponse(problem | body, status, headers)

    def _right(self, method: str, path: str, token: str, seat: int) -> tuple[int, Body]:
        if method == "DELETE":
            self.left.add(token)
            return 204, {}
        if token not in self.users:
            return 401, {"code": "INVALID_TOKEN"}
        numbers = [int(number) for number in re.findall(r"\d+", path)]
        match re.sub(r"\d+", "1", path):
            case "/queues/enqueue":
                return 201, _ORDER | {"order": 0 if self.lets_in else len(self.users)}
            case "/queues/order":
                return 200, _ORDER | {"order": 0 if self.lets_in else 1}
            case "/concerts":
                return 200, {"concerts": [{"id": n + 1, "title": "T"} for n in range(CONCERTS)]}
            case "/concerts/1/schedules":
                return 200, {"schedules": schedules(*numbers)}
            case "/concerts/schedules/1/seats":
                return 200, {"seats": seats(*numbers)}
            case "/concerts/reservation" if seat in self.seats:
                return 409, {"code": "SEAT_HELD"}
            case "/concerts/reservation":
                self.seats[seat] = number = next(self._ids)
                until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=5)
                held = {"reservationId": number, "heldUntil": until.isoformat()}
                return 200, held | {"price": "1.00"}
            case "/concerts/reservations/1/pay":
                paid = {"paymentId": next(self._ids), "reservationId": numbers[0]}
                return 200, paid | {"status": "SUCCEEDED"}
        return 404, {"code": "NOT_FOUND"}


def schedules(concert: int, passed: int = 0) -> list[Body]:
    """Of a concert, without the first ones, so that the others begin today."""
    today = datetime.datetime.now(datetime.UTC).date()
    return [
        {
            "id": (concert - 1) * SCHEDULE_IDS + number + 1,
            "date": str(today + datetime.timedelta(days=number - passed)),
            "status": "AVAILABLE",
        }
        for number in range(passed, SCHEDULES)
    ]


def seats(schedule: int) -> list[Body]:
    first = (schedule - 1) * SEATS + 1
    return [
        {"id": first + n, "seatNum": f"A{n + 1}", "price": "1.00", "status": "AVAILABLE"}
        for n in range(SEATS)
    ]


@contextlib.contextmanager
def serving(
    mistakes: Mistakes, *, lets_in: bool = True, remembers: bool = False
) -> Iterator[FakeGateway]:
    """A fake that listens at `url`. `remembers`: it answers polls from its memory."""
    gateway = FakeGateway(mistakes, lets_in, remembers)
    route = Route("/{path:path}", gateway.respond, methods=["GET", "POST", "DELETE"])
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=[route]), log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        gateway.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield gateway
        finally:
            server.should_exit = True
            thread.join()
