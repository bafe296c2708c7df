"""The audit log of the admin API."""

import json

import httpx

from gateway.admin.audit import detail_of
from servicekit.errors import Unavailable
from tests.gateway.admin.fakes import AdminServices
from tests.gateway.admin.problems import fields, problem


async def test_without_its_entry_there_is_no_change(
    admin: httpx.AsyncClient, services: AdminServices
) -> None:
    services.steps.failing["audit"] = Unavailable("away")
    problem(await admin.put("/admin/rooms/box", json={"capacity": 1}), 503, "UNAVAILABLE")
    assert services.room_store.stored == {}


async def test_without_its_outcome_the_change_stands(
    admin: httpx.AsyncClient, services: AdminServices
) -> None:
    services.steps.failing["outcome"] = Unavailable("away")
    assert (await admin.put("/admin/rooms/box", json={"capacity": 1})).is_success
    assert services.audit() == [("putRoom", "room box", "")]
    (entry,) = (await admin.get("/admin/audit")).json()["entries"]
    assert entry["outcome"] is None


async def test_the_log_is_read_newest_first(
    admin: httpx.AsyncClient, services: AdminServices
) -> None:
    for number in range(5):
        await admin.put("/admin/rooms/box", json={"capacity": number})
    seen: list[int] = []
    token: str | None = ""
    for _ in range(3):
        page = (await admin.get(f"/admin/audit?pageSize=2&pageToken={token}")).json()
        seen += [entry["detail"]["capacity"] for entry in page["entries"]]
        token = page["nextPageToken"]
    assert (seen, token) == ([4, 3, 2, 1, 0], None)
    (entry, *_) = (await admin.get("/admin/audit")).json()["entries"]
    assert (entry["keyName"], entry["action"], entry["outcome"]) == ("Ada", "putRoom", "SUCCEEDED")
    assert fields(await admin.get("/admin/audit?pageToken=x")) == ["pageToken"]


async def test_the_entry_has_the_id_of_the_request(
    admin: httpx.AsyncClient, services: AdminServices
) -> None:
    headers = {"X-Request-Id": "my-request"}
    await admin.put("/admin/rooms/box", json={"capacity": 1}, headers=headers)
    assert services.operator_store.entries[0].what.request_id == "my-request"


def test_a_detail_that_is_too_long_keeps_the_beginning() -> None:
    changes = [{"field": f"seats[{n}]", "after": "ü" * 20} for n in range(20_000)]
    detail = json.loads(detail_of({"version": 3, "changes": changes, "text": "x" * 100_000}))
    assert detail["version"] == 3
    assert detail["changesCount"] == 20_000
    assert 100 < len(detail["changes"]) < 20_000
    assert detail["changes"] == changes[: len(detail["changes"])]
    assert detail["textBytes"] == 100_002
    assert json.loads(detail_of({"changes": changes[:3]})) == {"changes": changes[:3]}
