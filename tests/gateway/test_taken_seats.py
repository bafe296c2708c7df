"""The taken seats of dates: calls for several, and dates of which no seat is taken."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from gateway import taken_seats
from gateway.taken_seats import TakenSeats, ranges_of
from protos.frontrow.reservation.v1 import reservation_pb2
from servicekit.errors import Unavailable
from servicekit.rpc_errors import RemoteError
from tests.gateway.conftest import OpenGateway
from tests.gateway.fakes import Services
from tests.virtual_time import run

KNOWN = range(1, 100)


class Reservations:
    """Date n has n held seats, up to 9."""

    def __init__(self) -> None:
        self.calls: list[reservation_pb2.GetTakenSeatsRequest] = []
        self.touched: list[int] | None = list(range(1, 10))
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.most = 256
        self.seconds = 0.0

    async def GetTakenSeats(
        self, request: reservation_pb2.GetTakenSeatsRequest, timeout: float, **_: object
    ) -> reservation_pb2.GetTakenSeatsResponse:
        self.calls.append(request)
        touched = self.touched
        await self.gate.wait()
        if self.seconds:
            await asyncio.sleep(min(self.seconds, timeout))
            if self.seconds >= timeout:
                raise RemoteError("TIMEOUT", grpc.StatusCode.DEADLINE_EXCEEDED, "Too slow.")
        if self.error is not None:
            raise self.error
        response = reservation_pb2.GetTakenSeatsResponse()
        for schedule_id in request.schedule_ids[: self.most]:
            count = schedule_id if schedule_id < 10 else 0
            response.schedules.add(held_seat_ids=range(count))
        if request.touched_in and touched is not None:
            response.touched.schedule_ids.extend(touched)
            response.touched.SetInParent()
        return response


@pytest.fixture
def reservations() -> Reservations:
    return Reservations()


def taken(reservations: Reservations, ttl: float = 1.0) -> TakenSeats:
    clients = cast(Any, SimpleNamespace(reservation=reservations))
    return TakenSeats(clients, lambda: KNOWN, ttl=ttl, budget=5.0, longest_pause=0.0)


async def test_a_crowd_asks_for_its_dates_in_two_calls(reservations: Reservations) -> None:
    seats = taken(reservations)
    reservations.gate.clear()
    crowd = [asyncio.create_task(seats.get(1, 10))]
    await asyncio.sleep(0.01)
    crowd += [asyncio.create_task(seats.get(n % 20, 10)) for n in range(100)]
    await asyncio.sleep(0.01)
    reservations.gate.set()
    held = [len(answer.held_seat_ids) for answer in await asyncio.gather(*crowd)]
    assert held == [1, *(n % 20 if n % 20 < 10 else 0 for n in range(100))]
    assert [len(call.schedule_ids) for call in reservations.calls] == [1, 100]


async def test_what_a_response_leaves_out_is_asked_for_again(reservations: Reservations) -> None:
    reservations.most = 3
    seats = taken(reservations)
    held = [
        len(each.held_seat_ids)
        for each in await asyncio.gather(*(seats.get(n, 10) for n in range(8)))
    ]
    assert held == list(range(8))
    assert [len(call.schedule_ids) for call in reservations.calls] == [8, 5, 2]


async def test_a_call_asks_for_dates_of_20_000_seats_or_for_one(
    reservations: Reservations,
) -> None:
    seats = taken(reservations)
    sizes = [150, 10_000, 9_850, 1, 65_536, 20_000, 10_000, 10_000, 10_000]
    held = await asyncio.gather(*(seats.get(n, size) for n, size in enumerate(sizes)))
    assert [len(each.held_seat_ids) for each in held] == list(range(9))
    asked = [list(call.schedule_ids) for call in reservations.calls]
    assert asked == [[0, 1, 2], [3], [4], [5], [6, 7], [8]]


def test_ranges_leave_out_the_largest_gaps() -> None:
    assert ranges_of([], 3) == []
    assert ranges_of([5], 3) == [(5, 5)]
    assert ranges_of(range(7, 4, -1), 1) == [(5, 7)]
    spread = [1, 2, 4, 9, 10, 30, 32]
    assert ranges_of(spread, 9) == [(1, 2), (4, 4), (9, 10), (30, 30), (32, 32)]
    assert ranges_of(spread, 3) == [(1, 4), (9, 10), (30, 32)]
    assert ranges_of(spread, 1) == [(1, 32)]


def test_all_calls_for_a_crowd_share_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        reservations = Reservations()
        reservations.most = 1
        reservations.seconds = 2.0
        seats = taken(reservations)
        began = time.monotonic()
        results = await asyncio.gather(*(seats.get(n, 1) for n in range(8)), return_exceptions=True)
        assert {type(result) for result in results} == {RemoteError}
        assert round(time.monotonic() - began, 3) == 5.0
        assert [len(call.schedule_ids) for call in reservations.calls] == [8, 7, 6]

    run(main(), monkeypatch)


async def test_a_response_without_any_date_fails(reservations: Reservations) -> None:
    reservations.most = 0
    with pytest.raises(RuntimeError):
        await taken(reservations).get(1, 10)


async def test_under_load_one_call_tells_which_dates_are_untouched(
    reservations: Reservations,
) -> None:
    seats = taken(reservations)
    await seats.get(50, 10)
    assert not reservations.calls[0].touched_in, "one call alone does not pay for it"
    assert not seats.is_untouched(50)
    await seats.get(51, 10)
    assert [n for n in (1, 9, 10, 50) if seats.is_untouched(n)] == [10, 50]
    assert not seats.is_untouched(100), "nothing was asked about it"
    # What was just told is not asked for again.
    await seats.get(1, 10)
    assert [bool(call.touched_in) for call in reservations.calls] == [False, True, False]


def test_what_is_untouched_is_at_most_as_old_as_its_time_from_the_call_on(
    reservations: Reservations, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        seats = taken(reservations, ttl=0.5)
        await seats.get(50, 10)
        reservations.gate.clear()
        asked = time.monotonic()
        call = asyncio.create_task(seats.get(50, 10))
        await asyncio.sleep(0.3)
        reservations.touched = [50]  # too late for this call
        reservations.gate.set()
        await call
        assert seats.is_untouched(50)
        await asyncio.sleep(asked + 0.51 - time.monotonic())
        assert not seats.is_untouched(50)

    run(main(), monkeypatch)


def test_too_many_touched_dates_are_not_asked_for_again_soon(
    reservations: Reservations, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        monkeypatch.setattr(taken_seats, "_TOO_MANY_SECONDS", 0.3)
        reservations.touched = None
        seats = taken(reservations)
        for _ in range(5):
            await seats.get(50, 10)
        assert not seats.is_untouched(50)
        assert [bool(call.touched_in) for call in reservations.calls] == [
            False,
            True,
            False,
            False,
            False,
        ]
        reservations.touched = []
        await asyncio.sleep(0.31)
        for _ in range(2):
            await seats.get(50, 10)
        assert seats.is_untouched(50)

    run(main(), monkeypatch)


async def test_no_time_means_that_nothing_is_known(reservations: Reservations) -> None:
    seats = taken(reservations, ttl=0)
    for _ in range(3):
        await seats.get(50, 10)
    assert not seats.is_untouched(50)


async def test_a_failure_is_not_remembered(reservations: Reservations) -> None:
    seats = taken(reservations)
    await seats.get(1, 10)
    reservations.error = Unavailable("down")
    with pytest.raises(Unavailable):
        await seats.get(1, 10)
    assert not seats.is_untouched(50)
    reservations.error = None
    assert len((await seats.get(3, 10)).held_seat_ids) == 3


async def test_seat_maps_of_untouched_dates_need_no_call_and_show_a_hold_within_a_second(
    open_gateway: OpenGateway, services: Services
) -> None:
    client = await open_gateway(seats_ttl_seconds=1, facts_ttl_seconds=30)
    headers = {"X-Access-Token": services.token()}

    async def statuses(schedule_id: int) -> list[str]:
        response = await client.get(f"/concerts/schedules/{schedule_id}/seats", headers=headers)
        return [seat["status"] for seat in response.json()["seats"]]

    services.reservations.hold(1, 201)
    for _ in range(2):
        assert await statuses(11) == ["AVAILABLE"] * 3
        assert await statuses(12) == ["HELD"]
    asked = [list(call.request.schedule_ids) for call in services.faults.of("GetTakenSeats")]
    assert asked == [[11], [12]], "12 is cached, and 11 is cached or untouched"
    services.reservations.hold(2, 101)
    held = time.monotonic()
    while await statuses(11) == ["AVAILABLE"] * 3:
        assert time.monotonic() < held + 1.05
        await asyncio.sleep(0.01)
    assert await statuses(11) == ["AVAILABLE", "HELD", "AVAILABLE"]


async def test_the_body_that_is_kept_of_an_untouched_date_follows_the_facts(
    open_gateway: OpenGateway, services: Services
) -> None:
    client = await open_gateway(seats_ttl_seconds=1, facts_ttl_seconds=0.3)
    headers = {"X-Access-Token": services.token()}

    async def prices(schedule_id: int) -> list[str]:
        response = await client.get(f"/concerts/schedules/{schedule_id}/seats", headers=headers)
        return [seat["price"] for seat in response.json()["seats"]]

    before = await prices(11)
    await prices(12)  # the second call tells that 11 is untouched
    for _ in range(2):
        assert await prices(11) == before
    for seat in services.concerts.seats:
        if seat.schedule_id == 11:
            seat.price = "1.23"
    changed = time.monotonic()
    while await prices(11) == before:
        assert time.monotonic() < changed + 2
        await asyncio.sleep(0.02)
    assert await prices(11) == ["1.23"] * len(before)
