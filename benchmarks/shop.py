"""The data of the measurements: people in the queue, free seats, holds to pay.

Prepared over gRPC, which is faster than HTTP and not part of any measurement.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc

from benchmarks.wrk import Request, RunError
from concert_service.seed import SEATS_A_SCHEDULE
from harness import stopping
from harness.local import Stack
from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc
from protos.frontrow.reservation.v1 import reservation_pb2, reservation_pb2_grpc

ROOM = "main"
#: The most users that queue_service takes in one call.
_BATCH = 256
#: Concurrent holds; more of them are no faster on two cores.
_RESERVING = 16
_BUDGET_SECONDS = 30.0
#: First user ids, so that no user belongs to two kinds of people.
_FIRST_SHOPPER = 1
_FIRST_WAITING = 10_000_000
_FIRST_NEWCOMER = 20_000_000
_FIRST_PAYER = 30_000_000


@dataclasses.dataclass(frozen=True)
class Ticket:
    """A user and the token of the user's place."""

    user_id: int
    token: str


class Shop:
    """The stack's data, as far as the measurements need it.

    `schedules` of SEATS_A_SCHEDULE seats each, whose ids follow from theirs (see
    concert_service.seed), are for sale.
    """

    def __init__(self, stack: Stack, schedules: Sequence[int]) -> None:
        self._queue_channel = grpc.insecure_channel(stack.address("queue_service"))
        self._reservation_channel = grpc.insecure_channel(stack.address("reservation_service"))
        self._queue = queue_pb2_grpc.QueueServiceStub(self._queue_channel)
        self._admin = queue_pb2_grpc.QueueAdminServiceStub(self._queue_channel)
        self._reservation = reservation_pb2_grpc.ReservationServiceStub(self._reservation_channel)
        self._random = random.Random(1)
        self._schedules = schedules
        self._seats = self._free_seats()
        self._newcomers = iter(range(_FIRST_NEWCOMER, _FIRST_PAYER))
        self._payers: Iterator[Ticket] = iter(())

    def close(self) -> None:
        self._queue_channel.close()
        self._reservation_channel.close()

    def _free_seats(self) -> Iterator[int]:
        seats = SEATS_A_SCHEDULE * len(self._schedules)
        for index in self._random.sample(range(seats), seats):
            schedule = self._schedules[index // SEATS_A_SCHEDULE]
            yield (schedule - 1) * SEATS_A_SCHEDULE + index % SEATS_A_SCHEDULE + 1

    # --- people ------------------------------------------------------------------------------

    def admit(self, *, shoppers: int, payers: int) -> list[Ticket]:
        """Admits people: returns those who read and hold seats, keeps those who pay."""
        self._set_capacity(shoppers + payers)
        inside = self._enter(range(_FIRST_SHOPPER, _FIRST_SHOPPER + shoppers), order=0)
        self._payers = iter(self._enter(range(_FIRST_PAYER, _FIRST_PAYER + payers), order=0))
        # Nobody else is admitted when payers leave. Lowering the capacity evicts nobody.
        self._set_capacity(1)
        return inside

    def queue_up(self, count: int) -> list[Ticket]:
        """Adds people who wait in line for as long as the measurements last."""
        return self._enter(range(_FIRST_WAITING, _FIRST_WAITING + count), order=None)

    def _set_capacity(self, capacity: int) -> None:
        self._admin.UpdateRoom(
            queue_pb2.UpdateRoomRequest(room=ROOM, capacity=capacity), timeout=_BUDGET_SECONDS
        )

    def _enter(self, user_ids: range, *, order: int | None) -> list[Ticket]:
        tickets: list[Ticket] = []
        for start in range(0, len(user_ids), _BATCH):
            users = user_ids[start : start + _BATCH]
            reply = self._queue.EnterQueue(
                queue_pb2.EnterQueueRequest(room=ROOM, user_ids=users), timeout=_BUDGET_SECONDS
            )
            for user, result in zip(users, reply.results, strict=True):
                if result.error_code or (order == 0) != (result.position.order == 0):
                    raise RunError(
                        f"User {user} has the unexpected order {result.position.order}"
                        f" {result.error_code}."
                    )
                tickets.append(Ticket(user, result.access_token))
        return tickets

    # --- requests ----------------------------------------------------------------------------

    def newcomers(self, count: int) -> list[Request]:
        """Requests of new users who enter the queue."""
        return [
            Request("POST", "/queues/enqueue", body=json.dumps({"userId": next(self._newcomers)}))
            for _ in range(count)
        ]

    def reservations(self, shoppers: Sequence[Ticket], count: int) -> list[Request]:
        """Requests that hold free seats."""
        requests = []
        for number in range(count):
            shopper = shoppers[number % len(shoppers)]
            body = {"userId": shopper.user_id, "concertSeatId": self._free_seat()}
            requests.append(
                Request("POST", "/concerts/reservation", shopper.token, json.dumps(body))
            )
        return requests

    def payments(self, count: int) -> list[Request]:
        """Requests that pay holds. Makes the holds, each for another payer."""

        def hold(payer: Ticket, seat: int) -> Request:
            stopping.raise_if_requested()
            reservation = self._reservation.Reserve(
                reservation_pb2.ReserveRequest(user_id=payer.user_id, seat_id=seat),
                timeout=_BUDGET_SECONDS,
            )
            path = f"/concerts/reservations/{reservation.id}/pay"
            return Request("POST", path, payer.token, json.dumps({"userId": payer.user_id}))

        payers = list(itertools.islice(self._payers, count))
        if len(payers) < count:
            raise RunError("There are no more payers: this is a mistake in the benchmark.")
        with ThreadPoolExecutor(_RESERVING) as pool:
            return list(pool.map(hold, payers, [self._free_seat() for _ in payers]))

    def settle(self, seconds: float = 20.0) -> None:
        """Waits until the waiting room has processed the last payments, so that its number of
        admissions is stable. Raises RunError if that takes longer."""
        deadline = time.monotonic() + seconds
        request = queue_pb2.GetRoomRequest(room=ROOM)
        before = -1
        while time.monotonic() < deadline:
            admitted = self._admin.GetRoom(request, timeout=_BUDGET_SECONDS).admitted
            if admitted == before:
                return
            before = admitted
            stopping.wait(0.5)
        raise RunError(f"Payments still arrive at the waiting room after {seconds:.0f} s.")

    def _free_seat(self) -> int:
        seat = next(self._seats, None)
        if seat is None:
            raise RunError("All seats are taken: measure with BENCH_SEED=full.")
        return seat

    def any_schedules(self, count: int) -> list[int]:
        """Random schedules, with repetition."""
        return self._random.choices(self._schedules, k=count)
