"""Failures at every step: money and events agree in the end."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from payment_service.domain import ChargeStatus, PayOrder, Status
from payment_service.errors import ProviderUnavailable
from servicekit.errors import ServiceError, Unavailable
from tests.fakes.payment import FakePaymentStore
from tests.payment_service.conftest import Shop

SEEDS = 300
STEPS = [
    ("reservations", "begin_payment"),
    ("provider", "charge"),
    ("provider", "get_charge"),
    ("payments", "record_outcome"),
    ("payments", "park"),
]


def make_unreliable(shop: Shop, luck: random.Random) -> None:
    """Each step may fail before or after it is done, as if its reply were lost or its driver
    had crashed; and it yields, so that everything may interleave."""
    for owner_name, step in STEPS:
        owner = getattr(shop, owner_name)
        error: type[Exception] = {
            "reservations": Unavailable,
            "provider": ProviderUnavailable,
            "payments": ConnectionError,
        }[owner_name]

        def wrap(
            method: Callable[..., Awaitable[Any]], error: type[Exception]
        ) -> Callable[..., Awaitable[Any]]:
            async def unreliable(*arguments: Any, **named: Any) -> Any:
                for _ in range(luck.randrange(4)):
                    await asyncio.sleep(0)
                fate = luck.random()
                if fate < 0.12:
                    raise error("before")
                result = await method(*arguments, **named)
                if fate < 0.24:
                    raise error("after")
                if fate < 0.28:
                    raise asyncio.CancelledError
                return result

            return unreliable

        setattr(owner, step, wrap(getattr(owner, step), error))


@pytest.mark.parametrize("decision", [ChargeStatus.APPROVED, ChargeStatus.DECLINED])
async def test_money_and_events_agree(decision: ChargeStatus) -> None:
    paid = 0
    for seed in range(SEEDS):
        luck = random.Random(seed)
        shop = Shop(lease_seconds=0.0001 if seed % 3 else 60, wait_seconds=0.3)
        shop.provider.answer = decision
        store = shop.payments
        assert isinstance(store, FakePaymentStore)
        orders = [PayOrder(9, 42, "key" if n % 4 == 0 else "") for n in range(6)]
        shop.reservations.hold(9, user_id=42)
        make_unreliable(shop, luck)
        replicas = [shop, Shop(store, shop.reservations, shop.provider, lease_seconds=60)]

        async def abandon_a_driver(
            order: PayOrder, replica: Shop = replicas[seed % 2], store: FakePaymentStore = store
        ) -> None:
            # A driver whose lease is over, but which still goes on.
            attempt = await store.create_payment(order, lease_seconds=0, answer_seconds=0)
            if attempt.created:
                await replica.service._saga.drive(attempt.payment)

        lapses = luck.random() < 0.3
        works = [abandon_a_driver(order) for order in orders]
        works += [_recover(replica) for replica in replicas]
        luck.shuffle(works)
        await asyncio.gather(*works, return_exceptions=True)
        if lapses:
            shop.reservations.lapse(9)
        store._driven_until = dict.fromkeys(store._driven_until, 0.0)
        for _ in range(200):
            if all(payment.finished for payment in store.payments.values()):
                break
            await _recover(luck.choice(replicas))
            store._driven_until = dict.fromkeys(store._driven_until, 0.0)

        payments = store.payments.values()
        succeeded = [p.id for p in payments if p.status is Status.SUCCEEDED]
        assert all(payment.finished for payment in payments), f"seed {seed}"
        assert shop.provider.charged == succeeded, f"seed {seed}"
        assert len(succeeded) <= 1, f"seed {seed}"
        published = [e.payment_id for e in shop.events if e.WhichOneof("event") == "succeeded"]
        assert published == succeeded, f"seed {seed}"
        per_payment = [event.payment_id for event in shop.events]
        assert len(per_payment) == len(set(per_payment)), f"seed {seed}"
        paid += len(succeeded)
    assert (paid > SEEDS / 2) == (decision is ChargeStatus.APPROVED)


async def _recover(replica: Shop) -> None:
    try:
        await replica.recovery.recover_batch()
    except (asyncio.CancelledError, ServiceError, ConnectionError):
        return  # this replica was lost while it recovered
