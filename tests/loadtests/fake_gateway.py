"""A gateway for k6 that gives right answers, until it is told to mix something up."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

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
#: Method and what the path looks like → how many requests are answered rightly, and what becomes
#: of the status and the body of later ones.
Mistakes = dict[str, tuple[int, Callable[[int, Body], tuple[int, Body]]]]


_PROBLEM = {"type": "urn:test", "title": "Refused.", "detail": "Refused.", "requestId": "r"}
_ORDER = {"pollAfterSeconds": 1, "estimatedWaitSeconds": 1, "admittedUntil": None}


class FakeGateway:
    """Its state: who has entered, which seats are held and by which reservation."""

    def __init__(self, mistakes: Mistakes, *, lets_in: bool = True) -> None:
        self.mistakes = mistakes
        self.lets_in = lets_in
        self.asked: dict[str, int] = {}
        self.users: dict[str, int] = {}
        self.seats: dict[int, int] = {}
        self.left: set[str] = set()
        self.url = ""
        self._ids = itertools.count(1)
        self._lock = threading.Lock()

    def reply(self, method: str, path: str, token: str, body: Body) -> tuple[int, Body, str]:
        """Status, body, and the token if it is a new one."""
        with self._lock:
            status, answer, given = self._right(method, path, token, body)
            for what, (times, mistaken) in self.mistakes.items():
                if re.fullmatch(what, f"{method} {path}"):
                    self.asked[what] = self.asked.get(what, 0) + 1
                    if self.asked[what] > times:
                        status, answer = mistaken(status, answer)
            return status, answer, given

    def _right(self, method: str, path: str, token: str, body: Body) -> tuple[int, Body, str]:
        if path == "/queues/enqueue":
            given = f"a.{next(self._ids)}.b"
            self.users[given] = body["userId"]
            order = {"order": 0 if self.lets_in else len(self.users), "recovering": False}
            return 201, _ORDER | order, given
        if method == "DELETE":
            self.left.add(token)
            return 204, {}, ""
        if token not in self.users:
            return 401, {"code": "INVALID_TOKEN"}, ""
        if path == "/queues/order":
            order = {"order": 0 if self.lets_in else 1, "recovering": False}
            return 200, _ORDER | order, ""
        if path == "/concerts":
            return 200, {"concerts": [{"id": n + 1, "title": "T"} for n in range(CONCERTS)]}, ""
        if found := re.fullmatch(r"/concerts/(\d+)/schedules", path):
            return 200, {"schedules": schedules(int(found[1]))}, ""
        if found := re.fullmatch(r"/concerts/schedules/(\d+)/seats", path):
            return 200, {"seats": seats(int(found[1]))}, ""
        if path == "/concerts/reservation":
            seat = body["concertSeatId"]
            if seat in self.seats:
                return 409, {"code": "SEAT_HELD"}, ""
            self.seats[seat] = next(self._ids)
            held_until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=5)
            answer = {"reservationId": self.seats[seat], "price": "1.00"}
            return 200, answer | {"heldUntil": held_until.isoformat()}, ""
        if found := re.fullmatch(r"/concerts/reservations/(\d+)/pay", path):
            paid = {"paymentId": next(self._ids), "reservationId": int(found[1])}
            return 200, paid | {"status": "SUCCEEDED"}, ""
        return 404, {"code": "NOT_FOUND"}, ""


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
    return [
        {
            "id": (schedule - 1) * SEATS + number + 1,
            "seatNum": f"A{number + 1}",
            "price": "1.00",
            "status": "AVAILABLE",
        }
        for number in range(SEATS)
    ]


@contextlib.contextmanager
def serving(mistakes: Mistakes, *, lets_in: bool = True) -> Iterator[FakeGateway]:
    """One that listens at `url`."""
    gateway = FakeGateway(mistakes, lets_in=lets_in)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            token = self.headers.get("X-Access-Token") or ""
            status, answer, given = gateway.reply(self.command, self.path, token, body)
            if status >= 400:
                answer = {**_PROBLEM, "status": status, **answer}
            sent = b"" if status == 204 else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.send_header("Retry-After", "1")
            if given:
                self.send_header("X-Access-Token", given)
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128  # otherwise the system breaks off who comes when five wait

    with Server(("127.0.0.1", 0), Handler) as server:
        gateway.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield gateway
        finally:
            server.shutdown()
            thread.join()
