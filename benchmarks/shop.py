"""The routes that are measured, and the people, seats and holds that their requests need.

Prepared over gRPC, which is faster than HTTP and not part of any measurement.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import grpc

from benchmarks.wrk import Request
from concert_service.seed import SCHEDULES_PER_CONCERT, SEATS_PER_SCHEDULE, Size
from harness import stopping
from harness.errors import UserError
from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc
from protos.frontrow.reservation.v1 import reservation_pb2, reservation_pb2_grpc
from queue_service.admin_guard import credentials

ROOM = "main"
# With fewer, one place would reach its limit of 20 requests per second.
SHOPPERS = 2_000
WAITING = 10_000
#: The most users that queue_service takes in one call.
_BATCH = 256
#: Concurrent holds; more of them are no faster on two cores.
_HOLDING = 16
_BUDGET_SECONDS = 30.0
#: First user ids, so that no user belongs to two kinds of people.
_FIRST_SHOPPER = 1
_FIRST_WAITING = 10_000_000
_FIRST_NEWCOMER = 20_000_000
_FIRST_PAYER = 30_000_000


class Ticket(NamedTuple):
    """A user and the token of the user's place."""

    user_id: int
    token: str


class Shop:
    """The data of one stack, whose ids follow from its size (see concert_service.seed).

    Admits SHOPPERS, who read and hold seats, and `payers`; then WAITING people stay in line for as
    long as the measurements last. Raises UserError.
    """

    def __init__(
        self,
        queue: grpc.Channel,
        reservation: grpc.Channel,
        size: Size,
        payers: int,
        admin_token: str,
    ) -> None:
        self._queue = queue_pb2_grpc.QueueServiceStub(queue)
        self._admin = queue_pb2_grpc.QueueAdminServiceStub(queue)
        self._credential = credentials(admin_token)
        self._reservation = reservation_pb2_grpc.ReservationServiceStub(reservation)
        self._concerts = size.concerts
        #: All of them in random order.
        self.dates = [
            concert * SCHEDULES_PER_CONCERT + number
            for concert in range(size.concerts)
            for number in range(1, size.schedules + 1)
        ]
        chance = random.Random(1)
        chance.shuffle(self.dates)
        count = SEATS_PER_SCHEDULE * len(self.dates)
        self._free_seats = iter(chance.sample(range(count), count))
        self._newcomers = itertools.count(_FIRST_NEWCOMER)
        self._set_capacity(SHOPPERS + payers)
        self._shoppers = self._enter(_FIRST_SHOPPER, SHOPPERS, admitted=True)
        self._payers = iter(self._enter(_FIRST_PAYER, payers, admitted=True))
        # Nobody else is admitted when payers leave. Lowering the capacity evicts nobody.
        self._set_capacity(1)
        self._waiting = self._enter(_FIRST_WAITING, WAITING, admitted=False)

    def _set_capacity(self, capacity: int) -> None:
        self._admin.UpdateRoom(
            queue_pb2.UpdateRoomRequest(room=ROOM, capacity=capacity),
            timeout=_BUDGET_SECONDS,
            metadata=self._credential,
        )

    def fit_capacity(self) -> None:
        """Sets the capacity to the number of admitted people, so that the room can be verified: to
        the invariants it was too full since the capacity was lowered. Raises UserError."""
        self._set_capacity(self._wait_for_last_payments())

    def _enter(self, first: int, count: int, *, admitted: bool) -> list[Ticket]:
        tickets: list[Ticket] = []
        for start in range(first, first + count, _BATCH):
            users = range(start, min(start + _BATCH, first + count))
            response = self._queue.EnterQueue(
                queue_pb2.EnterQueueRequest(room=ROOM, user_ids=users), timeout=_BUDGET_SECONDS
            )
            for user, result in zip(users, response.results, strict=True):
                if result.error_code or admitted != (result.position.order == 0):
                    raise UserError(
                        f"User {user} has the unexpected order {result.position.order}"
                        f" {result.error_code}."
                    )
                tickets.append(Ticket(user, result.access_token))
        return tickets

    def _free_seat(self) -> int:
        seat = next(self._free_seats, None)
        if seat is None:
            raise UserError("All seats are taken: measure with BENCH_SEED=full.")
        date, number = divmod(seat, SEATS_PER_SCHEDULE)
        return (self.dates[date] - 1) * SEATS_PER_SCHEDULE + number + 1

    # --- requests ----------------------------------------------------------------------------

    def polls(self) -> list[Request]:
        """Each user in line asks for the order."""
        return [Request("GET", "/queues/order", ticket.token) for ticket in self._waiting]

    def reads(self, paths: Sequence[str]) -> list[Request]:
        """The paths in turn, each request by the next shopper."""
        return [
            Request("GET", paths[number % len(paths)], self._shoppers[number % SHOPPERS].token)
            for number in range(max(SHOPPERS, len(paths)))
        ]

    def schedules(self) -> list[Request]:
        """The dates of one concert after the other."""
        return self.reads([f"/concerts/{n}/schedules" for n in range(1, self._concerts + 1)])

    def seats(self, dates: Sequence[int]) -> list[Request]:
        """The seats of the dates in turn."""
        return self.reads([f"/concerts/schedules/{date}/seats" for date in dates])

    def newcomers(self, count: int) -> list[Request]:
        """New users enter the queue."""
        return [
            Request("POST", "/queues/enqueue", body=json.dumps({"userId": user}))
            for user in itertools.islice(self._newcomers, count)
        ]

    def reservations(self, count: int) -> list[Request]:
        """Shoppers in turn hold free seats."""
        return [
            Request(
                "POST",
                "/concerts/reservation",
                shopper.token,
                json.dumps({"userId": shopper.user_id, "concertSeatId": self._free_seat()}),
            )
            for shopper in itertools.islice(itertools.cycle(self._shoppers), count)
        ]

    def payments(self, count: int) -> list[Request]:
        """Payers pay for their holds, which are made first, each by another payer."""

        def hold(payer: Ticket, seat: int) -> Request:
            stopping.raise_if_requested()
            reservation = self._reservation.Reserve(
                reservation_pb2.ReserveRequest(user_id=payer.user_id, seat_id=seat),
                timeout=_BUDGET_SECONDS,
            )
            path = f"/concerts/reservations/{reservation.id}/pay"
            return Request("POST", path, payer.token, json.dumps({"userId": payer.user_id}))

        self._wait_for_last_payments()
        payers = list(itertools.islice(self._payers, count))
        if len(payers) < count:
            raise UserError(
                "All admitted payers have paid: the machine is faster than this benchmark expects,"
                " raise the rate of pay in benchmarks/shop.py."
            )
        with ThreadPoolExecutor(_HOLDING) as pool:
            return list(pool.map(hold, payers, [self._free_seat() for _ in payers]))

    def _wait_for_last_payments(self, seconds: float = 20.0) -> int:
        """Waits until the waiting room has processed the last payments, so that its number of
        admissions is stable, and returns that. Raises UserError if that takes longer."""
        deadline = time.monotonic() + seconds
        request = queue_pb2.GetRoomRequest(room=ROOM)
        before = -1
        while time.monotonic() < deadline:
            admitted = self._admin.GetRoom(
                request, timeout=_BUDGET_SECONDS, metadata=self._credential
            ).admitted
            if admitted == before:
                return admitted
            before = admitted
            stopping.wait(0.5)
        raise UserError(f"Payments still arrive at the waiting room after {seconds:.0f} s.")


