"""The running system, and the fans who buy there.

A Shop wraps a Stack with what tests need beside HTTP: their own seats, rows of the databases and
records of the topics. A Fan is one user with one connection.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from aiokafka import ConsumerRecord
from pydantic import BaseModel

from gateway.schemas import Payment, Problem
from harness.client import AnyResponse, Client, Response, TokenClaims, connect
from harness.facts import Stores, read_topic
from harness.local.stack import Stack
from protos.frontrow.payment.v1 import events_pb2

PROBLEM_JSON = "application/problem+json"
PRICE = "150000.00"

# No seeded ids, and no user ids that the sandbox provider treats specially.
_user_ids = itertools.count(5_000_001)
# Downwards: MariaDB gives ids above the greatest one to events that tests import.
_schedule_ids = itertools.count(1_000_001, -1)

Answer = TypeVar("Answer")


def new_user_id() -> int:
    """Returns a user id that no other test uses."""
    return next(_user_ids)


# The sandbox provider decides by the user id, divided by a million, what it does.
DECLINED, SLOW, FAILING, SILENT_APPROVED, SILENT_DECLINED = 99402, 99200, 99503, 99504, 99505
OTHER_AMOUNT, SILENT_OTHER_AMOUNT = 99409, 99509


def sandbox_user(kind: int) -> int:
    """Returns a user id of one of the kinds above that no other test uses."""
    return kind * 1_000_000 + new_user_id() % 1_000_000


async def eventually(
    check: Callable[[], Awaitable[Answer]], *, within: float = 10.0, every: float = 0.05
) -> Answer:
    """Repeats `check` until it raises no AssertionError. Raises the last one after `within` s."""
    deadline = time.monotonic() + within
    while True:
        try:
            return await check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(every)


def place_of(token: str) -> int:
    """Returns the place number of a token."""
    return TokenClaims.of(token).place


def assert_problem(response: AnyResponse, status: int, code: str) -> Problem:
    """Asserts that the response is a complete problem body that reveals nothing internal."""
    assert (response.status_code, response.json().get("code")) == (status, code), response.text
    assert response.headers["content-type"] == PROBLEM_JSON
    problem = response.problem
    assert problem.status == status
    assert problem.type
    assert problem.title
    assert problem.detail
    assert problem.request_id == response.headers["x-request-id"]
    for secret in ("Traceback", "Error(", "SELECT", "INSERT", "127.0.0.1", "pymysql", "grpc"):
        assert secret not in response.text
    return problem


@dataclass(frozen=True)
class Schedule:
    """A date whose seats only one test uses."""

    concert_id: int
    id: int
    seats: list[int]


class Fan(Client):
    """A client with a connection of its own, like a browser."""

    def __init__(self, url: str, user_id: int) -> None:
        super().__init__(connect(url), user_id)

    async def close(self) -> None:
        await self.http.aclose()

    def at(self, url: str) -> bool:
        """Returns whether the fan uses this gateway."""
        return self.http.base_url == httpx.URL(url)

    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: dict[str, str] | None = None,
    ) -> AnyResponse:
        """Sends any request, also one that matches no route."""
        return await self.send(method, path, BaseModel, body, headers)

    # Several requests, or one that must succeed.

    async def hold(self, seat_id: int) -> int:
        """Reserves the seat and returns the id of the reservation."""
        return (await self.reserve(seat_id)).body.reservation_id

    async def until_out(self, within: float = 20.0) -> None:
        """Waits until the admission has ended, as it does after a payment. Kafka carries the
        event, and its consumers may have to wait for the timeout of a session (10 s)."""

        async def out() -> None:
            assert_problem(await self.concerts(), 401, "TOKEN_EXPIRED")

        await eventually(out, within=within)

    async def seat_status(self, schedule_id: int, seat_id: int) -> str:
        """Returns the status of one seat on the seat map, which is at most a second old."""
        seats = (await self.seats(schedule_id)).body.seats
        (status,) = [seat.status for seat in seats if seat.id == seat_id]
        return status

    async def pay_to_the_end(
        self, reservation_id: int, *, within: float = 20.0
    ) -> Response[Payment]:
        """Pays, retries while the response is 202, and returns the last response."""
        deadline = time.monotonic() + within
        while True:
            response = await self.pay(reservation_id)
            if response.status_code != 202 or time.monotonic() > deadline:
                return response
            await asyncio.sleep(0.1)


class Shop:
    """A running Stack; `close()` at the end of each test."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._fans: list[Fan] = []

    async def close(self) -> None:
        await asyncio.gather(*(fan.close() for fan in self._fans))

    def url(self, gateway: str = "gateway") -> str:
        return f"http://{self.stack.address(gateway)}"

    def fan(self, gateway: str = "gateway", user_id: int | None = None) -> Fan:
        """Makes a fan of one of the gateways, who has not entered yet."""
        fan = Fan(self.url(gateway), new_user_id() if user_id is None else user_id)
        self._fans.append(fan)
        return fan

    async def admitted(self, gateway: str = "gateway", user_id: int | None = None) -> Fan:
        """Makes a fan who is admitted; the room must have a free slot."""
        fan = self.fan(gateway, user_id)
        assert (await fan.enter()).body.order == 0
        return fan

    async def crowd(self, count: int, gateway: str = "gateway") -> list[Fan]:
        """Makes that many fans who are admitted."""
        return list(await asyncio.gather(*(self.admitted(gateway) for _ in range(count))))

    async def empty(self, gateway: str) -> None:
        """Lets every fan of this gateway leave the queue."""
        fans = [fan for fan in self._fans if fan.token and fan.at(self.url(gateway))]
        await asyncio.gather(*(fan.leave() for fan in fans))

    async def ready(self) -> None:
        """Waits until the gateway reports every service as ready."""

        async def all_ready() -> None:
            response = await self.fan().ready()
            assert response.status_code == 200, response.text

        await eventually(all_ready, within=30)

    @property
    def stores(self) -> Stores:
        stack = self.stack
        return Stores(stack.mariadb.administrator, stack.kafka_bootstrap, stack.redis_url)

    def new_schedule(self, seats: int = 5, *, price: str = PRICE, room: str = "main") -> Schedule:
        """Inserts a concert with one date, tomorrow, and `seats` seats, behind a waiting room. Seat
        ids start at 10,000 times the schedule's id plus 1."""
        schedule_id = next(_schedule_ids)
        ids = [schedule_id * 10_000 + number for number in range(1, seats + 1)]
        with self.stack.mariadb.administrator("concert") as cursor:
            cursor.execute(
                "INSERT INTO concert (id, title, room) VALUES (%s, %s, %s)",
                (schedule_id, f"Test {schedule_id}", room),
            )
            cursor.execute(
                """INSERT INTO schedule (id, concert_id, date, seat_count)
                VALUES (%s, %s, UTC_DATE() + INTERVAL 1 DAY, %s)""",
                (schedule_id, schedule_id, seats),
            )
            cursor.executemany(
                """INSERT INTO seat (id, schedule_id, position, seat_num, price)
                VALUES (%s, %s, %s, %s, %s)""",
                [
                    (seat_id, schedule_id, number, f"T{number}", price)
                    for number, seat_id in enumerate(ids, start=1)
                ],
            )
        return Schedule(schedule_id, schedule_id, ids)

    def rows(self, schema: str, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Returns the rows of a query of one schema, run as the administrator."""
        with self.stack.mariadb.administrator(schema) as cursor:
            cursor.execute(sql, values or None)
            return list(cursor.fetchall())

    def number(self, schema: str, sql: str, *values: object) -> int:
        """Returns the single number that a query selects."""
        ((number,),) = self.rows(schema, sql, *values)
        return int(number)

    async def records(self, topic: str) -> list[ConsumerRecord[bytes, bytes]]:
        """Returns all records of the topic; within a partition in order."""
        return await read_topic(self.stack.kafka_bootstrap, topic)

    async def payment_events(
        self, reservation_ids: Iterable[int]
    ) -> dict[int, list[events_pb2.PaymentEvent]]:
        """Returns the events of these reservations on payment.events, in order."""
        events: dict[int, list[events_pb2.PaymentEvent]] = {id_: [] for id_ in reservation_ids}
        for record in await self.records("payment.events"):
            if record.key and record.key.isdigit() and int(record.key) in events:
                event = events_pb2.PaymentEvent.FromString(record.value)
                assert event.reservation_id == int(record.key)
                assert dict(record.headers)["event-id"].decode() == event.event_id
                events[event.reservation_id].append(event)
        return events
