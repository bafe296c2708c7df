"""Keys, roles, and the limit of wrong keys."""

import asyncio

import httpx
import pytest
from starlette.types import Scope

from concert_service.operators.domain import Role
from gateway.admin.access import CACHE_SECONDS, WRONG_KEYS, WRONG_SECONDS, Keys, WrongKeys
from gateway.admin.clients import AdminClients
from gateway.admin.errors import KeyRequired
from gateway.errors import TooManyRequests
from gateway.settings import Settings
from gateway.sources import Sources
from servicekit.rpc_errors import RemoteError
from tests.gateway.admin.conftest import OpenClient
from tests.gateway.admin.fakes import AdminServices
from tests.gateway.admin.problems import fields, problem


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


BAD_AUTHORIZATIONS = (
    "",
    "Bearer",
    "Bearer ",
    "Bearer frk_unknown",
    "Basic YWRhOmFkYQ==",
    "frk_unknown",
    "Bearer " + "x" * 300,
)


async def test_without_a_valid_key(open_client: OpenClient) -> None:
    for authorization in BAD_AUTHORIZATIONS:
        client = await open_client(authorization=authorization)
        response = await client.get("/admin/rooms")
        problem(response, 401, "INVALID_KEY")
        assert response.headers["www-authenticate"] == "Bearer"
        # Before anything else is told, also whether a path exists.
        problem(await client.get("/admin/nothing"), 401, "INVALID_KEY")
        problem(await client.put("/admin/rooms/x", content=b"{"), 401, "INVALID_KEY")


async def test_the_documentation_needs_no_key(open_client: OpenClient) -> None:
    client = await open_client()
    assert (await client.get("/docs")).status_code == 200
    document = (await client.get("/openapi.json")).json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert (await client.get("/static-offline-docs/swagger-ui.css")).status_code == 200


# The operations of each role, beside those of the roles before it. A new one must be added.
READING = """
    listEvents getEvent exportEvent listBuyers listRooms getRoom countRoom listAuditEntries
"""
CHANGING = """
    importEvent importFiles changeEvent blockSeats releaseSeats publishEvent cancelEvent
    archiveEvent putRoom removeRoom pauseRoom resumeRoom drainRoom reopenRoom bypassRoom closeRoom
    setMessage setPublicValue
"""
MANAGING = "listKeys createKey revokeKey"
ROLES = {
    name: role
    for role, names in zip(Role, (READING, CHANGING, MANAGING), strict=True)
    for name in names.split()
}
BODIES = {
    "importFiles": {"document": "{}", "seatsCsv": ""},
    "blockSeats": {"schedule": "s", "seats": [{"section": "a", "label": "b"}]},
    "releaseSeats": {"schedule": "s", "seats": [{"section": "a", "label": "b"}]},
    "putRoom": {"capacity": 1},
    "setMessage": {"message": ""},
    "setPublicValue": {"value": "7"},
    "createKey": {"name": "Bob", "role": "VIEWER"},
}