@dataclasses.dataclass(frozen=True)
class Case:
    """One route as it is measured.

    `requests(shop, n)` makes the requests that wrk sends in a cycle. With a `rate`, each may be
    sent only once, and it makes n.
    """

    name: str
    title: str
    requests: Callable[[Shop, int], Sequence[Request]]
    #: The share of the yardstick that the route should reach.
    target: float | None = None
    #: Requests per second that two cores can serve, of a route whose requests are sent only once.
    rate: float = 0
    #: Whether it takes more seats than the small data set has.
    sells: bool = False


NOTHING = Case(
    "nothing", "a FastAPI route that does nothing", lambda *_: [Request("GET", "/nothing")]
)
CASES = (
    Case("order", "GET /queues/order, waiting", lambda shop, _: shop.polls(), 1.3),
    Case("concerts", "GET /concerts", lambda shop, _: shop.reads(["/concerts"]), 1.3),
    Case("schedules", "GET …/schedules, any concert", lambda shop, _: shop.schedules(), 1.3),
    Case("seats_one", "GET …/seats, one date", lambda shop, _: shop.seats(shop.dates[:1]), 0.3),
    Case("seats_20", "GET …/seats, 20 dates", lambda shop, _: shop.seats(shop.dates[:20]), 1.3),
    Case(
        "seats_any",
        "GET …/seats, any date",
        lambda shop, _: shop.seats(random.choices(shop.dates, k=20_000)),
        0.3,
    ),
    Case("enqueue", "POST /queues/enqueue", Shop.newcomers, rate=4_000),
    Case("reserve", "POST /concerts/reservation", Shop.reservations, rate=900, sells=True),
    Case("pay", "POST …/pay", Shop.payments, rate=500, sells=True),
)
