"""ReservationAdminService field by field, and what its callers see afterwards."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import pytest

from protos.frontrow.reservation.v1 import reservation_pb2, reservation_pb2_grpc
from reservation_service.house_service import HouseService
from reservation_service.house_servicer import HouseServicer
from reservation_service.servicer import ReservationServicer
from servicekit import client
from servicekit.call_interceptor import CallInterceptor
from servicekit.rpc_errors import RemoteError
from tests.fakes.reservation import FakeReservationStore
from tests.reservation_service.conftest import make_service

BUDGET = 2.0


@dataclass
class Stubs:
    users: "reservation_pb2_grpc.ReservationServiceAsyncStub"
    house: "reservation_pb2_grpc.ReservationAdminServiceAsyncStub"

    async def hold(self, user: int, *seats: int) -> reservation_pb2.Reservation:
        item = reservation_pb2.HoldSeatsRequest.Item(
            user_id=user, seats=reservation_pb2.SeatChoice(seat_ids=seats)
        )
        request = reservation_pb2.HoldSeatsRequest(items=[item])
        [result] = (await client.call(self.users.HoldSeats, request, budget=BUDGET)).results
        if result.HasField("error"):
            raise AssertionError(result.error.code)
        return result.reservation

    async def begin(self, held: reservation_pb2.Reservation, payment: int) -> None:
        request = reservation_pb2.BeginPaymentRequest(
            reservation_id=held.id, user_id=held.user_id, payment_id=payment
        )
        await client.call(self.users.BeginPayment, request, budget=BUDGET)


@pytest.fixture
async def stubs() -> AsyncIterator[Stubs]:
    store = FakeReservationStore()
    server = grpc.aio.server(interceptors=[CallInterceptor(5.0)])
    reservation_pb2_grpc.add_ReservationServiceServicer_to_server(
        ReservationServicer(make_service(store)), server
    )
    reservation_pb2_grpc.add_ReservationAdminServiceServicer_to_server(
        HouseServicer(HouseService(store)), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with client.connect(f"127.0.0.1:{port}") as channel:
        yield Stubs(
            reservation_pb2_grpc.ReservationServiceStub(channel),
            reservation_pb2_grpc.ReservationAdminServiceStub(channel),
        )
    await server.stop(None)


async def test_blocking_and_releasing(stubs: Stubs) -> None:
    await stubs.hold(42, 7)
    block = reservation_pb2.BlockSeatsRequest(schedule_id=1, seat_ids=[1, 2, 7])
    with pytest.raises(RemoteError) as refused:
        await client.call(stubs.house.BlockSeats, block, budget=BUDGET)
    assert (refused.value.code, refused.value.metadata["seats"]) == ("SEATS_TAKEN", "7")
    assert refused.value.status == grpc.StatusCode.ALREADY_EXISTS
    block = reservation_pb2.BlockSeatsRequest(schedule_id=1, seat_ids=[1, 2])
    blocked = await client.call(stubs.house.BlockSeats, block, budget=BUDGET)
    assert blocked == reservation_pb2.BlockSeatsResponse(blocked=2)
    with pytest.raises(AssertionError, match="SEAT_SOLD"):
        await stubs.hold(43, 1)
    counts = await client.call(
        stubs.users.CountSoldSeats,
        reservation_pb2.CountSoldSeatsRequest(schedule_ids=[1, 2]),
        budget=BUDGET,
    )
    assert counts == reservation_pb2.CountSoldSeatsResponse(blocked_by_schedule={1: 2})
    release = reservation_pb2.ReleaseSeatsRequest(schedule_id=1, seat_ids=[2, 3])
    released = await client.call(stubs.house.ReleaseSeats, release, budget=BUDGET)
    assert released == reservation_pb2.ReleaseSeatsResponse(released=1)


async def test_closing_and_reopening(stubs: Stubs) -> None:
    paying, _ = await stubs.hold(42, 7, 8), await stubs.hold(43, 9)
    await stubs.begin(paying, 5)
    schedules = reservation_pb2.CloseSchedulesRequest(schedule_ids=[1, 2])
    closed = await client.call(stubs.house.CloseSchedules, schedules, budget=BUDGET)
    assert closed == reservation_pb2.CloseSchedulesResponse(
        ended_holds=1, paying_reservation_ids=[paying.id]
    )
    for seat in (9, 151):
        with pytest.raises(AssertionError, match="SALES_CLOSED"):
            await stubs.hold(44, seat)
    taken = await client.call(
        stubs.users.GetTakenSeats,
        reservation_pb2.GetTakenSeatsRequest(
            schedule_ids=[1, 3],
            touched_in=[reservation_pb2.GetTakenSeatsRequest.Range(first=1, last=3)],
        ),
        budget=BUDGET,
    )
    assert [len(each.sold_seat_ids) for each in taken.schedules] == [150, 0]
    assert [len(each.held_seat_ids) for each in taken.schedules] == [0, 0]
    assert list(taken.touched.schedule_ids) == [1, 2]
    reopen = reservation_pb2.ReopenSchedulesRequest(schedule_ids=[1, 2])
    await client.call(stubs.house.ReopenSchedules, reopen, budget=BUDGET)
    assert (await stubs.hold(44, 9)).seat_id == 9


async def test_buyers(stubs: Stubs) -> None:
    bought = [await stubs.hold(42 + n, 7 + n) for n in range(3)]
    for n, held in enumerate(bought):
        await stubs.begin(held, 5 + n)
    request = reservation_pb2.ListBuyersRequest(schedule_id=1, page_size=2)
    page = await client.call(stubs.house.ListBuyers, request, budget=BUDGET)
    assert ([each.id for each in page.reservations], page.more) == ([1, 2], True)
    first = page.reservations[0]
    assert (first.user_id, first.payment_id, first.currency) == (42, 5, "KRW")
    assert first.status == reservation_pb2.RESERVATION_STATUS_PAYING
    request.after_reservation_id = 2
    page = await client.call(stubs.house.ListBuyers, request, budget=BUDGET)
    assert ([each.id for each in page.reservations], page.more) == ([3], False)
