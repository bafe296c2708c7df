"""The running system as a test sees it, and the fans who buy there.

A Shop is a Stack with what tests need beside HTTP: seats of their own, rows of the databases,
records of the topics. A Fan is one person with one connection.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition

from harness.local.stack import Stack
from protos.frontrow.payment.v1 import events_pb2

PROBLEM_JSON = "application/problem+json"
PRICE = "150000.00"

# Far from the seeded ids, and from the user ids that mean something to the sandbox provider.
_user_ids = itertools.count(5_000_001)
_schedule_ids = itertools.count(1_000_001)

# Making one takes 20 ms, and no request here is encrypted.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

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
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return int(claims["place"])


def assert_problem(reply: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """That the reply is the whole of a problem body, and nothing that should stay inside."""
    assert (reply.status_code, reply.json().get("code")) == (status, code), reply.text
    assert reply.headers["content-type"] == PROBLEM_JSON
    body: dict[str, Any] = reply.json()
    assert body["status"] == status
    for member in ("type", "title", "detail"):
        assert isinstance(body[member], str), member
        assert body[member], member
    assert body["requestId"] == reply.headers["x-request-id"]
    for secret in ("Traceback", "Error(", "SELECT", "INSERT", "127.0.0.1", "pymysql", "grpc"):
        assert secret not in reply.text
    return body


@dataclass(frozen=True)
class Schedule:
    """A date with seats that belong to one test alone."""

    concert_id: int
    id: int
    seats: list[int]


class Fan:
    """One user with one connection of their own, like a browser. Each method is one request."""

    def __init__(self, url: str, user_id: int) -> None:
        self.user_id = user_id
        self.token = ""
        self.http = httpx.AsyncClient(base_url=url, timeout=30, trust_env=False, verify=_NO_TLS)

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
    ) -> httpx.Response:
        token = {"X-Access-Token": self.token} if self.token else {}
        return await self.http.request(
            method,
            path,
            headers=token | (headers or {}),
            **({"json": body} if body is not None else {}),  # type: ignore[arg-type]
        )

    async def enter(self) -> httpx.Response:
        reply = await self.request("POST", "/queues/enqueue", {"userId": self.user_id})
        if reply.status_code == 201:
            self.token = reply.headers["X-Access-Token"]
        return reply

    async def order(self) -> httpx.Response:
        return await self.request("GET", "/queues/order")

    async def leave(self) -> httpx.Response:
        return await self.request("DELETE", "/queues/order")

    async def concerts(self, **query: str | int) -> httpx.Response:
        return await self.request("GET", f"/concerts?{httpx.QueryParams(query)}")

    async def schedules(self, concert_id: int | str) -> httpx.Response:
        return await self.request("GET", f"/concerts/{concert_id}/schedules")

    async def seats(self, schedule_id: int | str) -> httpx.Response:
        return await self.request("GET", f"/concerts/schedules/{schedule_id}/seats")

    async def reserve(self, seat_id: int, *, key: str = "") -> httpx.Response:
        return await self.request(
            "POST",
            "/concerts/reservation",
            {"userId": self.user_id, "concertSeatId": seat_id},
            headers={"Idempotency-Key": key} if key else None,
        )

    async def pay(self, reservation_id: int | str, *, key: str = "") -> httpx.Response:
        return await self.request(
            "POST",
            f"/concerts/reservations/{reservation_id}/pay",
            {"userId": self.user_id},
            headers={"Idempotency-Key": key} if key else None,
        )

    async def reservation(self, reservation_id: int | str) -> httpx.Response:
        return await self.request("GET", f"/concerts/reservations/{reservation_id}")

    async def cancel(self, reservation_id: int | str) -> httpx.Response:
        return await self.request("DELETE", f"/concerts/reservations/{reservation_id}")

    # Several requests, or one that must succeed.

    async def hold(self, seat_id: int) -> int:
        """Reserves the seat; the id of the reservation."""
        reply = await self.reserve(seat_id)
        assert reply.status_code == 200, reply.text
        return int(reply.json()["reservationId"])

    async def until_out(self, within: float = 20.0) -> None:
        """Waits until the admission has ended, as it does after a payment; it comes through
        Kafka, whose consumers may first have to wait for the time-out of a session (10 s)."""

        async def out() -> None:
            assert_problem(await self.concerts(), 401, "TOKEN_EXPIRED")

        await eventually(out, within=within)

    async def seat_status(self, schedule_id: int, seat_id: int) -> str:
        """What the seat map says of one seat; at most a second old."""
        reply = await self.seats(schedule_id)
        assert reply.status_code == 200, reply.text
        (status,) = [seat["status"] for seat in reply.json()["seats"] if seat["id"] == seat_id]
        return str(status)

    async def pay_to_the_end(self, reservation_id: int, *, within: float = 20.0) -> httpx.Response:
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
        reply = await fan.enter()
        assert reply.status_code == 201, reply.text
        assert reply.json()["order"] == 0
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
            reply = await self.fan().request("GET", "/health/ready")
            assert reply.status_code == 200, reply.text

        await eventually(all_ready, within=30)

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

    async def records(self, topic: str) -> list[Any]:
        """Everything on the topic now; within a partition in order."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.stack.kafka_bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        await consumer.start()
        try:
            partitions = [
                TopicPartition(topic, number)
                for number in sorted(await consumer._client._wait_on_metadata(topic))
            ]
            consumer.assign(partitions)
            ends = await consumer.end_offsets(partitions)
            found: list[Any] = []
            for partition in partitions:
                while await consumer.position(partition) < ends[partition]:
                    batch = await consumer.getmany(partition, timeout_ms=500)
                    found += batch.get(partition, [])
            return found
        finally:
            await consumer.stop()

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
