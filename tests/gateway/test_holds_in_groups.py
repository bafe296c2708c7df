"""Requests to hold seats travel together, and each keeps its own outcome and its own deadline."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import httpx
import pytest

from gateway.clients import Clients
from gateway.holds import HoldItem, SeatHolds
from protos.frontrow.concert.v1 import concert_pb2
from protos.frontrow.reservation.v1 import reservation_pb2
from protos.limits import MAX_ITEMS
from servicekit.errors import ServiceError, Unavailable
from servicekit.rpc_errors import RemoteError
from tests.gateway.conftest import settings_for
from tests.gateway.fakes import Services
from tests.gateway.polling import until
from tests.gateway.problems import assert_problem
from tests.virtual_time import run

FIRST_SEAT = 10_001


@pytest.fixture
def seats(services: Services) -> list[int]:
    """The ids of 600 seats of one date."""
    ids = list(range(FIRST_SEAT, FIRST_SEAT + 600))
    services.concerts.seats += [
        concert_pb2.Seat(id=id, schedule_id=12, seat_num=f"B{id}", price="1.00") for id in ids
    ]
    return ids


@asynccontextmanager
async def clients_of(services: Services, **changes: object) -> AsyncIterator[Clients]:
    clients = Clients(settings_for(services, **changes))
    yield clients
    await clients.close()


def item(user_id: int, *seat_ids: int) -> HoldItem:
    return HoldItem(user_id=user_id, seats=reservation_pb2.SeatChoice(seat_ids=seat_ids))


def groups(services: Services) -> list[list[int]]:
    """The user ids of each call."""
    return [
        [item.user_id for item in call.request.items] for call in services.faults.of("HoldSeats")
    ]


def users(services: Services) -> list[int]:
    """The user ids of all calls."""
    return [user_id for group in groups(services) for user_id in group]


async def test_a_lone_request_goes_at_once(services: Services, seats: list[int]) -> None:
    async with clients_of(services) as clients:
        for user_id, seat_id in enumerate(seats[:5], 1):
            assert (await clients.holds.hold(item(user_id, seat_id))).user_id == user_id
    assert groups(services) == [[1], [2], [3], [4], [5]]


async def test_a_crowd_shares_calls_in_the_order_of_arrival(
    services: Services, seats: list[int]
) -> None:
    services.faults.delays["HoldSeats"] = 0.05
    async with clients_of(services) as clients:
        held = await asyncio.gather(
            *(clients.holds.hold(item(user, seat)) for user, seat in enumerate(seats, 1))
        )
    assert [reservation.user_id for reservation in held] == list(range(1, 601))
    assert [reservation.seats[0].id for reservation in held] == seats
    sizes = [len(group) for group in groups(services)]
    # The first four find nobody else; the others wait for them.
    assert sizes == [1, 1, 1, 1, MAX_ITEMS, MAX_ITEMS, 596 - 2 * MAX_ITEMS]
    # Several calls are on their way at once, so a later one may arrive first.
    assert sorted(users(services)) == list(range(1, 601))
    assert all(group == sorted(group) for group in groups(services))


async def test_a_refused_item_fails_alone(
    client: httpx.AsyncClient, services: Services, seats: list[int]
) -> None:
    services.reservations.hold(7, seats[1])
    services.faults.delays["HoldSeats"] = 0.05
    bodies: list[dict[str, object]] = [
        {"concertSeatId": seats[10]},
        {"concertSeatId": seats[11]},
        {"concertSeatId": seats[12]},
        {"concertSeatId": seats[13]},
        {"concertSeatId": seats[0]},
        {"concertSeatIds": [seats[2], seats[1]]},
        {"concertSeatId": 99},
        {"concertSeatIds": seats[3:6]},
    ]

    async def hold(user_id: int, choice: dict[str, object]) -> httpx.Response:
        headers = {"X-Access-Token": services.token(user_id)}
        return await client.post(
            "/concerts/reservation", json={"userId": user_id} | choice, headers=headers
        )

    *_, one, refused, missing, three = await asyncio.gather(
        *(hold(user_id, choice) for user_id, choice in enumerate(bodies, 1))
    )
    assert (one.status_code, three.status_code) == (200, 200)
    assert [seat["id"] for seat in three.json()["seats"]] == seats[3:6]
    assert assert_problem(refused, 409, "SEAT_HELD")["conflicts"] == [seats[1]]
    assert assert_problem(missing, 404, "SEAT_NOT_FOUND")["conflicts"] == [99]
    assert [5, 6, 7, 8] in groups(services)


async def test_a_failed_call_fails_its_items_and_is_not_repeated(
    services: Services, seats: list[int]
) -> None:
    services.faults.delays["HoldSeats"] = 0.05
    services.faults.errors["HoldSeats"] = Unavailable("The store is unavailable.")
    async with clients_of(services) as clients:
        outcomes = await asyncio.gather(
            *(clients.holds.hold(item(user, seat)) for user, seat in enumerate(seats[:300], 1)),
            return_exceptions=True,
        )
    codes = {outcome.code for outcome in outcomes if isinstance(outcome, RemoteError)}
    assert (len(outcomes), codes) == (300, {"UNAVAILABLE"})
    # Without a key, a repeated item would find its seats held by itself.
    assert sorted(users(services)) == list(range(1, 301))


class SlowStub:
    """Takes `seconds` for a call, and `seconds_of_search` for one for the best available seats;
    never returns at the deadline of the call."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.seconds_of_search = 0.0
        self.groups: list[list[int]] = []
        # When each call has ended at the latest, in seconds from the start.
        self.ends: list[float] = []
        self._began = asyncio.get_running_loop().time()

    async def HoldSeats(  # as gRPC names it
        self,
        request: reservation_pb2.HoldSeatsRequest,
        timeout: float,
        metadata: tuple[tuple[str, str], ...],
    ) -> reservation_pb2.HoldSeatsResponse:
        self.groups.append([item.user_id for item in request.items])
        is_search = any(item.HasField("best_available") for item in request.items)
        self.ends.append(round(asyncio.get_running_loop().time() + timeout - self._began, 3))
        seconds = self.seconds_of_search if is_search else self.seconds
        await asyncio.sleep(min(seconds, timeout))
        if seconds >= timeout:
            raise RemoteError("TIMEOUT", grpc.StatusCode.DEADLINE_EXCEEDED, "Too slow.")
        return reservation_pb2.HoldSeatsResponse(
            results=[
                reservation_pb2.HoldSeatsResponse.Result(
                    reservation=reservation_pb2.Reservation(user_id=item.user_id)
                )
                for item in request.items
            ]
        )


