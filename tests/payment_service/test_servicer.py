"""Several payments in one call: each has its own result, as soon as it is known."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from payment_service.domain import Charge, Money
from payment_service.servicer import PaymentServicer
from protos.frontrow.payment.v1 import payment_pb2
from protos.limits import MAX_ITEMS
from servicekit.errors import InvalidRequest
from tests.payment_service.conftest import Shop

SLOW_USER = 50


def request(*items: tuple[int, int]) -> payment_pb2.PayReservationsRequest:
    return payment_pb2.PayReservationsRequest(
        items=[payment_pb2.PayRequest(reservation_id=id_, user_id=user) for id_, user in items]
    )


@pytest.fixture
def answered(shop: Shop) -> asyncio.Event:
    """Lets the provider answer for SLOW_USER."""
    answered = asyncio.Event()
    charge = shop.provider.charge

    async def charge_slowly(payment_id: int, user_id: int, amount: Money) -> Charge:
        if user_id == SLOW_USER:
            await answered.wait()
        return await charge(payment_id, user_id, amount)

    shop.provider.charge = charge_slowly  # type: ignore[method-assign]
    shop.reservations.hold(10, user_id=SLOW_USER)
    shop.reservations.hold(11, user_id=43)
    return answered


async def test_a_slow_payment_holds_up_no_other_and_each_fails_alone(
    shop: Shop, answered: asyncio.Event
) -> None:
    context: Any = None
    items = request((10, SLOW_USER), (9, 42), (99, 42), (11, 43))
    found: dict[int, payment_pb2.PayReservationsResponse.Result] = {}
    async for response in PaymentServicer(shop.service).PayReservations(items, context):
        for result in response.results:
            assert result.item not in found
            found[result.item] = result
        if len(found) == 3:
            assert 0 not in found
            answered.set()
    assert sorted(found) == [0, 1, 2, 3]
    assert found[2].error.code == "RESERVATION_NOT_FOUND"
    for item, reservation_id in ((0, 10), (1, 9), (3, 11)):
        paid = found[item].payment
        assert (paid.reservation_id, paid.amount, paid.currency) == (
            reservation_id,
            "150000.00",
            "KRW",
        )
        assert paid.status == payment_pb2.PAYMENT_STATUS_SUCCEEDED


async def test_a_caller_that_leaves_ends_no_payment(shop: Shop, answered: asyncio.Event) -> None:
    context: Any = None
    call = PaymentServicer(shop.service).PayReservations(request((10, SLOW_USER), (9, 42)), context)
    async with aclosing(call) as responses:  # type: ignore[type-var]
        async for response in responses:
            assert [result.item for result in response.results] == [1]
            break
    answered.set()
    await shop.service.drain(5)
    assert sorted(shop.provider.charged) == [1, 2]


async def test_a_call_has_a_limit(shop: Shop) -> None:
    context: Any = None
    items = request(*[(9, 42)] * (MAX_ITEMS + 1))
    with pytest.raises(InvalidRequest):
        async for _ in PaymentServicer(shop.service).PayReservations(items, context):
            pass
