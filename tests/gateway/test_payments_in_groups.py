"""Requests to pay travel together, and each keeps its own outcome."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from gateway.clients import Clients
from gateway.payments import Payments
from protos.frontrow.payment.v1 import payment_pb2
from servicekit import batching
from servicekit.errors import ServiceError, Unavailable
from tests.gateway.conftest import settings_for
from tests.gateway.fakes import SUCCEEDED, Services

PAUSE = 0.05


@pytest.fixture(autouse=True)
def _long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "PAUSE_EACH_SECONDS", PAUSE)


@asynccontextmanager
async def clients_of(services: Services) -> AsyncIterator[Clients]:
    clients = Clients(settings_for(services, write_pause_seconds=PAUSE))
    yield clients
    await clients.close()


def request(reservation_id: int, user_id: int = 42) -> payment_pb2.PayRequest:
    return payment_pb2.PayRequest(reservation_id=reservation_id, user_id=user_id)


def groups(services: Services) -> list[list[int]]:
    """The reservations of each call."""
    calls = services.faults.of("PayReservations")
    return [[item.reservation_id for item in call.request.items] for call in calls]


async def test_the_first_goes_at_once_and_who_follows_within_the_pause_goes_together(
    services: Services,
) -> None:
    ids = [services.reservations.hold(42, seat).id for seat in range(101, 104)]
    async with clients_of(services) as clients:
        paid = await asyncio.gather(*(clients.payments.pay(request(id_)) for id_ in ids))
    assert [payment.reservation_id for payment in paid] == ids
    assert {payment.status for payment in paid} == {SUCCEEDED}
    assert [call.request.reservation_id for call in services.faults.of("Pay")] == ids[:1]
    assert groups(services) == [ids[1:]]


async def test_who_comes_alone_makes_a_call_alone(services: Services) -> None:
    ids = [services.reservations.hold(42, seat).id for seat in (101, 102)]
    async with clients_of(services) as clients:
        for id_ in ids:
            await asyncio.sleep(2 * PAUSE)
            assert (await clients.payments.pay(request(id_))).reservation_id == id_
    assert groups(services) == []
    assert len(services.faults.of("Pay")) == 2


async def test_each_fails_for_itself(services: Services) -> None:
    ids = [services.reservations.hold(42, seat).id for seat in (101, 102, 103)]
    async with clients_of(services) as clients:
        _, other, missing, paid = await asyncio.gather(
            clients.payments.pay(request(ids[0])),
            clients.payments.pay(request(ids[1], user_id=43)),
            clients.payments.pay(request(99)),
            clients.payments.pay(request(ids[2])),
            return_exceptions=True,
        )
    assert isinstance(other, ServiceError)
    assert isinstance(missing, ServiceError)
    assert (other.code, missing.code) == ("NOT_YOURS", "RESERVATION_NOT_FOUND")
    assert isinstance(paid, payment_pb2.PayResponse)
    assert groups(services) == [[ids[1], 99, ids[2]]]


async def test_a_call_that_fails_fails_all_of_its_items(services: Services) -> None:
    ids = [services.reservations.hold(42, seat).id for seat in (101, 102, 103)]
    services.faults.errors["PayReservations"] = Unavailable("Draining.")
    async with clients_of(services) as clients:
        first, *others = await asyncio.gather(
            *(clients.payments.pay(request(id_)) for id_ in ids), return_exceptions=True
        )
    assert isinstance(first, payment_pb2.PayResponse)
    assert [other.code for other in others if isinstance(other, ServiceError)] == [
        "UNAVAILABLE",
        "UNAVAILABLE",
    ]


class Streaming:
    """payment_service, whose messages the test writes."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        self.cancelled = 0

    async def Pay(self, request: payment_pb2.PayRequest, **_: Any) -> payment_pb2.PayResponse:
        return payment_pb2.PayResponse(id=request.reservation_id)

    def PayReservations(self, request: Any, **_: Any) -> "Streaming":
        return self

    async def read(self) -> Any:
        return await self.messages.get() or grpc.aio.EOF

    def cancel(self) -> None:
        self.cancelled += 1

    def answer(self, *items: int) -> None:
        kind = payment_pb2.PayReservationsResponse
        results = [
            kind.Result(item=item, payment=payment_pb2.PayResponse(id=100 + item)) for item in items
        ]
        self.messages.put_nowait(kind(results=results))


@pytest.fixture
async def stub() -> Streaming:
    return Streaming()


async def pay_four(stub: Streaming) -> list["asyncio.Task[payment_pb2.PayResponse]"]:
    """Begins four payments that travel together, after a lone one."""
    payments = Payments(stub, 5, PAUSE)  # type: ignore[arg-type]
    await payments.pay(request(1))
    return [asyncio.create_task(payments.pay(request(number))) for number in range(4)]


async def test_a_slow_payment_holds_up_no_other(stub: Streaming) -> None:
    tasks = await pay_four(stub)
    stub.answer(3, 1)
    assert (await tasks[3]).id == 103
    assert (await tasks[1]).id == 101
    await asyncio.sleep(PAUSE)
    assert not tasks[0].done()
    stub.answer(0, 2)
    stub.messages.put_nowait(None)
    assert [(await task).id for task in tasks] == [100, 101, 102, 103]


async def test_a_caller_that_leaves_ends_no_other_payment(stub: Streaming) -> None:
    tasks = await pay_four(stub)
    await asyncio.sleep(2 * PAUSE)
    tasks[1].cancel()
    stub.answer(0, 1, 2, 3)
    stub.messages.put_nowait(None)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results.pop(1), asyncio.CancelledError)
    assert all(isinstance(result, payment_pb2.PayResponse) for result in results)


async def test_a_payment_without_a_result_is_in_doubt(stub: Streaming) -> None:
    tasks = await pay_four(stub)
    stub.answer(0, 1)
    stub.messages.put_nowait(None)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result).__name__ for result in results] == [
        "PayResponse",
        "PayResponse",
        "Unavailable",
        "Unavailable",
    ]
