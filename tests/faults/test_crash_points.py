"""kill -9 at each step of a payment: after a restart, the money and the seat agree.

The crashes are made by tests.faults.crash_at, which starts the program and kills it at a step;
the programs know nothing of it.
"""

import asyncio
import signal
import sys

import pytest

from gateway.schemas import Payment
from harness.client import Response
from harness.local.stack import Stack
from tests.e2e.conftest import in_thread
from tests.e2e.shop import DECLINED, Fan, Shop, assert_problem, eventually, sandbox_user
from tests.faults.invariants import assert_all_hold

REPOSITORY = "payment_service.repository:PaymentRepository"
ORDERS = "payment_service.orders:OrderRepository"
SANDBOX = "payment_service.providers.sandbox:SandboxProvider"
CLIENT = "payment_service.reservations:GrpcReservations"
# The steps of a payment in reservation_service.
PAID_SEATS = "reservation_service.payment_repository:PaymentRepository"

PAYERS = 6

# Saga step and place of the crash -> the arguments of crash_at.
STEPS = {
    "1 before the payment is created": f"--before {REPOSITORY}.create_payment payment_service",
    "1 payment created": f"{REPOSITORY}.create_payment payment_service",
    "2 hold is PAYING, reply lost": f"{PAID_SEATS}.begin_group reservation_service",
    "2 hold is PAYING": f"{CLIENT}.begin_payment payment_service",
    "3 charged": f"{SANDBOX}.charge payment_service",
    "4 before the outcome is recorded": f"--before {REPOSITORY}.record_outcome payment_service",
    "4 outcome recorded": f"{REPOSITORY}.record_outcome payment_service",
    # The second group, while the first one's payments are at the next step.
    "1 group created": f"--call 2 {ORDERS}._create_first payment_service",
    "3 before a group is charged": f"--call 2 --before {SANDBOX}._write payment_service",
    "4 group recorded": f"--call 2 {REPOSITORY}._end payment_service",
    "5 before the event is sent": "--before payment_service.relay:Relay.publish payment_service",
    "5 event sent, not marked": "payment_service.relay:Relay.publish payment_service",
    "6 before the seat is confirmed": f"--before {PAID_SEATS}.confirm reservation_service",
    "6 seat confirmed, offset not committed": f"{PAID_SEATS}.confirm reservation_service",
    "6 admission ended, offset not committed": (
        "queue_service.repository:QueueRepository.leave_all queue_service"
    ),
}
# A crash just before a step leaves what the step before it leaves, but for a reply or an offset.
_LONG = {
    "1 before the payment is created",
    "5 before the event is sent",
    "6 before the seat is confirmed",
}


def program_of(step: str) -> str:
    return step.rsplit(" ", 1)[1]


async def arm(stack: Stack, step: str, **env: str) -> None:
    """Starts the step's program anew, so that it kills itself there."""
    program = stack.process(program_of(step))
    await in_thread(program.stop)
    await asyncio.to_thread(
        program.start,
        extra_env={**env, "CRASH_AT": step},
        command=[sys.executable, "-m", "tests.faults.crash_at"],
    )


async def crashed(stack: Stack, step: str) -> None:
    """Waits until it has."""
    code = await asyncio.to_thread(stack.process(program_of(step)).wait, 30.0)
    assert code == -signal.SIGKILL


async def ask_until_decided(fan: Fan, reservation: int, within: float = 30.0) -> Response[Payment]:
    """Asks for the payment until there is an outcome."""

    async def decided() -> Response[Payment]:
        reply = await fan.pay(reservation)
        assert reply.status_code not in (202, 409, 500, 503, 504), reply.text
        return reply

    return await eventually(decided, within=within, every=0.2)


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(step, id=name, marks=[pytest.mark.long] if name in _LONG else [])
        for name, step in STEPS.items()
    ],
)
async def test_a_crash_there_is_recovered_from(shop: Shop, stack: Stack, step: str) -> None:
    """Several pay at the same time, so that groups of them are at the step, and at others."""
    date_ = shop.new_schedule(seats=PAYERS)
    fans = await shop.crowd(PAYERS)
    reservations = [await fan.hold(seat) for fan, seat in zip(fans, date_.seats, strict=True)]
    await arm(stack, step)
    await shop.ready()
    # The response at the moment of the crash may be an error, but it is true.
    at_once = await asyncio.gather(
        *(fan.pay(reservation) for fan, reservation in zip(fans, reservations, strict=True))
    )
    for reply in at_once:
        assert reply.status_code in (200, 202, 503, 504), reply.text
    await crashed(stack, step)
    await in_thread(stack.process(program_of(step)).start)
    paid = await asyncio.gather(
        *(
            ask_until_decided(fan, reservation)
            for fan, reservation in zip(fans, reservations, strict=True)
        )
    )
    for first, last in zip(at_once, paid, strict=True):
        assert last.status_code == 200, last.text
        if first.status_code in (200, 202):
            assert last.json()["paymentId"] == first.json()["paymentId"]
    await assert_all_hold(shop)
    events = await shop.payment_events(reservations)
    for fan, reservation, reply in zip(fans, reservations, paid, strict=True):
        # One of everything.
        assert shop.rows(
            "reservation",
            "SELECT status, payment_id FROM reservation WHERE id = %s",
            reservation,
        ) == [("CONFIRMED", reply.json()["paymentId"])]
        charged = shop.number(
            "payment",
            """SELECT COUNT(*) FROM sandbox_charge
            WHERE user_id = %s AND status IN ('APPROVED', 'REFUNDED')""",
            fan.user_id,
        )
        assert charged == 1
        mine = [event for event in events[reservation] if event.HasField("succeeded")]
        assert len({event.event_id for event in mine}) == 1
        await fan.until_out()