def test_each_request_has_its_own_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        stub = SlowStub()
        holds = SeatHolds(stub, 5)  # type: ignore[arg-type]
        now = asyncio.get_running_loop().time
        began = now()

        async def outcome(user_id: int) -> tuple[str, float]:
            try:
                code = "" if await holds.hold(item(user_id, user_id)) else "nothing"
            except ServiceError as error:
                code = error.code
            return code, round(now() - began, 3)

        async def ask(user_id: int, at: float) -> asyncio.Task[tuple[str, float]]:
            await asyncio.sleep(began + at - now())
            return asyncio.create_task(outcome(user_id))

        stub.seconds = 60
        stuck = [await ask(user_id, 0) for user_id in (1, 2, 3, 4)]
        never = await ask(5, 1)
        early = await ask(6, 3)
        late = await ask(7, 4.5)
        # Half of its time is over and no call has begun: it is certain that it has held nothing.
        assert await never == ("UNAVAILABLE", 3.5)
        # The calls end at 5; the two that wait then travel together until the first has to go.
        assert [await task for task in stuck] == [("TIMEOUT", 5)] * 4
        assert await early == ("TIMEOUT", 8)
        # Its seat is not held when it has gone, so a repeat does not find its own hold.
        assert await late == ("TIMEOUT", 8)
        assert stub.groups == [[1], [2], [3], [4], [6, 7]]
        assert stub.ends == [5, 5, 5, 5, 8]

    run(main(), monkeypatch)


def test_slow_calls_hold_up_no_other_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three seats that wait for a lock, each in a call of its own."""

    async def main() -> None:
        stub = SlowStub()
        holds = SeatHolds(stub, 5)  # type: ignore[arg-type]
        stub.seconds = 3
        slow = [asyncio.create_task(holds.hold(item(user_id, user_id))) for user_id in (1, 2, 3)]
        await asyncio.sleep(0.1)
        stub.seconds = 0
        began = asyncio.get_running_loop().time()
        for user_id in range(4, 20):
            assert (await holds.hold(item(user_id, user_id))).user_id == user_id
        assert asyncio.get_running_loop().time() == began
        assert [(await task).user_id for task in slow] == [1, 2, 3]

    run(main(), monkeypatch)


def test_searches_hold_up_no_other_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither seats by their ids nor later searches wait for a search that takes long."""

    async def main() -> None:
        stub = SlowStub()
        holds = SeatHolds(stub, 5)  # type: ignore[arg-type]
        stub.seconds_of_search = 3
        best = reservation_pb2.BestAvailable(schedule_id=1, count=2)
        slow = []
        for user_id in (1, 2, 3):
            search = HoldItem(user_id=user_id, best_available=best)
            slow.append(asyncio.create_task(holds.hold(search)))
            await asyncio.sleep(0.1)
        began = asyncio.get_running_loop().time()
        assert (await holds.hold(item(4, 4))).user_id == 4
        stub.seconds_of_search = 0
        assert (await holds.hold(HoldItem(user_id=5, best_available=best))).user_id == 5
        assert asyncio.get_running_loop().time() == began
        assert [(await task).user_id for task in slow] == [1, 2, 3]

    run(main(), monkeypatch)


async def test_a_request_whose_client_has_left_is_not_sent(
    services: Services, seats: list[int]
) -> None:
    services.faults.delays["HoldSeats"] = 0.2
    async with clients_of(services) as clients:
        tasks = []
        for number in (1, 2, 3, 4):
            tasks.append(asyncio.create_task(clients.holds.hold(item(number, seats[number]))))
            await until(lambda number=number: len(groups(services)) == number)  # type: ignore[misc]
        waiting = [
            asyncio.create_task(clients.holds.hold(item(number, seats[number])))
            for number in (5, 6, 7)
        ]
        await asyncio.sleep(0)
        waiting[1].cancel()
        await asyncio.gather(*tasks, waiting[0], waiting[2])
    assert groups(services) == [[1], [2], [3], [4], [5, 7]]
