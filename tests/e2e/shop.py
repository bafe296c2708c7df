"""The running system as a test sees it, and the fans who buy there.

A Shop is a Stack with what tests need beside HTTP: seats of their own, rows of the databases,
records of the topics. A Fan is one person with one connection.
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
from harness.invariants import Stores, read_topic
from harness.local.stack import Stack
from protos.frontrow.payment.v1 import events_pb2

PROBLEM_JSON = "application/problem+json"
PRICE = "150000.00"

# Far from the seeded ids, and from the user ids that mean something to the sandbox provider.
_user_ids = itertools.count(5_000_001)
_schedule_ids = itertools.count(1_000_001)

Answer = TypeVar("Answer")


def new_user_id() -> int:
    """A user id that no other test uses."""
    return next(_user_ids)


# What the sandbox provider does to a user is decided by the millions of the user id.
DECLINED, SLOW, FAILING, SILENT_APPROVED, SILENT_DECLINED = 99402, 99200, 99503, 99504, 99505


def sandbox_user(kind: int) -> int:
    """A user id that no other test uses, of one of the kinds above."""
    return kind * 1_000_000 + new_user_id() % 1_000_000


async def eventually(
    check: Callable[[], Awaitable[Answer]], *, within: float = 10.0, every: float = 0.05
) -> Answer:
    """Repeats `check` until it raises no AssertionError; after `within` seconds that error."""
    deadline = time.monotonic() + within
    while True:
        try:
            return await check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(every)


def place_of(token: str) -> int:
    """The place number that a token states."""
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
    """A date with seats that belong to one test alone."""

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
        """Whether this gateway is the fan's."""
        return self.http.base_url == httpx.URL(url)

    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: dict[str, str] | None = None,
    ) -> AnyResponse:
        """Sends any request, also one that no route takes."""
        return await self.send(method, path, BaseModel, body, headers)

    # Several requests, or one that must succeed.

    async def hold(self, seat_id: int) -> int:
        """Reserves the seat and returns the id of the reservation."""
        return (await self.reserve(seat_id)).body.reservation_id

    async def until_out(self, within: float = 20.0) -> None:
        """Waits until the admission has ended, as it does after a payment; it comes through
        Kafka, whose consumers may first have to wait for the time-out of a session (10 s)."""

        async def out() -> None:
            assert_problem(await self.concerts(), 401, "TOKEN_EXPIRED")

        await eventually(out, within=within)

    async def seat_status(self, schedule_id: int, seat_id: int) -> str:
        """What the seat map says of one seat; at most a second old."""
        seats = (await self.seats(schedule_id)).body.seats
        (status,) = [seat.status for seat in seats if seat.id == seat_id]
        return status

    async def pay_to_the_end(
        self, reservation_id: int, *, within: float = 20.0
    ) -> Response[Payment]:
        """Pays, and asks again while the outcome is not known: the first other reply than 202."""
        deadline = time.monotonic() + within
        while True:
            reply = await self.pay(reservation_id)
            if reply.status_code != 202 or time.monotonic() > deadline:
                return reply
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
        """Somebody who has not entered yet, at one of the gateways."""
        fan = Fan(self.url(gateway), new_user_id() if user_id is None else user_id)
        self._fans.append(fan)
        return fan

    async def admitted(self, gateway: str = "gateway", user_id: int | None = None) -> Fan:
        """Somebody who may shop; the room must have a free slot."""
        fan = self.fan(gateway, user_id)
        assert (await fan.enter()).body.order == 0
        return fan

    async def crowd(self, count: int, gateway: str = "gateway") -> list[Fan]:
        """That many who may shop."""
        return list(await asyncio.gather(*(self.admitted(gateway) for _ in range(count))))

    async def empty(self, gateway: str) -> None:
        """Everybody who entered there leaves the queue."""
        fans = [fan for fan in self._fans if fan.token and fan.at(self.url(gateway))]
        await asyncio.gather(*(fan.leave() for fan in fans))

    async def ready(self) -> None:
        """Waits until the gateway finds every service ready, after some were started anew."""

        async def all_ready() -> None:
            response = await self.fan().ready()
            assert response.status_code == 200, response.text

        await eventually(all_ready, within=30)

    @property
    def stores(self) -> Stores:
        stack = self.stack
        return Stores(stack.mariadb.administrator, stack.kafka_bootstrap, stack.redis_url)

    def new_schedule(self, seats: int = 5, *, price: str = PRICE) -> Schedule:
        """A concert with one date, tomorrow, and so many seats; seat ids are 10,000 times
        the schedule's id and on."""
        schedule_id = next(_schedule_ids)
        ids = [schedule_id * 10_000 + number for number in range(1, seats + 1)]
        with self.stack.mariadb.administrator("concert") as cursor:
            cursor.execute(
                "INSERT INTO concert (id, title) VALUES (%s, %s)",
                (schedule_id, f"Test {schedule_id}"),
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
        """What a query of one schema gives, seen with all rights."""
        with self.stack.mariadb.administrator(schema) as cursor:
            cursor.execute(sql, values or None)
            return list(cursor.fetchall())

    def number(self, schema: str, sql: str, *values: object) -> int:
        """The one number that a query gives."""
        ((number,),) = self.rows(schema, sql, *values)
        return int(number)

    async def records(self, topic: str) -> list[ConsumerRecord[bytes, bytes]]:
        """Everything on the topic now; within a partition in order."""
        return await read_topic(self.stack.kafka_bootstrap, topic)

    async def payment_events(
        self, reservation_ids: Iterable[int]
    ) -> dict[int, list[events_pb2.PaymentEvent]]:
        """The events of these reservations on payment.events, in order."""
        events: dict[int, list[events_pb2.PaymentEvent]] = {id_: [] for id_ in reservation_ids}
        for record in await self.records("payment.events"):
            if record.key and record.key.isdigit() and int(record.key) in events:
                event = events_pb2.PaymentEvent.FromString(record.value)
                assert event.reservation_id == int(record.key)
                assert dict(record.headers)["event-id"].decode() == event.event_id
                events[event.reservation_id].append(event)
        return events
