"""The routes of events: the order of the steps over two services, and conflicts."""

import json
from typing import Any

import httpx
import pytest

from concert_service.operators.domain import Role
from servicekit.errors import Unavailable
from tests.gateway.admin.conftest import OpenClient
from tests.gateway.admin.fakes import CANCELLED, PUBLISHED, AdminServices
from tests.gateway.admin.problems import fields, problem

ONE = "/admin/events/hamlet"


def document(**changes: Any) -> dict[str, Any]:
    return {"externalId": "hamlet", "title": "Hamlet", "blocked": []} | changes


async def test_an_import_of_a_new_event(admin: httpx.AsyncClient, services: AdminServices) -> None:
    planned = await admin.post("/admin/events?dryRun=true", json=document())
    assert planned.status_code == 200, planned.text
    assert (planned.json()["dryRun"], planned.json()["version"]) == (True, 0)
    assert services.steps == ["plan"]
    assert services.catalogue.version == 0
    done = (await admin.post("/admin/events", json=document())).json()
    assert (done["version"], done["status"], done["dryRun"]) == (1, "DRAFT", False)
    assert {"field": "title", "before": None, "after": "Hamlet"} in done["changes"]
    assert services.steps[1:] == ["plan", "audit", "import 0", "outcome SUCCEEDED"]
    assert services.audit() == [("importEvent", "event hamlet", "SUCCEEDED")]
    detail = json.loads(services.operator_store.entries[0].what.detail)
    assert detail["changes"] == done["changes"]


async def test_the_house_hears_first_of_what_leaves_and_last_of_what_returns(
    admin: httpx.AsyncClient, services: AdminServices
) -> None:
    services.catalogue.store(document(blocked=[1, 2]))
    services.catalogue.status = PUBLISHED
    services.house.blocked = {1, 2}
    changed = document(blocked=[2, 3, 4], closed=True)
    done = (await admin.post("/admin/events", json=changed)).json()
    assert services.steps == [
        "plan",
        "audit",
        "block [3, 4]",
        "close",
        "import 1",
        "release [1]",
        "outcome SUCCEEDED",
    ]
    assert services.house.blocked == {2, 3, 4}
    assert done["released"] == [{"scheduleId": 70, "seats": 1}]
    assert done["closedSchedules"] == [70]


async def test_seats_that_are_taken_refuse_everything(
    admin: httpx.AsyncClient, services: AdminServices
) -> None:
    services.catalogue.store(document())
    services.house.taken = {3, 5}
    response = await admin.post("/admin/events", json=document(blocked=[1, 3, 5]))
    assert problem(response, 409, "SEATS_TAKEN")["seats"] == [3, 5]
    assert services.catalogue.version == 1
    assert services.house.blocked == set()
    assert services.audit() == [("importEvent", "event hamlet", "SEATS_TAKEN")]


async def test_mistakes_are_told_with_their_lines(
    admin: httpx.AsyncClient, services: AdminServices
) -> None:
    response = await admin.post("/admin/events", json={"externalId": "hamlet"})
    assert problem(response, 422, "INVALID_REQUEST")["errors"] == [
        {"field": "title", "message": "is missing", "line": 3}
    ]
    headers = {"Content-Type": "application/json"}
    assert fields(await admin.post("/admin/events", content=b"{", headers=headers)) == [""]
    assert services.steps == ["plan", "plan"]
    assert services.operator_store.entries == []


async def test_two_operators(
    admin: httpx.AsyncClient, open_client: OpenClient, services: AdminServices
) -> None:
    await admin.post("/admin/events", json=document())
    other = await open_client(Role.OPERATOR)
    assert (await other.post("/admin/events?version=1", json=document(title="Lear"))).is_success
    for response in (
        await admin.post("/admin/events?version=1", json=document(title="Macbeth")),
        await admin.patch(f"{ONE}?version=1", json={"title": "Macbeth"}),
        await admin.post(f"{ONE}/publish?version=1"),
    ):
        body = problem(response, 409, "EVENT_CHANGED")
        assert body["version"] == 2
        assert body["changes"] == [{"field": "title", "before": "Hamlet", "after": "Lear"}]
    assert services.catalogue.versions[-1]["title"] == "Lear"


async def test_a_change_of_the_state_is_a_change(
    admin: httpx.AsyncClient, services: AdminServices
) -> None:
    services.catalogue.store(document())
    services.catalogue.versions *= 2  # the same document: somebody has published it
    services.catalogue.status = PUBLISHED
    body = problem(await admin.patch(f"{ONE}?version=1", json={"title": "x"}), 409, "EVENT_CHANGED")
    assert body["changes"] == [{"field": "status", "before": None, "after": "PUBLISHED"}]


