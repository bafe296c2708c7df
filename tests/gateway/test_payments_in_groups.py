"""Requests to pay travel together, and each keeps its own outcome."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from gateway.clients import Clients
from gateway.payments import Payments
from protos.frontrow.concert.v1 import concert_pb2
from protos.frontrow.payment.v1 import payment_pb2
from servicekit.errors import ServiceError, Unavailable
from servicekit.rpc_errors import RemoteError
from tests.gateway.conftest import settings_for
from tests.gateway.fakes import SUCCEEDED, Services
from tests.virtual_time import run

AT_ONCE = 3


@pytest.fixture
def ids(services: Services) -> list[int]:
    """The ids of twenty holds of user 42."""
    seats = range(10_001, 10_021)
    services.concerts.seats += [
        concert_pb2.Seat(id=id, schedule_id=12, seat_num=f"B{id}", price="1.00") for id in seats
    ]
    services.faults.delays["Pay"] = 0.05
    return [services.reservations.hold(42, seat).id for seat in seats]


@asynccontextmanager
async def clients_of(services: Services) -> AsyncIterator[Clients]:
    clients = Clients(settings_for(services))
    yield clients
    await clients.close()


def request(reservation_id: int, user_id: int = 42) -> payment_pb2.PayRequest:
    return payment_pb2.PayRequest(reservation_id=reservation_id, user_id=user_id)


def groups(services: Services) -> list[list[int]]:
    """The reservations of each call."""
    calls = services.faults.of("PayReservations")
    return [[item.reservation_id for item in call.request.items] for call in calls]


async def test_the_first_go_at_once_and_who_comes_meanwhile_goes_together(
    services: Services, ids: list[int]
) -> None:
    async with clients_of(services) as clients:
        paid = await asyncio.gather(*(clients.payments.pay(request(id_)) for id_ in ids))
    assert [payment.reservation_id for payment in paid] == ids
    assert {payment.status for payment in paid} == {SUCCEEDED}
    alone = [call.request.reservation_id for call in services.faults.of("Pay")]
    assert sorted(alone) == ids[:AT_ONCE]
    assert groups(services) == [ids[AT_ONCE:]]


async def test_each_fails_for_itself(services: Services, ids: list[int]) -> None:
    async with clients_of(services) as clients:
        first = [asyncio.create_task(clients.payments.pay(request(id_))) for id_ in ids[:AT_ONCE]]
        other, missing, paid = await asyncio.gather(
            clients.payments.pay(request(ids[3], user_id=43)),
            clients.payments.pay(request(99)),
            clients.payments.pay(request(ids[4])),
            return_exceptions=True,
        )
        await asyncio.gather(*first)
    assert isinstance(other, ServiceError)
    assert isinstance(missing, ServiceError)
    assert (other.code, missing.code) == ("NOT_YOURS", "RESERVATION_NOT_FOUND")
    assert isinstance(paid, payment_pb2.PayResponse)
    assert groups(services) == [[ids[3], 99, ids[4]]]


async def test_a_call_that_fails_fails_all_of_its_items(services: Services, ids: list[int]) -> None:
    services.faults.errors["PayReservations"] = Unavailable("Draining.")
    async with clients_of(services) as clients:
        outcomes = await asyncio.gather(
            *(clients.payments.pay(request(id_)) for id_ in ids), return_exceptions=True
        )
    alone, together = outcomes[:AT_ONCE], outcomes[AT_ONCE:]
    assert all(isinstance(outcome, payment_pb2.PayResponse) for outcome in alone)
    codes = [outcome.code for outcome in together if isinstance(outcome, ServiceError)]
    assert codes == ["UNAVAILABLE"] * len(together)


async def test_the_version_before_gets_each_payment_by_itself(
    services: Services, ids: list[int]
) -> None:
    services.faults.errors["PayReservations"] = RemoteError(
        "INTERNAL", grpc.StatusCode.UNIMPLEMENTED, "Method not found!"
    )
    async with clients_of(services) as clients:
        outcomes = await asyncio.gather(
            *(clients.payments.pay(request(id_)) for id_ in [*ids, 99]), return_exceptions=True
        )
    missing = outcomes.pop()
    assert isinstance(missing, ServiceError)
    assert missing.code == "RESERVATION_NOT_FOUND"
    paid = [outcome for outcome in outcomes if isinstance(outcome, payment_pb2.PayResponse)]
    assert [payment.reservation_id for payment in paid] == ids


class Stub:
    """payment_service: `alone` are the lone payments that it has not answered, `messages` the
    results of a call for several."""

    def __init__(self) -> None:
        self.alone: dict[int, asyncio.Future[payment_pb2.PayResponse]] = {}
        self.calls: list[list[int]] = []
        self._messages: asyncio.Queue[Any] = asyncio.Queue()

    async def Pay(self, request: payment_pb2.PayRequest, **_: Any) -> payment_pb2.PayResponse:
        self.alone[request.reservation_id] = asyncio.get_running_loop().create_future()
        return await self.alone[request.reservation_id]

    def PayReservations(self, request: payment_pb2.PayReservationsRequest, **_: Any) -> "Stub":
        self.calls.append([item.reservation_id for item in request.items])
        return self

    async def read(self) -> Any:
        return await self._messages.get() or grpc.aio.EOF

    def cancel(self) -> None:
        pass

    def answer(self, *items: int) -> None:
        """Sends the results of these items; none: the end of the call."""
        kind = payment_pb2.PayReservationsResponse
        results = [
            kind.Result(item=item, payment=payment_pb2.PayResponse(id=100 + item)) for item in items
        ]
        self._messages.put_nowait(kind(results=results) if items else None)


Tasks = Sequence["asyncio.Task[payment_pb2.PayResponse]"]


async def pay(stub: Stub) -> tuple[Payments, Tasks, Tasks]:
    """Begins payments that go alone, and four that travel together once one of these has ended."""
    payments = Payments(stub, 5)  # type: ignore[arg-type]

    def begin(numbers: range) -> Tasks:
        return [asyncio.create_task(payments.pay(request(number))) for number in numbers]

    alone, together = begin(range(1, 1 + AT_ONCE)), begin(range(11, 15))
    await asyncio.sleep(0.01)
    assert (len(stub.alone), stub.calls) == (AT_ONCE, [])
    return payments, alone, together


def test_payments_at_a_slow_provider_hold_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        stub = Stub()
        payments, alone, together = await pay(stub)
        await asyncio.sleep(0.25)
        assert stub.calls == [[11, 12, 13, 14]], "although nobody has an outcome"
        stub.answer(3, 1)
        assert (await together[3]).id == 103
        assert (await together[1]).id == 101
        last = asyncio.create_task(payments.pay(request(15)))
        await asyncio.sleep(0.001)
        stub.alone[15].set_result(payment_pb2.PayResponse(id=15))
        assert (await last).id == 15
        assert not together[0].done()
        assert not any(task.done() for task in alone)
        stub.answer(0, 2)
        stub.answer()
        assert [(await task).id for task in together] == [100, 101, 102, 103]
        for number, answer in stub.alone.items():
            if not answer.done():
                answer.set_result(payment_pb2.PayResponse(id=number))
        assert [(await task).id for task in alone] == [1, 2, 3]

    run(main(), monkeypatch)


def test_a_caller_that_leaves_ends_no_other_payment(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        stub = Stub()
        _, alone, together = await pay(stub)
        alone[0].cancel()
        await asyncio.sleep(0.01)
        assert stub.calls == [[11, 12, 13, 14]]
        together[1].cancel()
        stub.answer(0, 1, 2, 3)
        stub.answer()
        results = await asyncio.gather(*together, return_exceptions=True)
        assert isinstance(results.pop(1), asyncio.CancelledError)
        assert all(isinstance(result, payment_pb2.PayResponse) for result in results)

    run(main(), monkeypatch)


def test_a_payment_without_a_result_is_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        stub = Stub()
        _, alone, together = await pay(stub)
        stub.alone[1].set_result(payment_pb2.PayResponse(id=1))
        assert (await alone[0]).id == 1
        stub.answer(0, 1)
        stub.answer()
        results = await asyncio.gather(*together, return_exceptions=True)
        kinds = [type(result).__name__ for result in results]
        assert kinds == ["PayResponse", "PayResponse", "Unavailable", "Unavailable"]

    run(main(), monkeypatch)
