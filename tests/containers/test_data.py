"""What outlives the containers: data, until somebody says otherwise, and a backup of it."""

from pathlib import Path

import pytest

from tests.containers.stack import Containers, docker
from tests.e2e.shop import Shop


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
    schedule = shop.new_schedule(seats=3)
    kept, payment = await buy(shop, schedule.seats[0])
    file = tmp_path / "frontrow.sql.gz"
    stack.run("backup", str(file))
    lost, later = await buy(shop, schedule.seats[1])

    # Wiped: no container, no network, no volume is left of it.
    stack.run("down", DATA="delete")
    assert left(stack) == []
    stack.run("up")
    stack.run("restore", str(file))
    stack.let_administrator_in()

    statuses = dict(shop.rows("reservation", "SELECT id, status FROM reservation"))
    assert statuses[kept] == "CONFIRMED"
    assert lost not in statuses
    assert (payment, "SUCCEEDED") in shop.rows("payment", "SELECT id, status FROM payment")
    # The seat that was sold stays sold; the one sold after the dump can be sold again, under ids
    # that nobody has seen yet.
    fan = await shop.admitted()
    refused = await fan.reserve(schedule.seats[0])
    assert (refused.status_code, refused.json()["code"]) == (409, "SEAT_SOLD")
    again = await fan.hold(schedule.seats[1])
    assert again > lost
    paid = await fan.pay_to_the_end(again)
    assert paid.json()["status"] == "SUCCEEDED", paid.text
    assert int(paid.json()["paymentId"]) > later


def test_a_damaged_backup_changes_nothing(stack: Containers, tmp_path: Path) -> None:
    file = tmp_path / "half.sql.gz"
    file.write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(AssertionError, match="no whole gzip file"):
        stack.run("restore", str(file))
    assert len(stack.all()) == 8


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
    """The containers, networks and volumes that there are of the project, and ports it holds."""
    mine = f"label=com.docker.compose.project={stack.project}"
    names = [
        *docker("ps", "--all", "--filter", mine, "--format", "{{.Names}}").split(),
        *docker("network", "ls", "--filter", mine, "--format", "{{.Name}}").split(),
        *docker("volume", "ls", "--filter", mine, "--format", "{{.Name}}").split(),
    ]
    return sorted(names)