DECLINE_STEPS = {
    "3 declined": f"{SANDBOX}.charge payment_service",
    "4 decline recorded": f"{REPOSITORY}.record_outcome payment_service",
    "6 seat held again, offset not committed": f"{PAID_SEATS}.return_to_hold reservation_service",
}


@pytest.mark.parametrize("step", DECLINE_STEPS.values(), ids=DECLINE_STEPS.keys())
async def test_a_crash_around_a_decline_keeps_the_hold(shop: Shop, stack: Stack, step: str) -> None:
    date_ = shop.new_schedule()
    fan = await shop.admitted(user_id=sandbox_user(DECLINED))
    reservation = await fan.hold(date_.seats[0])
    await arm(stack, step)
    await shop.ready()
    at_once = await fan.pay(reservation)
    assert at_once.status_code in (402, 202, 503, 504), at_once.text
    await crashed(stack, step)
    await in_thread(stack.process(program_of(step)).start)
    assert_problem(await ask_until_decided(fan, reservation), 402, "PAYMENT_DECLINED")
    await assert_all_hold(shop)

    async def held() -> None:
        assert (await fan.reservation(reservation)).json()["status"] == "HELD"

    await eventually(held, within=30)
    other = await shop.admitted()
    assert_problem(await other.reserve(date_.seats[0]), 409, "SEAT_HELD")


LATE = {
    "the seat is still free": None,
    "somebody else has taken it": "",
    "refunded, not recorded": f"{SANDBOX}.refund payment_service",
    "refund recorded": f"{REPOSITORY}.record_refund payment_service",
}


@pytest.mark.parametrize("crash_again", LATE.values(), ids=LATE.keys())
async def test_a_success_that_comes_late(shop: Shop, stack: Stack, crash_again: str | None) -> None:
    """Charged, then the driver dies and the hold lapses: the seat if it is free, or the money."""
    date_ = shop.new_schedule()
    brief = {
        "RESERVATION_HOLD_SECONDS": "2",
        "RESERVATION_PAYMENT_LEASE_SECONDS": "1",
    }
    reservations = stack.process("reservation_service")
    charged = f"{SANDBOX}.charge payment_service"
    fan, other = await shop.crowd(2)
    await arm(stack, charged)
    await asyncio.to_thread(reservations.restart, extra_env=brief)
    try:
        await shop.ready()
        reservation = await fan.hold(date_.seats[0])
        assert (await fan.pay(reservation)).status_code in (202, 503, 504)
        await crashed(stack, charged)

        async def lapsed() -> None:
            assert (await fan.reservation(reservation)).json()["status"] == "EXPIRED"

        await eventually(lapsed)
    finally:
        await in_thread(reservations.restart)
    if crash_again is None:
        await in_thread(stack.process("payment_service").start)
        paid = await ask_until_decided(fan, reservation)
        assert paid.status_code == 200, paid.text
        await assert_all_hold(shop)
        assert (await fan.reservation(reservation)).json()["status"] == "CONFIRMED"
        return
    await ready_but_for_payments(shop)
    taken = await other.hold(date_.seats[0])
    if crash_again:
        await arm(stack, crash_again)
        await crashed(stack, crash_again)
    await in_thread(stack.process("payment_service").start)

    async def refunded() -> None:
        assert_problem(await fan.pay(reservation), 410, "RESERVATION_EXPIRED")
        assert shop.rows(
            "payment", "SELECT status FROM payment WHERE reservation_id = %s", reservation
        ) == [("REFUNDED",)]

    await eventually(refunded, within=40)
    assert shop.rows(
        "payment", "SELECT status FROM sandbox_charge WHERE user_id = %s", fan.user_id
    ) == [("REFUNDED",)]
    assert (await ask_until_decided(other, taken)).status_code == 200
    await assert_all_hold(shop)
    assert (await other.reservation(taken)).json()["status"] == "CONFIRMED"


async def ready_but_for_payments(shop: Shop) -> None:
    async def others_ready() -> None:
        reply = await shop.fan().request("GET", "/health/ready")
        assert reply.json()["away"] == ["payment_service"]

    await eventually(others_ready, within=30)