async def test_each_operation_asks_for_its_role(
    open_client: OpenClient, services: AdminServices
) -> None:
    clients = {role: await open_client(role) for role in Role}
    document = (await clients[Role.ADMIN].get("/openapi.json")).json()
    operations = {
        operation["operationId"]: (method.upper(), path)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert operations.keys() == ROLES.keys()
    order = list(Role)
    for name, (method, path) in operations.items():
        body = BODIES.get(name, {} if method in ("POST", "PATCH") else None)
        path = path.replace("{scheduleId}", "70").replace("{keyId}", "999").replace("{", "x")
        for role, client in clients.items():
            services.steps.clear()
            response = await client.request(method, path.replace("}", ""), json=body)
            allowed = order.index(role) >= order.index(ROLES[name])
            assert (response.status_code != 403) == allowed, (name, role, response.text)
            if not allowed:
                problem(response, 403, "ROLE_REQUIRED")
                assert services.steps == []


async def test_a_revoked_key_ends(admin: httpx.AsyncClient, services: AdminServices) -> None:
    created = (await admin.post("/admin/keys", json={"name": "Bob", "role": "ADMIN"})).json()
    bearer = {"Authorization": f"Bearer {created['secret']}"}
    revoked = await admin.post(f"/admin/keys/{created['key']['id']}/revoke")
    assert "revokedAt" in revoked.json()
    problem(await admin.get("/admin/rooms", headers=bearer), 401, "INVALID_KEY")
    problem(await admin.post("/admin/keys/999/revoke"), 404, "KEY_NOT_FOUND")
    assert created["secret"] not in repr(services.operator_store.entries)
    listed = (await admin.get("/admin/keys")).text
    assert created["secret"] not in listed
    assert [entry[0] for entry in services.audit()] == ["createKey", "revokeKey", "revokeKey"]


BAD_KEYS: list[tuple[dict[str, object], str]] = [
    ({"role": "VIEWER"}, "name"),
    ({"name": "", "role": "VIEWER"}, "name"),
    ({"name": "x" * 65, "role": "VIEWER"}, "name"),
    ({"name": 7, "role": "VIEWER"}, "name"),
    ({"name": "a\nb", "role": "VIEWER"}, "name"),
    ({"name": "Bob"}, "role"),
    ({"name": "Bob", "role": "viewer"}, "role"),
    ({"name": "Bob", "role": "ROOT"}, "role"),
    ({"name": "Bob", "role": "VIEWER", "secret": "mine"}, "secret"),
]


async def test_bad_keys(admin: httpx.AsyncClient, services: AdminServices) -> None:
    for body, field in BAD_KEYS:
        assert fields(await admin.post("/admin/keys", json=body)) == [field], body
    assert len(services.operator_store.by_hash) == 1


SCOPE: Scope = {"type": "http", "client": ("10.0.0.1", 5), "headers": []}


async def test_a_valid_key_is_asked_for_every_few_seconds(
    services: AdminServices, admin_settings: Settings
) -> None:
    clock = Clock()
    clients = AdminClients(admin_settings)
    keys = Keys(clients, Sources(()), clock)
    secret = await services.key(Role.VIEWER)
    for _ in range(5):
        await keys.operator_of(secret, SCOPE)
    assert services.operator_store.uses == 1
    await services.operators.revoke_key(1)
    clock.seconds += CACHE_SECONDS + 0.1
    assert CACHE_SECONDS <= 10
    with pytest.raises(KeyRequired):
        await keys.operator_of(secret, SCOPE)
    await clients.close()


async def test_wrong_keys_close_their_source_only(
    open_client: OpenClient, services: AdminServices
) -> None:
    known = await open_client(Role.VIEWER, address="10.0.0.1")
    assert (await known.get("/admin/rooms")).status_code == 200
    wrong = await open_client(authorization="Bearer frk_wrong", address="10.0.0.1")
    # Many at once are no more guesses than one after another.
    guesses = [{"Authorization": f"Bearer frk_{number}"} for number in range(100)]
    answers = await asyncio.gather(*(wrong.get("/admin/rooms", headers=g) for g in guesses))
    statuses = [response.status_code for response in answers]
    assert (statuses.count(401), statuses.count(429)) == (WRONG_KEYS, 100 - WRONG_KEYS)
    assert services.operator_store.uses == 1 + WRONG_KEYS
    refused = await wrong.get("/admin/rooms")
    problem(refused, 429, "TOO_MANY_REQUESTS")
    assert refused.headers["retry-after"] == str(WRONG_SECONDS)
    # A right key cannot be found out meanwhile, but one that is known goes on.
    fresh = await open_client(Role.VIEWER, address="10.0.0.1")
    assert (await fresh.get("/admin/rooms")).status_code == 429
    assert (await known.get("/admin/rooms")).status_code == 200
    elsewhere = await open_client(Role.VIEWER, address="10.0.0.2")
    assert (await elsewhere.get("/admin/rooms")).status_code == 200


async def test_many_requests_at_once_with_one_key_are_one_guess(
    open_client: OpenClient, services: AdminServices
) -> None:
    client = await open_client(Role.VIEWER)
    answers = await asyncio.gather(*(client.get("/admin/rooms") for _ in range(3 * WRONG_KEYS)))
    assert {response.status_code for response in answers} == {200}
    assert services.operator_store.uses == 1


async def test_others_at_the_same_address_lock_no_operator_out(
    services: AdminServices, admin_settings: Settings
) -> None:
    clock = Clock()
    clients = AdminClients(admin_settings)
    keys = Keys(clients, Sources(()), clock)
    secret = await services.key(Role.VIEWER)
    await keys.operator_of(secret, SCOPE)
    for number in range(WRONG_KEYS):
        with pytest.raises(KeyRequired):
            await keys.operator_of(f"frk_{number}", SCOPE)
    clock.seconds += CACHE_SECONDS + 0.1
    assert (await keys.operator_of(secret, SCOPE)).name == "Ada"
    # A revoked key is a guess like any other.
    await services.operators.revoke_key(1)
    clock.seconds += CACHE_SECONDS + 0.1
    with pytest.raises(KeyRequired):
        await keys.operator_of(secret, SCOPE)
    with pytest.raises(TooManyRequests):
        await keys.operator_of(secret, SCOPE)
    await clients.close()


def test_the_source_opens_after_a_minute_without_wrong_keys() -> None:
    clock = Clock()
    limit = WrongKeys(clock)
    for _ in range(WRONG_KEYS):
        limit.count("a")
    for _ in range(3):
        clock.seconds += WRONG_SECONDS / 4
        with pytest.raises(TooManyRequests):
            limit.count("a")
    clock.seconds += WRONG_SECONDS / 4
    limit.count("a")


def test_right_keys_do_not_count() -> None:
    limit = WrongKeys(Clock())
    for _ in range(WRONG_KEYS - 1):
        limit.count("a")
    for _ in range(100):
        limit.count("a")
        limit.take_back("a")
    limit.count("a")
    with pytest.raises(TooManyRequests):
        limit.count("a")


async def test_an_outage_is_no_wrong_key(services: AdminServices, admin_settings: Settings) -> None:
    await services.stop()
    clients = AdminClients(admin_settings)
    keys = Keys(clients, Sources(()))
    for _ in range(WRONG_KEYS + 1):
        with pytest.raises(RemoteError) as error:
            await keys.operator_of("frk_any", SCOPE)
        assert error.value.code == "UNAVAILABLE"
    await clients.close()
