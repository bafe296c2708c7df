"""The client of reservation_service: how it treats each answer of BeginPayment, and none."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from payment_service.domain import Admission, Money, Payment, Status
from payment_service.reservations import GrpcReservations
from protos.frontrow.reservation.v1 import reservation_pb2, reservation_pb2_grpc
from servicekit import call_context
from servicekit.errors import ServiceError
from servicekit.rpc_errors import RemoteError

PAYMENT = Payment(
    id=7,
    reservation_id=9,
    user_id=42,
    status=Status.INITIATED,
    amount=None,
    failure_code="",
    decline_returned=False,
    admission=None,
    failed_payment_id=6,
    attempts=0,
    created_at=datetime.now(UTC),
)


def reservations(*answers: str) -> GrpcReservations:
    """A client whose server gives these answers, an error code or a price, and repeats the last.
    A code with a "!" is the error of the whole call."""
    left = list(answers)

    async def begin_payments(
        request: reservation_pb2.BeginPaymentsRequest, **_: Any
    ) -> reservation_pb2.BeginPaymentsResponse:
        [item] = request.items
        assert (item.payment_id, item.failed_payment_id) == (7, 6)
        answer = left.pop(0) if len(left) > 1 else left[0]
        if answer.endswith("!"):
            raise RemoteError(answer[:-1], grpc.StatusCode.UNKNOWN, "")
        return reservation_pb2.BeginPaymentsResponse(results=[result(answer)])

    return client_of(begin_payments)


def result(answer: str, **metadata: str) -> reservation_pb2.BeginPaymentsResponse.Result:
    if not answer.isupper():
        reservation = reservation_pb2.Reservation(price=answer)
        return reservation_pb2.BeginPaymentsResponse.Result(reservation=reservation)
    error = reservation_pb2.ItemError(
        code=answer, status=grpc.StatusCode.UNKNOWN.value[0], metadata=metadata
    )
    return reservation_pb2.BeginPaymentsResponse.Result(error=error)


def client_of(begin_payments: Any) -> GrpcReservations:
    stub = SimpleNamespace(BeginPayments=begin_payments)
    return GrpcReservations(
        cast("reservation_pb2_grpc.ReservationServiceAsyncStub", stub), budget=0.8
    )


async def test_another_payment_in_progress_is_final_if_the_answer_names_it() -> None:
    calls = 0

    async def begin_payments(
        request: reservation_pb2.BeginPaymentsRequest, **_: Any
    ) -> reservation_pb2.BeginPaymentsResponse:
        nonlocal calls
        calls += 1
        [item] = request.items
        assert (item.admission.room, item.admission.place_number) == ("main", 17)
        return reservation_pb2.BeginPaymentsResponse(
            results=[result("PAYMENT_IN_PROGRESS", payment_id="5")]
        )

    payment = replace(PAYMENT, admission=Admission("main", 17))
    with pytest.raises(RemoteError) as raised:
        await client_of(begin_payments).begin_payment(payment)
    assert (raised.value.metadata, calls) == ({"payment_id": "5"}, 1)


async def test_temporary_errors_are_retried() -> None:
    asked = reservations("UNAVAILABLE!", "TIMEOUT!", "PAYMENT_IN_PROGRESS", "150000.00")
    assert await asked.begin_payment(PAYMENT) == Money(Decimal(150_000), "KRW")


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        (["PAYMENT_IN_PROGRESS"], "PAYMENT_IN_PROGRESS"),
        (["RESERVATION_EXPIRED"], "RESERVATION_EXPIRED"),
        (["TIMEOUT!"], "TIMEOUT"),
        (["TIMEOUT"], "TIMEOUT"),
        (["INTERNAL!"], "INTERNAL"),
        # The attempt without an answer may still begin the payment.
        (["TIMEOUT!", "PAYMENT_IN_PROGRESS"], "UNAVAILABLE"),
        (["UNAVAILABLE!", "PAYMENT_IN_PROGRESS"], "UNAVAILABLE"),
        (["PAYMENT_IN_PROGRESS", "TIMEOUT", "PAYMENT_IN_PROGRESS"], "UNAVAILABLE"),
        # Final: the payment cannot begin any more.
        (["TIMEOUT!", "RESERVATION_EXPIRED"], "RESERVATION_EXPIRED"),
    ],
)
async def test_the_error_after_all_attempts(answers: list[str], code: str) -> None:
    with pytest.raises(ServiceError) as raised:
        await reservations(*answers).begin_payment(PAYMENT)
    assert raised.value.code == code


async def test_the_price_has_the_currency_of_the_reservation() -> None:
    async def begin_payments(*_: Any, **__: Any) -> reservation_pb2.BeginPaymentsResponse:
        reservation = reservation_pb2.Reservation(price="12.500", currency="KWD")
        results = [reservation_pb2.BeginPaymentsResponse.Result(reservation=reservation)]
        return reservation_pb2.BeginPaymentsResponse(results=results)

    assert await client_of(begin_payments).begin_payment(PAYMENT) == Money(Decimal("12.5"), "KWD")


def prices(*amounts: int) -> list[Money]:
    return [Money(Decimal(amount)) for amount in amounts]


class Grouping:
    """A server that refuses any call with `poison`, and expires `lapsed`."""

    def __init__(self, poison: int = 0, lapsed: int = 0, seconds: float = 0.01) -> None:
        self.poison, self.lapsed, self.seconds = poison, lapsed, seconds
        self.sizes: list[int] = []

    async def begin_payments(
        self, request: reservation_pb2.BeginPaymentsRequest, *, timeout: float, **_: Any
    ) -> reservation_pb2.BeginPaymentsResponse:
        self.sizes.append(len(request.items))
        async with asyncio.timeout(timeout):
            await asyncio.sleep(self.seconds)
        ids = [item.payment_id for item in request.items]
        if self.poison in ids:
            raise RemoteError("INTERNAL", grpc.StatusCode.INTERNAL, "")
        return reservation_pb2.BeginPaymentsResponse(
            results=[
                result("RESERVATION_EXPIRED" if id_ == self.lapsed else f"{id_}.00") for id_ in ids
            ]
        )


async def test_payments_that_begin_meanwhile_share_a_call() -> None:
    server = Grouping(poison=15, lapsed=16)
    client = client_of(server.begin_payments)
    answers = await asyncio.gather(
        *(client.begin_payment(replace(PAYMENT, id=number)) for number in range(10, 30)),
        return_exceptions=True,
    )
    # The first two start at once. The group of the others is refused because of one of them.
    assert server.sizes == [1, 1, 18, *[1] * 18]
    for number, answer in enumerate(answers, 10):
        if number in (15, 16):
            assert isinstance(answer, RemoteError)
            assert answer.code == ("INTERNAL" if number == 15 else "RESERVATION_EXPIRED")
        else:
            assert answer == Money(Decimal(number))


async def test_a_group_has_the_time_that_its_first_caller_lacks() -> None:
    server = Grouping(seconds=0.05)
    client = client_of(server.begin_payments)

    async def hurried(number: int) -> Money:
        call_context.set_deadline(0.001)
        return await client.begin_payment(replace(PAYMENT, id=number))

    async with asyncio.TaskGroup() as tasks:
        alone = [
            tasks.create_task(client.begin_payment(replace(PAYMENT, id=number)))
            for number in (1, 2)
        ]
        first = tasks.create_task(hurried(3))
        other = tasks.create_task(client.begin_payment(replace(PAYMENT, id=4)))
    assert [task.result() for task in (*alone, first, other)] == prices(1, 2, 3, 4)
    assert server.sizes == [1, 1, 2]


async def test_a_caller_that_leaves_does_not_end_the_call_of_the_others() -> None:
    server = Grouping(seconds=0.05)
    client = client_of(server.begin_payments)
    callers = [
        asyncio.create_task(client.begin_payment(replace(PAYMENT, id=number)))
        for number in range(1, 6)
    ]
    await asyncio.sleep(0.02)
    callers[2].cancel()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(answers.pop(2), asyncio.CancelledError)
    assert answers == prices(1, 2, 4, 5)