async def test_the_version_counts_that_new_blocked_seats_are_shown(
    admin: httpx.AsyncClient, services: AdminServices
) -> None:
    done = (await admin.post("/admin/events", json=document(new=[9]))).json()
    assert services.house.blocked == {9}
    assert done["version"] == services.catalogue.version == 2
    again = await admin.patch(f"{ONE}?version={done['version']}", json={"title": "Lear"})
    assert again.is_success, again.text


async def test_what_was_blocked_for_a_lost_race_is_taken_back(
    admin: httpx.AsyncClient, services: AdminServices
) -> None:
    services.catalogue.store(document(blocked=[1]))
    services.catalogue.status = PUBLISHED
    services.house.blocked = {1}

    def somebody_else() -> None:
        services.house.blocked |= {2}
        services.catalogue.store(document(blocked=[1, 2]))

    services.steps.before["import"] = somebody_else
    response = await admin.post("/admin/events", json=document(blocked=[1, 2, 3], closed=True))
    body = problem(response, 409, "EVENT_CHANGED")
    assert body["version"] == 2
    # The other operator's seat stays, ours does not.
    assert services.house.blocked == {1, 2}
    assert not services.house.is_closed
    assert services.audit() == [("importEvent", "event hamlet", "EVENT_CHANGED")]


async def test_an_interrupted_change_is_completed_by_its_repetition(
    admin: httpx.AsyncClient, services: AdminServices
) -> None:
    services.catalogue.store(document())
    asked = document(blocked=[1])
    services.steps.failing["import"] = Unavailable("away")
    problem(await admin.post("/admin/events", json=asked), 503, "UNAVAILABLE")
    # It is unknown what was done: nothing is taken back.
    assert (services.house.blocked, services.catalogue.version) == ({1}, 1)
    assert (await admin.post("/admin/events", json=asked)).is_success
    assert (services.house.blocked, services.catalogue.version) == ({1}, 2)
    assert [entry[2] for entry in services.audit()] == ["UNAVAILABLE", "SUCCEEDED"]


async def test_a_merge_patch(admin: httpx.AsyncClient, services: AdminServices) -> None:
    services.catalogue.store(document(room={"name": "x", "size": 1}, tags=["a", "b"], old=1))
    patch = {"room": {"size": 2, "name": None}, "tags": ["c"], "old": None, "new": {"a": None}}
    done = await admin.patch(
        ONE, content=json.dumps(patch), headers={"Content-Type": "application/merge-patch+json"}
    )
    assert done.status_code == 200, done.text
    assert services.catalogue.versions[-1] == document(room={"size": 2}, tags=["c"], new={})
    assert services.audit() == [("changeEvent", "event hamlet", "SUCCEEDED")]
    problem(await admin.patch("/admin/events/none", json={}), 404, "EVENT_NOT_FOUND")
    assert fields(await admin.patch(ONE, json={"externalId": "other"})) == ["externalId"]
    assert fields(await admin.patch(ONE, json={"externalId": None})) == ["externalId"]
    assert fields(await admin.patch(ONE, json=[1])) == ["body"]
    headers = {"Content-Type": "application/json"}
    for bad in (b"", b"{", b"\xff", b"[" * 100_000):
        assert fields(await admin.patch(ONE, content=bad, headers=headers)) == ["body"]
    assert services.catalogue.version == 2


async def test_a_patch_without_version_is_made_on_the_newest_document(
    admin: httpx.AsyncClient, services: AdminServices
) -> None:
    services.catalogue.store(document())
    services.steps.before["import"] = lambda: services.catalogue.store(document(venue="Globe"))
    assert (await admin.patch(ONE, json={"title": "Lear"})).is_success
    assert services.catalogue.versions[-1] == document(title="Lear", venue="Globe")
    assert [entry[2] for entry in services.audit()] == ["EVENT_CHANGED", "SUCCEEDED"]


async def test_blocking_and_releasing_seats(
    admin: httpx.AsyncClient, services: AdminServices
) -> None:
    schedule = {"externalId": "first-night", "blocked": [{"section": "Stalls", "label": "A1"}]}
    services.catalogue.store(document(schedules=[{"externalId": "other"}, schedule]))
    seats = [{"section": "Stalls", "label": label} for label in ("A1", "B2")]
    asked = {"schedule": "first-night", "seats": seats}

    def blocked() -> Any:
        return services.catalogue.versions[-1]["schedules"][1]["blocked"]

    assert (await admin.post(f"{ONE}/seats/block", json=asked)).is_success
    assert blocked() == seats
    assert (await admin.post(f"{ONE}/seats/block", json=asked)).is_success
    assert blocked() == seats
    asked["seats"] = seats[:1]
    assert (await admin.post(f"{ONE}/seats/release", json=asked)).is_success
    assert blocked() == seats[1:]
    assert services.catalogue.versions[-1]["schedules"][0] == {"externalId": "other"}
    unknown = {"schedule": "second", "seats": seats}
    assert fields(await admin.post(f"{ONE}/seats/block", json=unknown)) == ["schedule"]
    for bad, field in (
        ({"seats": seats}, "schedule"),
        ({"schedule": 7, "seats": seats}, "schedule"),
        ({"schedule": "first-night", "seats": []}, "seats"),
        ({"schedule": "first-night", "seats": [{"section": "Stalls"}]}, "seats[0].label"),
        ({"schedule": "first-night", "seats": [seats[0] | {"x": 1}]}, "seats[0].x"),
    ):
        assert fields(await admin.post(f"{ONE}/seats/block", json=bad)) == [field]


