"""Data outlives the containers until it is deleted, and a backup restores it."""

import asyncio
import contextlib
import socket
from functools import partial
from pathlib import Path

from harness.invariants import settled, violated
from harness.local.ports import HOST
from tests.containers.stack import Containers, docker
from tests.e2e.conftest import in_thread
from tests.e2e.shop import SLOW, Shop, eventually, sandbox_user
from tests.faults.invariants import assert_all_hold
from tests.faults.load import Load

FANS = 5


async def buy(shop: Shop, seat: int) -> tuple[int, int]:
    """A ticket; the reservation and the payment."""
    fan = await shop.admitted()
    reservation = await fan.hold(seat)
    paid = await fan.pay_to_the_end(reservation)
    assert paid.json()["status"] == "SUCCEEDED", paid.text
    await fan.until_out()
    return reservation, int(paid.json()["paymentId"])


async def test_a_backup_brings_everything_back(
    stack: Containers, shop: Shop, tmp_path: Path
) -> None:
    """Taken while fans buy: payments are at any step, and so are their events."""
    seats = shop.new_schedule(seats=2000).seats
    file = tmp_path / "frontrow.sql.gz"
    first, _ = await buy(shop, seats[0])
    async with Load(shop, seats[1:-1], fans=FANS) as load:
        await load.goes_on(20, within=120)
        known = dict(load.paid)
        await in_thread(stack.run, "backup", str(file))
        held = set(load.held)
        await load.goes_on(20, within=120)
    lost, later = await buy(shop, seats[-1])
    await assert_all_hold(shop, within=90)

    # No container, network or volume is left.
    stack.run("down", DATA="delete")
    assert left(stack) == []
    stack.run("restore", str(file), **stack.settings)

    await eventually(lambda: nothing_is_wrong(shop), within=90, every=0.5)
    # Purchases that fans knew of before the backup began are restored.
    statuses = dict(shop.rows("reservation", "SELECT id, status FROM reservation"))
    paid = dict(shop.rows("payment", "SELECT id, status FROM payment"))
    assert {statuses[reservation] for reservation in (first, *known)} == {"CONFIRMED"}
    assert {paid[payment] for payment in known.values()} == {"SUCCEEDED"}
    assert lost not in statuses
    # Seats sold after the dump can be sold again, under new ids; seats sold before it stay sold.
    fan = await shop.admitted()
    refused = await fan.reserve(seats[0])
    assert (refused.status_code, refused.json()["code"]) == (409, "SEAT_SOLD")
    again = await fan.hold(seats[-1])
    assert again > max(lost, *held)
    answer = await fan.pay_to_the_end(again)
    assert answer.json()["status"] == "SUCCEEDED", answer.text
    assert int(answer.json()["paymentId"]) > later


async def test_a_seat_that_was_paid_when_the_backup_was_made_is_confirmed(
    stack: Containers, shop: Shop, tmp_path: Path
) -> None:
    """Its event has left the outbox, because Kafka has it, and its effect is not in the dump; after
    the restore, the consumer is past the event."""
    (seat,) = shop.new_schedule(seats=1).seats
    file = tmp_path / "frontrow.sql.gz"
    reservation_service = stack.one("reservation").name
    fan = await shop.admitted(user_id=sandbox_user(SLOW))
    reservation = await fan.hold(seat)

    def status(schema: str, sql: str) -> str:
        ((found,),) = shop.rows(schema, sql, reservation)
        return str(found)

    async def becomes(schema: str, sql: str, wanted: str) -> None:
        async def so() -> None:
            assert status(schema, sql) == wanted

        await eventually(so, within=60, every=0.1)

    of_reservation = "SELECT status FROM reservation WHERE id = %s"
    of_payment = "SELECT status FROM payment WHERE reservation_id = %s"
    paying = asyncio.create_task(fan.pay_to_the_end(reservation))
    await becomes("reservation", of_reservation, "PAYING")
    await in_thread(docker, "pause", reservation_service)
    try:
        await becomes("payment", of_payment, "SUCCEEDED")
        await eventually(lambda: sent(shop), within=20)
        await in_thread(stack.run, "backup", str(file))
        assert status("reservation", of_reservation) == "PAYING"
    finally:
        await in_thread(docker, "unpause", reservation_service)
    assert (await paying).json()["status"] == "SUCCEEDED"
    await becomes("reservation", of_reservation, "CONFIRMED")
    await fan.until_out()

    await in_thread(stack.run, "restore", str(file))
    await becomes("reservation", of_reservation, "CONFIRMED")
    await eventually(lambda: nothing_is_wrong(shop), within=90, every=0.5)


async def nothing_is_wrong(shop: Shop) -> None:
    """In the databases; Kafka is not restored."""
    counts = violated(await in_thread(partial(settled, shop.stores, within=0)))
    assert counts.keys() <= {"payments_with_wrong_events", "payments_with_events_only"}, counts


async def sent(shop: Shop) -> None:
    assert (
        shop.number("payment", "SELECT COUNT(*) FROM payment WHERE unsent_shard IS NOT NULL") == 0
    )


async def test_down_leaves_nothing_but_the_data(stack: Containers, shop: Shop) -> None:
    schedule = shop.new_schedule(seats=1)
    reservation, _ = await buy(shop, schedule.seats[0])
    stack.run("down")
    assert left(stack) == [f"{stack.project}_{name}" for name in ("kafka", "mariadb", "redis")]
    stack.run("up")
    rows = shop.rows("reservation", "SELECT status FROM reservation WHERE id = %s", reservation)
    assert rows == [("CONFIRMED",)]
    stack.run("down", DATA="delete")
    assert left(stack) == []


def left(stack: Containers) -> list[str]:
    """The containers, networks and volumes of the project, and its port if it is in use."""
    mine = f"label=com.docker.compose.project={stack.project}"
    names = [
        *docker("ps", "--all", "--filter", mine, "--format", "{{.Names}}").split(),
        *docker("network", "ls", "--filter", mine, "--format", "{{.Name}}").split(),
        *docker("volume", "ls", "--filter", mine, "--format", "{{.Name}}").split(),
    ]
    with contextlib.suppress(ConnectionRefusedError):
        socket.create_connection((HOST, stack.port), timeout=5).close()
        names.append(f"port {stack.port}")
    return sorted(names)
