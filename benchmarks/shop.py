"""The routes that are measured, and the people, seats and holds that their requests need.

Prepared over gRPC, which is faster than HTTP and not part of any measurement.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
import time
from collections.abc import Callable, Sequence
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
#: The most items that a service takes in one call.
_BATCH = 256
_BUDGET_SECONDS = 30.0
#: First user ids, so that no user belongs to two kinds of people.
_FIRST_SHOPPER = 1
_FIRST_WAITING = 10_000_000
_FIRST_NEWCOMER = 20_000_000
_FIRST_BUYER = 30_000_000
#: The most seats that a user may hold unpaid, by default (RESERVATION_MAX_SEATS).
_SEATS_PER_BUYER = 8
#: Seats of a reservation of several.
SEVERAL = 4


class Ticket(NamedTuple):
    """A user and the token of the user's place."""

    user_id: int
    token: str


class Shop:
    """The data of one stack, whose ids follow from its size (see concert_service.seed).

    Admits SHOPPERS, who read, and `buyers`, who hold seats or pay; then WAITING people stay in line
    for as long as the measurements last. Raises UserError.
    """

    def __init__(
        self,
        queue: grpc.Channel,
        reservation: grpc.Channel,
        size: Size,
        buyers: int,
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
        # Half of the dates are sold seat by seat, the others in sets of adjacent seats.
        half = len(self.dates) // 2
        self._free = {
            1: iter(_sets(self.dates[:half], 1, chance)),
            SEVERAL: iter(_sets(self.dates[half:], SEVERAL, chance)),
        }
        self._newcomers = itertools.count(_FIRST_NEWCOMER)
        self._set_capacity(SHOPPERS + buyers)
        self._shoppers = self._enter(_FIRST_SHOPPER, SHOPPERS, admitted=True)
        self._buyers = iter(self._enter(_FIRST_BUYER, buyers, admitted=True))
        # Nobody else is admitted when buyers leave. Lowering the capacity evicts nobody.
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

    def _seats(self, count: int, each: int = 1) -> list[list[int]]:
        """Takes `count` sets of `each` free seats. Raises UserError."""
        taken = list(itertools.islice(self._free[each], count))
        if len(taken) < count:
            raise UserError("All seats are taken: measure with BENCH_SEED=full.")
        return taken

    def _next_buyers(self, count: int) -> list[Ticket]:
        """Takes `count` admitted people who have bought nothing. Raises UserError."""
        taken = list(itertools.islice(self._buyers, count))
        if len(taken) < count:
            raise UserError(
                "All admitted buyers have bought: the machine is faster than this benchmark"
                " expects, raise the rates in benchmarks/shop.py."
            )
        return taken

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
        """Buyers hold one free seat, each as often as one user may."""
        return [
            _hold(buyer, {"concertSeatId": seat})
            for buyer, (seat,) in zip(
                self._buyers_for(count, _SEATS_PER_BUYER), self._seats(count), strict=True
            )
        ]

    def reservations_of_several(self, count: int) -> list[Request]:
        """Buyers hold several free seats that are adjacent, each as often as one user may."""
        return [
            _hold(buyer, {"concertSeatIds": seats})
            for buyer, seats in zip(
                self._buyers_for(count, _SEATS_PER_BUYER // SEVERAL),
                self._seats(count, SEVERAL),
                strict=True,
            )
        ]

    def _buyers_for(self, count: int, each: int) -> list[Ticket]:
        """Returns the buyers of `count` reservations, of which each buyer makes `each`."""
        buyers = self._next_buyers(math.ceil(count / each))
        return [buyer for buyer in buyers for _ in range(each)][:count]

    def payments(self, count: int) -> list[Request]:
        """Buyers pay for their holds, which are made first, each by another buyer."""
        self._wait_for_last_payments()
        buyers = self._next_buyers(count)
        items = [
            reservation_pb2.HoldSeatsRequest.Item(
                user_id=buyer.user_id, seats=reservation_pb2.SeatChoice(seat_ids=seats)
            )
            for buyer, seats in zip(buyers, self._seats(count), strict=True)
        ]
        held: list[reservation_pb2.HoldSeatsResponse.Result] = []
        for start in range(0, count, _BATCH):
            stopping.raise_if_requested()
            request = reservation_pb2.HoldSeatsRequest(items=items[start : start + _BATCH])
            held += self._reservation.HoldSeats(request, timeout=_BUDGET_SECONDS).results
        if refused := next((result.error for result in held if not result.reservation.id), None):
            raise UserError(f"A hold for a payment is refused: {refused.code}.")
        return [
            Request(
                "POST",
                f"/concerts/reservations/{result.reservation.id}/pay",
                buyer.token,
                json.dumps({"userId": buyer.user_id}),
            )
            for buyer, result in zip(buyers, held, strict=True)
        ]

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


def _sets(dates: Sequence[int], size: int, chance: random.Random) -> list[list[int]]:
    """All seats of these dates in sets of `size` that follow one another, in random order."""
    sets = [
        [(date - 1) * SEATS_PER_SCHEDULE + first + number for number in range(1, size + 1)]
        for date in dates
        for first in range(0, SEATS_PER_SCHEDULE - size + 1, size)
    ]
    chance.shuffle(sets)
    return sets


def _hold(buyer: Ticket, choice: dict[str, object]) -> Request:
    body = json.dumps({"userId": buyer.user_id} | choice)
    return Request("POST", "/concerts/reservation", buyer.token, body)


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
    #: How many of its requests one buyer may send; 0 if it needs no buyers. Such a route takes more
    #: seats than the small data set has.
    per_buyer: int = 0

    def buyers(self, requests: int) -> int:
        """Returns how many buyers so many requests need."""
        return math.ceil(requests / self.per_buyer) if self.per_buyer else 0


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
        0.4,
    ),
    Case("enqueue", "POST /queues/enqueue", Shop.newcomers, 0.7, rate=4_000),
    Case(
        "reserve",
        "POST /concerts/reservation, one seat",
        Shop.reservations,
        0.4,
        rate=3_000,
        per_buyer=_SEATS_PER_BUYER,
    ),
    Case(
        "reserve_4",
        "POST /concerts/reservation, four seats",
        Shop.reservations_of_several,
        0.25,
        rate=2_000,
        per_buyer=_SEATS_PER_BUYER // SEVERAL,
    ),
    Case("pay", "POST …/pay", Shop.payments, 0.15, rate=1_200, per_buyer=1),
)
