"""An upgrade from the version before to this one, while fans shop."""

from __future__ import annotations

import asyncio
import time

from protos.frontrow.reservation.v1 import reservation_pb2
from servicekit import client
from servicekit.dead_letters import describe
from tests.reservation_service.upgrade.agreement import disagreements
from tests.reservation_service.upgrade.fans import Fans, Program
from tests.reservation_service.upgrade.versions import FREE_SEATS, Versions

ENDINGS = {"let the hold lapse", "cancelled", "never charged", "declined", "paid late", "paid"}


async def roll_out(
    versions: Versions, fans: Fans, *, seconds: float, check_seconds: float = 0.5
) -> dict[str, float]:
    """Expands the tables, adds this version, stops the version before, and contracts the tables;
    `seconds` is how long both versions run, and this one afterwards.

    Asserts every `check_seconds` that claims and reservations agree, and that no payment is
    forgotten. Returns the longest wait for an answer in each phase, in seconds.
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
            assert await _several(new, user_id=999_998) == "TOO_MANY_SEATS, at most 1"
            await _agree_for(versions, seconds, check_seconds)
            fans.programs = [new]
            await old.unused()
            assert await asyncio.to_thread(versions.old.stop)
            waits["both"] = fans.take_longest()
            await asyncio.to_thread(versions.contract)
            waits["contracting"] = fans.take_longest()
            await _agree_for(versions, seconds, check_seconds)
            waits["after"] = fans.take_longest()
        deadline = time.monotonic() + 10
        while (outcome := await _several(new, user_id=999_999)) != "held":
            assert outcome == "TOO_MANY_SEATS, at most 1"
            assert time.monotonic() < deadline, "the program does not see the contraction"
            await asyncio.sleep(0.2)
    assert ENDINGS - fans.outcomes.keys() == set()
    await _every_success_counts(versions, fans)
    assert await describe(f"{versions.payments}.dlq", fans.kafka_bootstrap) == []
    _agree(versions)
    return waits


async def _several(program: Program, *, user_id: int) -> str:
    """Asks for several seats in one reservation, and returns the outcome."""
    choice = reservation_pb2.SeatChoice(seat_ids=FREE_SEATS)
    item = reservation_pb2.HoldSeatsRequest.Item(user_id=user_id, seats=choice)
    request = reservation_pb2.HoldSeatsRequest(items=[item])
    response = await client.call(program.stub.HoldSeats, request, budget=10)
    [result] = response.results
    if result.WhichOneof("result") == "error":
        return f"{result.error.code}, at most {result.error.metadata['limit']}"
    assert [seat.id for seat in result.reservation.seats] == FREE_SEATS
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
