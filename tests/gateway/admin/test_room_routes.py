"""The routes of waiting rooms."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from concert_service.operators.domain import Role
from gateway.admin import bodies
from tests.gateway.admin.conftest import OpenClient
from tests.gateway.admin.fakes import ADMIN_TOKEN, AdminServices
from tests.gateway.admin.problems import fields, problem

SOON = datetime.now(UTC).replace(microsecond=0) + timedelta(days=10)


def at(**later: int) -> str:
    return (SOON + timedelta(**later)).isoformat()


def draw(**changes: Any) -> dict[str, Any]:
    return {
        "capacity": 500,
        "order": "DRAW",
        "timeZone": "Asia/Seoul",
        "gatherFrom": at(),
        "opensAt": at(hours=1),
    } | changes


async def test_a_room_is_created_read_and_removed(
    admin: httpx.AsyncClient, services: AdminServices
) -> None:
    created = await admin.put("/admin/rooms/box", json=draw(message='"שלום" <b>'))
    assert created.status_code == 200, created.text
    room = created.json()
    assert (room["name"], room["version"], room["maxWaiting"]) == ("box", 1, 1_000_000)
    assert room["opensAt"].endswith("+09:00")
    assert datetime.fromisoformat(room["opensAt"]) == SOON + timedelta(hours=1)
    assert datetime.fromisoformat(room["gatherUntil"]) == SOON + timedelta(minutes=59, seconds=50)
    assert len(room["draw"]["seedSha256"]) == 64
    stored = services.room_store.stored["box"]
    assert stored.seed is not None
    assert stored.seed.hex() not in created.text
    assert (await admin.get("/admin/rooms/box")).json() == room
    assert (await admin.get("/admin/rooms")).json() == {"rooms": [room]}
    # What was read may be sent again.
    assert (await admin.put("/admin/rooms/box", json=room)).json() == room
    assert (await admin.delete("/admin/rooms/box")).status_code == 204
    problem(await admin.get("/admin/rooms/box"), 404, "ROOM_NOT_FOUND")
    assert services.audit() == [
        ("putRoom", "room box", "SUCCEEDED"),
        ("putRoom", "room box", "SUCCEEDED"),
        ("removeRoom", "room box", "SUCCEEDED"),
    ]


BAD: list[tuple[str, Any]] = [
    ("capacity", None),
    ("capacity", "500"),
    ("capacity", 1.5),
    ("capacity", True),
    ("capacity", -1),
    ("capacity", 10**9 + 1),
    ("capacity", 2**63),
    ("maxWaiting", -1),
    ("maxWaiting", "1"),
    ("maxWaiting", 10**9 + 1),
    ("admissionsPerMinute", -1),
    ("admissionsPerMinute", 2**31),
    ("admissionsPerMinute", 10**9 + 1),
    ("mode", "normal"),
    ("mode", "OPEN"),
    ("mode", 1),
    ("order", "RANDOM"),
    ("order", None),
    ("timeZone", "Mars/Olympus"),
    ("timeZone", "+09:00"),
    ("timeZone", 9),
    ("gatherFrom", "2027-01-01T00:00:00"),  # of which zone?
    ("gatherFrom", "tomorrow"),
    ("gatherFrom", at(hours=1)),
    ("gatherFrom", None),
    ("gatherUntil", at()),
    ("gatherUntil", at(hours=2)),
    ("opensAt", None),
    ("opensAt", "2027-13-01T00:00:00Z"),
    ("opensAt", "10000-01-01T00:00:00Z"),
    ("closesAt", at(hours=1)),
    ("message", "x" * 281),
    ("message", "two\nlines"),
    ("message", "\u202e turned"),
    ("message", None),
    ("publicValueSource", "x" * 501),
    ("publicValueSource", 7),
    ("name", "other"),
    ("capcity", 500),
]


async def test_bad_values(admin: httpx.AsyncClient, services: AdminServices) -> None:
    for field, value in BAD:
        response = await admin.put("/admin/rooms/box", json=draw(**{field: value}))
        assert fields(response) == [field], (field, value)
        assert response.json()["errors"][0]["message"]
    assert services.room_store.stored == {}


async def test_several_bad_fields_are_told_together(admin: httpx.AsyncClient) -> None:
    response = await admin.put("/admin/rooms/box", json=draw(capacity="x", mode="y", foo=1))
    assert set(fields(response)) == {"capacity", "mode", "foo"}


async def test_bad_names(admin: httpx.AsyncClient) -> None:
    for name in ("Box", "x" * 65, "böx", "a.b"):
        assert fields(await admin.put(f"/admin/rooms/{name}", json={"capacity": 1})) == ["name"]


BAD_BODIES = [
    (b"{", "application/json", 422, "INVALID_REQUEST"),
    (b"", "application/json", 422, "INVALID_REQUEST"),
    (b"[]", "application/json", 422, "INVALID_REQUEST"),
    (b'"x"', "application/json", 422, "INVALID_REQUEST"),
    (b"\xff", "application/json", 422, "INVALID_REQUEST"),
    (b"{}", "text/plain", 415, "UNSUPPORTED_MEDIA_TYPE"),
    (b"{}", "application/x-www-form-urlencoded", 415, "UNSUPPORTED_MEDIA_TYPE"),
    (b" " * (64 * 1024 + 1), "application/json", 413, "BODY_TOO_LARGE"),
]


async def test_bad_bodies(admin: httpx.AsyncClient) -> None:
    for content, media_type, status, code in BAD_BODIES:
        headers = {"Content-Type": media_type}
        response = await admin.put("/admin/rooms/box", content=content, headers=headers)
        problem(response, status, code)


async def test_text_that_is_no_unicode(admin: httpx.AsyncClient, services: AdminServices) -> None:
    headers = {"Content-Type": "application/json"}
    for path, text in (
        ("PUT /admin/rooms/x", r'{"capacity": 1, "message": "\ud800"}'),
        ("PUT /admin/rooms/x", r'{"capacity": 1, "draw": {"seedSha256": "\udfff"}}'),
        ("PUT /admin/rooms/x", r'{"capacity": 1, "\ud800": 1}'),
        ("POST /admin/keys", r'{"name": "\ud800", "role": "VIEWER"}'),
        ("POST /admin/events/from-files", r'{"document": "\ud800", "seatsCsv": ""}'),
        ("PATCH /admin/events/hamlet", r'{"title": "\ud800"}'),
        ("PATCH /admin/events/hamlet", '{"title": NaN}'),
        ("PATCH /admin/events/hamlet", '{"title": ' + "[" * 900 + "]" * 900 + "}"),
    ):
        method, path = path.split()
        response = await admin.request(method, path, content=text, headers=headers)
        assert fields(response) == ["body"], text
    assert services.operator_store.entries == []


async def test_times_have_the_form_of_the_public_api(admin: httpx.AsyncClient) -> None:
    times = {"opensAt": "2027-01-01T00:00:00.123456+09:00", "timeZone": "Asia/Seoul"}
    room = (await admin.put("/admin/rooms/x", json={"capacity": 1, **times})).json()
    assert room["opensAt"] == "2027-01-01T00:00:00.123+09:00"
    (key,) = (await admin.get("/admin/keys")).json()["keys"]
    assert re.fullmatch(r"[0-9-]{10}T[0-9:]{8}\.[0-9]{3}Z", key["createdAt"])


async def test_a_time_that_a_zone_moves_out_of_range(admin: httpx.AsyncClient) -> None:
    for at in ("9999-12-31T23:00:00Z", "9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+14:00"):
        asked = {"capacity": 1, "opensAt": at, "timeZone": "Asia/Seoul"}
        assert fields(await admin.put("/admin/rooms/x", json=asked)) == ["opensAt"]
    assert (await admin.get("/admin/rooms")).status_code == 200


async def test_a_body_that_arrives_too_slowly(
    admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.05)

    async def endless() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    headers = {"Content-Type": "application/json"}
    for method, path in (("PUT", "/admin/rooms/x"), ("POST", "/admin/events")):
        response = await admin.request(method, path, content=endless(), headers=headers)
        assert fields(response) == ["body"]


async def test_a_body_that_is_larger_than_it_says(admin: httpx.AsyncClient) -> None:
    async def parts() -> Any:
        for _ in range(70):
            yield b" " * 1024

    headers = {"Content-Type": "application/json"}
    response = await admin.put("/admin/rooms/box", content=parts(), headers=headers)
    problem(response, 413, "BODY_TOO_LARGE")


async def test_bad_paths_methods_and_parameters(admin: httpx.AsyncClient) -> None:
    problem(await admin.get("/admin/nothing"), 404, "NOT_FOUND")
    problem(await admin.get("/nothing"), 404, "NOT_FOUND")
    refused = await admin.post("/admin/rooms", json={})
    problem(refused, 405, "METHOD_NOT_ALLOWED")
    assert refused.headers["allow"] == "GET"
    for bad in ("-1", "x", str(2**63)):
        response = await admin.put(f"/admin/rooms/box?version={bad}", json={"capacity": 1})
        assert fields(response) == ["version"]


async def test_two_operators(admin: httpx.AsyncClient, open_client: OpenClient) -> None:
    other = await open_client(Role.OPERATOR)
    room = (await admin.put("/admin/rooms/box", json={"capacity": 10})).json()
    assert (await other.put("/admin/rooms/box?version=1", json={"capacity": 20})).is_success
    for asked in (
        admin.put("/admin/rooms/box?version=1", json={"capacity": 30, "message": "soon"}),
        admin.put("/admin/rooms/box", json=room | {"capacity": 30, "message": "soon"}),
    ):
        body = problem(await asked, 409, "ROOM_CHANGED")
        assert body["version"] == 2
        assert body["changes"] == [
            {"field": "capacity", "before": 20, "after": 30},
            {"field": "message", "before": "", "after": "soon"},
        ]
    assert (await admin.get("/admin/rooms/box")).json()["capacity"] == 20
    body = problem(
        await admin.put("/admin/rooms/new?version=3", json=room | {"name": "new"}),
        409,
        "ROOM_CHANGED",
    )
    assert (body["version"], body["changes"]) == (0, [])


MODES = {
    "pause": "PAUSED",
    "drain": "DRAINING",
    "bypass": "BYPASSED",
    "resume": "NORMAL",
    "reopen": "NORMAL",
}


async def test_modes(admin: httpx.AsyncClient, services: AdminServices) -> None:
    before = (await admin.put("/admin/rooms/box", json={"capacity": 10, "mode": "PAUSED"})).json()
    for verb, mode in MODES.items():
        after = (await admin.post(f"/admin/rooms/box/{verb}")).json()
        assert after["mode"] == mode
        same = {name: value for name, value in after.items() if name not in ("mode", "version")}
        assert same.items() <= before.items()
        assert services.audit()[-1] == (f"{verb}Room", "room box", "SUCCEEDED")
        problem(await admin.post(f"/admin/rooms/none/{verb}"), 404, "ROOM_NOT_FOUND")
        assert services.audit()[-1] == (f"{verb}Room", "room none", "ROOM_NOT_FOUND")


async def test_close_and_reopen(admin: httpx.AsyncClient) -> None:
    await admin.put("/admin/rooms/box", json={"capacity": 10})
    closed = (await admin.post("/admin/rooms/box/close")).json()
    assert datetime.fromisoformat(closed["closesAt"]) <= datetime.now(UTC)
    reopened = (await admin.post("/admin/rooms/box/reopen")).json()
    assert reopened["closesAt"] is None
    # One that lies ahead stays.
    later = {"capacity": 10, "closesAt": at(), "mode": "DRAINING"}
    await admin.put("/admin/rooms/box", json=later)
    reopened = (await admin.post("/admin/rooms/box/reopen")).json()
    assert datetime.fromisoformat(reopened["closesAt"]) == SOON


async def test_a_message(admin: httpx.AsyncClient) -> None:
    await admin.put("/admin/rooms/box", json={"capacity": 10})
    told = await admin.put("/admin/rooms/box/message", json={"message": "Ten minutes late 🎟"})
    assert told.json()["message"] == "Ten minutes late 🎟"
    assert (await admin.put("/admin/rooms/box/message", json={"message": ""})).json()[
        "message"
    ] == ""
    for bad in ("x" * 281, "a\nb", "\x00", None, 7):
        response = await admin.put("/admin/rooms/box/message", json={"message": bad})
        assert fields(response) == ["message"]


async def test_what_has_begun_stays(admin: httpx.AsyncClient) -> None:
    await admin.put("/admin/rooms/box", json={"capacity": 10})
    body = problem(await admin.put("/admin/rooms/box", json=draw()), 409, "ROOM_HAS_BEGUN")
    assert body["field"] in ("gatherFrom", "opensAt", "order")


async def test_a_public_value(admin: httpx.AsyncClient) -> None:
    await admin.put("/admin/rooms/box", json=draw(publicValueSource="the lottery of 5 May"))
    problem(
        await admin.post("/admin/rooms/box/public-value", json={"value": "7"}),
        409,
        "DRAW_NOT_CLOSED",
    )
    for bad in ("", "x" * 501, None):
        response = await admin.post("/admin/rooms/box/public-value", json={"value": bad})
        assert fields(response)
    problem(
        await admin.post("/admin/rooms/none/public-value", json={"value": "7"}),
        404,
        "ROOM_NOT_FOUND",
    )


async def test_a_room_in_use(admin: httpx.AsyncClient, services: AdminServices) -> None:
    await admin.put("/admin/rooms/box", json={"capacity": 10})
    await services.room_store.publish(7, "box")
    await services.room_store.publish(8, "box")
    body = problem(await admin.delete("/admin/rooms/box"), 409, "ROOM_IN_USE")
    assert body["concerts"] == [7, 8]


async def test_counts_are_those_of_queue_service(
    admin: httpx.AsyncClient, services: AdminServices
) -> None:
    counts = (await admin.get("/admin/rooms/box/counts")).json()
    assert counts == {"admitted": 5, "waiting": 1000, "recovering": False}
    assert services.queue.credentials == [f"Bearer {ADMIN_TOKEN}"]
