"""An upgrade from the version before to this one, while fans shop."""

from __future__ import annotations

import asyncio
import time

import grpc

from protos.frontrow.reservation.v1 import reservation_pb2, reservation_pb2_grpc
from servicekit import client
from servicekit.dead_letters import describe
from tests.reservation_service.upgrade.agreement import disagreements
from tests.reservation_service.upgrade.fans import Fans, Program
from tests.reservation_service.upgrade.versions import FREE_SEATS, SCHEDULES, Versions

ENDINGS = {"let the hold lapse", "cancelled", "never charged", "declined", "paid late", "paid"}


async def roll_out(
    versions: Versions, fans: Fans, *, seconds: float, check_seconds: float = 0.5
) -> dict[str, float]:
    """Expands the tables, adds this version, blocks seats, and stops the version before; `seconds`
    is how long both versions run, and this one afterwards.

    Asserts every `check_seconds` that claims and reservations agree, that both versions know what
    the house has, and that no payment is forgotten. Returns the longest wait for an answer in each
    phase, in seconds.
    """
    waits: dict[str, float] = {}
    async with (
        client.connect(versions.old.address) as old_channel,
        client.connect(versions.new.address) as new_channel,
    ):
        old, new = Program(old_channel), Program(new_channel)
        fans.programs = [old]
        async with fans.shopping():
            await asyncio.sleep(1)
            waits["before"] = fans.take_longest()
            await asyncio.to_thread(versions.expand)
            waits["expanding"] = fans.take_longest()
            await _agree_for(versions, 0, check_seconds)
            await asyncio.to_thread(versions.new.start)
            fans.programs = [old, new]
            await _block_seats(new_channel, old, new)
            await _agree_for(versions, seconds, check_seconds)
            fans.programs = [new]
            await old.unused()
            assert await asyncio.to_thread(versions.old.stop)
            waits["both"] = fans.take_longest()
            await _agree_for(versions, seconds, check_seconds)
            waits["after"] = fans.take_longest()
    assert ENDINGS - fans.outcomes.keys() == set()
    await _every_success_counts(versions, fans)
    assert await describe(f"{versions.payments}.dlq", fans.kafka_bootstrap) == []
    _agree(versions)
    return waits


async def _block_seats(channel: grpc.aio.Channel, old: Program, new: Program) -> None:
    """The house takes seats and gives some back: both versions sell what it does not have."""
    house = reservation_pb2_grpc.ReservationAdminServiceStub(channel)
    block = reservation_pb2.BlockSeatsRequest(schedule_id=SCHEDULES[-1], seat_ids=FREE_SEATS)
    assert (await client.call(house.BlockSeats, block, budget=10)).blocked == len(FREE_SEATS)
    for program in (old, new):
        assert await _hold(program, FREE_SEATS, user_id=999_998) == "SEAT_SOLD"
        seen = await client.call(
            program.stub.ListTakenSeats,
            reservation_pb2.ListTakenSeatsRequest(schedule_id=SCHEDULES[-1]),
            budget=10,
        )
        assert set(FREE_SEATS) <= set(seen.sold_seat_ids)
    release = reservation_pb2.ReleaseSeatsRequest(
        schedule_id=SCHEDULES[-1], seat_ids=FREE_SEATS[:2]
    )
    assert (await client.call(house.ReleaseSeats, release, budget=10)).released == 2
    assert await _hold(old, FREE_SEATS[:2], user_id=999_999) == "held"


async def _hold(program: Program, seats: list[int], *, user_id: int) -> str:
    """Asks for seats, and returns the outcome."""
    choice = reservation_pb2.SeatChoice(seat_ids=seats)
    item = reservation_pb2.HoldSeatsRequest.Item(user_id=user_id, seats=choice)
    request = reservation_pb2.HoldSeatsRequest(items=[item])
    response = await client.call(program.stub.HoldSeats, request, budget=10)
    [result] = response.results
    if result.WhichOneof("result") == "error":
        return result.error.code
    assert [seat.id for seat in result.reservation.seats] == seats
    return "held"


async def _agree_for(versions: Versions, seconds: float, check_seconds: float) -> None:
    end = time.monotonic() + seconds
    await asyncio.to_thread(_agree, versions)
    while (left := end - time.monotonic()) > 0:
        await asyncio.sleep(min(left, check_seconds))
        await asyncio.to_thread(_agree, versions)


def _agree(versions: Versions) -> None:
    with versions.tables.cursor() as cursor:
        assert disagreements(cursor) == {}


async def _every_success_counts(versions: Versions, fans: Fans) -> None:
    """Waits until each payment that succeeded has its seat, or is known to have lost it."""
    deadline = time.monotonic() + 30
    while waiting := await asyncio.to_thread(_unapplied, versions, fans.paid):
        assert time.monotonic() < deadline, waiting
        await asyncio.sleep(0.2)


def _unapplied(versions: Versions, paid: dict[int, int]) -> dict[int, int]:
    with versions.tables.cursor() as cursor:
        cursor.execute(
            "SELECT id, payment_id FROM reservation"
            " WHERE status = 'CONFIRMED' AND payment_id IS NOT NULL"
        )
        applied = set(cursor.fetchall())
        cursor.execute("SELECT reservation_id, payment_id FROM lost_seat")
        applied |= set(cursor.fetchall())
    return {id: payment for id, payment in paid.items() if (id, payment) not in applied}