async def test_publishing_blocks_first(admin: httpx.AsyncClient, services: AdminServices) -> None:
    services.catalogue.store(document(blocked=[1, 2]))
    services.house.taken = {2}
    problem(await admin.post(f"{ONE}/publish"), 409, "SEATS_TAKEN")
    assert services.catalogue.status != PUBLISHED
    services.house.taken = set()
    services.steps.clear()
    done = (await admin.post(f"{ONE}/publish")).json()
    assert (done["event"]["status"], services.house.blocked) == ("PUBLISHED", {1, 2})
    assert services.steps == [
        "audit",
        "plan-status",
        "block [1, 2]",
        "set-status",
        "outcome SUCCEEDED",
    ]


async def test_cancelling_closes_first_and_tells_of_the_buyers(
    admin: httpx.AsyncClient, services: AdminServices
) -> None:
    services.catalogue.store(document())
    services.catalogue.status = PUBLISHED
    done = (await admin.post(f"{ONE}/cancel")).json()
    assert services.steps[1:4] == ["plan-status", "close", "set-status"]
    assert (done["endedHolds"], done["paid"], done["payingReservationIds"]) == (2, 3, [11, 12])
    assert services.catalogue.status == CANCELLED
    problem(await admin.post(f"{ONE}/publish"), 409, "WRONG_EVENT_STATUS")
    problem(await admin.post("/admin/events/none/cancel"), 404, "EVENT_NOT_FOUND")


async def test_reading(admin: httpx.AsyncClient, services: AdminServices) -> None:
    assert (await admin.get("/admin/events")).json() == {"events": [], "nextPageToken": None}
    services.catalogue.store(document())
    services.catalogue.store(document(title="Lear"))
    (event,) = (await admin.get("/admin/events")).json()["events"]
    assert (event["externalId"], event["version"], event["scheduleIds"]) == ("hamlet", 2, [70])
    found = (await admin.get(ONE)).json()
    assert found == {"event": event, "document": document(title="Lear")}
    exported = await admin.get(f"{ONE}/document")
    assert (exported.json(), exported.headers["etag"]) == (document(title="Lear"), '"2"')
    older = await admin.get(f"{ONE}/document?version=1")
    assert (older.json(), older.headers["etag"]) == (document(), '"1"')
    problem(await admin.get("/admin/events/none"), 404, "EVENT_NOT_FOUND")
    assert services.operator_store.entries == []


async def test_buyers(admin: httpx.AsyncClient) -> None:
    found = (await admin.get("/admin/schedules/70/buyers?after=4&pageSize=10")).json()
    assert found["more"] is True
    (buyer,) = found["buyers"]
    assert (buyer["reservationId"], buyer["status"], buyer["seats"]) == (
        5,
        "CONFIRMED",
        ["A1", "A2"],
    )
    for bad, field in (
        ("/admin/schedules/0/buyers", "scheduleId"),
        ("/admin/schedules/x/buyers", "scheduleId"),
        (f"/admin/schedules/{2**63}/buyers", "scheduleId"),
        ("/admin/schedules/70/buyers?after=-1", "after"),
        ("/admin/schedules/70/buyers?pageSize=1001", "pageSize"),
        ("/admin/schedules/70/buyers?pageSize=0", "pageSize"),
        ("/admin/events?pageSize=101", "pageSize"),
        ("/admin/events?pageToken=" + "x" * 257, "pageToken"),
        ("/admin/audit?pageSize=x", "pageSize"),
    ):
        assert fields(await admin.get(bad)) == [field]


async def test_files(admin: httpx.AsyncClient, services: AdminServices) -> None:
    files = {"document": json.dumps(document()), "seatsCsv": "section,row\n"}
    assert (await admin.post("/admin/events/from-files", json=files)).is_success
    assert services.audit() == [("importFiles", "event hamlet", "SUCCEEDED")]
    for bad, field in (({"document": "{}"}, "seatsCsv"), (files | {"document": {}}, "document")):
        assert fields(await admin.post("/admin/events/from-files", json=bad)) == [field]


@pytest.mark.parametrize("path", ["/admin/events", "/admin/events/from-files"])
async def test_a_body_beyond_20_megabytes(admin: httpx.AsyncClient, path: str) -> None:
    headers = {"Content-Type": "application/json"}
    response = await admin.post(path, content=b" " * (20 * 2**20 + 1), headers=headers)
    problem(response, 413, "BODY_TOO_LARGE")
