"""Fans who hold seats, cancel, pay, and let holds lapse, through programs of both versions."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

import grpc

from protos.frontrow.reservation.v1 import reservation_pb2, reservation_pb2_grpc
from servicekit import client
from servicekit.kafka import Producer
from servicekit.rpc_errors import RemoteError
from tests.reservation_service.test_reservation_edges import payment_event
from tests.reservation_service.upgrade.versions import HOLD_SECONDS, LEASE_SECONDS, SEATS

Response = TypeVar("Response")

BUDGET_SECONDS = 10.0
#: The seats that fans want at a time, and how many of them are replaced each second.
WANTED = 40
WANTED_PER_SECOND = 25
#: What a fan may be told. Anything else is a fault.
REFUSALS = {
    *("SEAT_HELD", "SEAT_SOLD", "RESERVATION_EXPIRED", "PAYMENT_IN_PROGRESS", "ALREADY_PAID"),
}


class Program:
    """A program that fans call."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = reservation_pb2_grpc.ReservationServiceStub(channel)
        self._calls = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        self._calls += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._unused.set()

    async def unused(self) -> None:
        """Waits until no call is in flight."""
        await self._unused.wait()


@dataclass
class Fans:
    """Begins `rate` stories a second, each with a user of its own."""

    producer: Producer
    kafka_bootstrap: str
    payments_topic: str
    rate: float = 0.0
    #: Whom they call; may change at any time.
    programs: list[Program] = field(default_factory=list)
    #: What they may be told besides.
    tolerated: set[str] = field(default_factory=set)
    outcomes: Counter[str] = field(default_factory=Counter)
    #: The longest that a fan waited for one answer since the last `take_longest`, in seconds.
    _longest: float = 0.0
    #: Reservation → payment whose success was published.
    paid: dict[int, int] = field(default_factory=dict)
    _users: itertools.count[int] = field(default_factory=lambda: itertools.count(1_000_000))
    _payments: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _began: float = 0.0
    _writes: int = 0

    def take_longest(self) -> float:
        """The longest wait for an answer since the last call, in seconds."""
        longest, self._longest = self._longest, 0.0
        return longest

    @contextlib.asynccontextmanager
    async def shopping(self) -> AsyncIterator[None]:
        """Fans come until the end of the block. Raises what one of them met and should not."""
        self._began = time.monotonic()
        async with asyncio.TaskGroup() as stories:
            coming = stories.create_task(self._come(stories))
            yield
            coming.cancel()

    async def _come(self, stories: asyncio.TaskGroup) -> None:
        due = time.monotonic()
        while True:
            stories.create_task(self._story())
            due += 1 / self.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    @property
    def writes_per_second(self) -> float:
        """How often they, and the ends of their holds, have changed reservations until now."""
        return self._writes / (time.monotonic() - self._began)

    async def _story(self) -> None:
        try:
            self.outcomes[await self._shop()] += 1
        except RemoteError as error:
            if error.code not in REFUSALS | self.tolerated:
                raise
            self.outcomes[error.code] += 1

    async def _shop(self) -> str:
        """What one fan does, with either version at each step. Returns how it ended."""
        user = next(self._users)
        held = await self._call(
            lambda stub: stub.Reserve,
            reservation_pb2.ReserveRequest(user_id=user, seat_id=self._wanted_seat()),
        )
        id, plan = held.id, random.random()
        if plan < 0.3:
            self._writes += 1  # by the sweep
            return "let the hold lapse"
        if plan < 0.55:
            await self._call(
                lambda stub: stub.CancelReservation,
                reservation_pb2.CancelReservationRequest(reservation_id=id, user_id=user),
            )
            return "cancelled"
        payment = next(self._payments)
        if plan < 0.6:
            await asyncio.sleep(HOLD_SECONDS)
        begin = reservation_pb2.BeginPaymentRequest(
            reservation_id=id, user_id=user, payment_id=payment
        )
        await self._call(lambda stub: stub.BeginPayment, begin)
        if plan < 0.65:
            return "never charged"
        if plan < 0.8:
            await self._publish(id, payment, "failed")
            return "declined"
        if plan < 0.9:
            # The lease ends first, and the seat may be another fan's by then.
            await asyncio.sleep(LEASE_SECONDS + random.uniform(0, 0.6))
            ending = "paid late"
        else:
            ending = "paid"
        await self._publish(id, payment, "succeeded")
        self.paid[id] = payment
        return ending

    def _wanted_seat(self) -> int:
        first = int((time.monotonic() - self._began) * WANTED_PER_SECOND)
        return SEATS[(first + random.randrange(WANTED)) % len(SEATS)]

    async def _call(
        self,
        method: Callable[
            [reservation_pb2_grpc.ReservationServiceAsyncStub],
            Callable[..., Awaitable[Response]],
        ],
        request: object,
    ) -> Response:
        program, began = random.choice(self.programs), time.monotonic()
        try:
            with program.in_use():
                response = await client.call(method(program.stub), request, budget=BUDGET_SECONDS)
            self._writes += 1
            return response
        finally:
            self._longest = max(self._longest, time.monotonic() - began)

    async def _publish(self, reservation_id: int, payment_id: int, kind: str) -> None:
        record = payment_event(reservation_id, payment_id, kind)
        await self.producer.publish([replace(record, topic=self.payments_topic)], timeout=20)
        self._writes += 1
