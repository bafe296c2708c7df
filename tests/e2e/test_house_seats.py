"""Seats leave the sale and return to it while people hold others; and a key that is revoked."""

from typing import Any

from concert_service.operators.domain import Role
from harness.local.stack import Stack
from tests.e2e.operators import Admin, operator
from tests.e2e.shop import Fan, Shop, assert_problem, eventually

ONE = "/admin/events/house-seats"
EVENT: dict[str, Any] = {
    "externalId": "house-seats",
    "title": "Lear",
    "venue": "Globe",
    "timeZone": "Europe/London",
    "currency": "GBP",
    "priceCategories": [{"name": "Stalls", "price": "30"}],
    "sections": [
        {
            "name": "Stalls",
            "rows": [{"name": "A", "priceCategory": "Stalls", "from": 1, "to": 4}],
        }
    ],
    "schedules": [{"externalId": "first-night", "startsAt": "2099-06-01T19:30:00+01:00"}],
}


def seats(*labels: str) -> dict[str, Any]:
    named = [{"section": "Stalls", "label": label} for label in labels]
    return {"schedule": "first-night", "seats": named}


async def by_label(fan: Fan, schedule: int) -> dict[str, Any]:
    return {seat.seat_num: seat for seat in (await fan.seats(schedule)).body.seats}


async def test_held_seats_stay_and_others_leave_and_return(shop: Shop, admin: Admin) -> None:
    await admin.ask("POST", "/admin/events", EVENT)
    again = await admin.ask("POST", "/admin/events", EVENT)
    assert (again["version"], again["changes"]) == (1, [])
    published = await admin.ask("POST", f"{ONE}/publish")
    version = published["event"]["version"]
    (schedule,) = published["event"]["scheduleIds"]
    first, second = await shop.crowd(2)
    ids = {
        label: seat.id
        for label, seat in (await eventually(lambda: by_label(first, schedule))).items()
    }

    await first.hold(ids["A1"])
    taken = await admin.refused("SEATS_TAKEN", "POST", f"{ONE}/seats/block", seats("A1", "A2"))
    assert taken["seats"] == [ids["A1"]]

    blocked = await admin.ask("POST", f"{ONE}/seats/block?version={version}", seats("A2"))
    assert blocked["version"] == version + 1
    stale = f"{ONE}/seats/block?version={version}"
    changed = await admin.refused("EVENT_CHANGED", "POST", stale, seats("A3"))
    assert (changed["version"], len(changed["changes"])) == (version + 1, 1)
    assert_problem(await second.reserve(ids["A2"]), 409, "SEAT_SOLD")
    assert (await second.seat_status(schedule, ids["A3"])) == "AVAILABLE"

    await admin.ask("POST", f"{ONE}/seats/release", seats("A2"))

    async def returned() -> None:
        assert (await second.seat_status(schedule, ids["A2"])) == "AVAILABLE"

    await eventually(returned, within=2)  # the seat map itself may be a second old
    assert (await second.reserve(ids["A2"])).status_code == 200

    log = (await admin.ask("GET", "/admin/audit"))["entries"]
    ours = [entry for entry in reversed(log) if entry["subject"] == "event house-seats"]
    assert [(entry["action"], entry["outcome"]) for entry in ours] == [
        ("importEvent", "SUCCEEDED"),
        ("importEvent", "SUCCEEDED"),
        ("publishEvent", "SUCCEEDED"),
        ("blockSeats", "SEATS_TAKEN"),
        ("blockSeats", "SUCCEEDED"),
        ("releaseSeats", "SUCCEEDED"),
    ]


async def test_the_people_in_a_room_are_counted(shop: Shop, admin: Admin) -> None:
    await shop.admitted()
    counts = await admin.ask("GET", "/admin/rooms/main/counts")
    assert counts["admitted"] >= 1
    await admin.refused("ROOM_NOT_FOUND", "GET", "/admin/rooms/none/counts")


async def test_a_revoked_key_ends_within_ten_seconds(stack: Stack, admin: Admin) -> None:
    await admin.ask("GET", "/admin/rooms")
    async with operator(stack, Role.ADMIN) as root:
        await root.ask("POST", f"/admin/keys/{admin.key_id}/revoke")

    async def refused() -> None:
        await admin.refused("INVALID_KEY", "GET", "/admin/rooms")

    await eventually(refused, within=10, every=0.5)
