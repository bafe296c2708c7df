"""GATEWAY_REENTRY_WITHOUT_TOKEN: who gets a live place again in the mode `open`."""

import time

import httpx
import pytest

from gateway.errors import TABLE
from tests.gateway.conftest import OpenGateway
from tests.gateway.fakes import Services, sign
from tests.gateway.problems import assert_problem

OTHER_KEY = "another secret that has 32 bytes or more"


@pytest.fixture
async def strict(open_gateway: OpenGateway) -> httpx.AsyncClient:
    return await open_gateway(reentry_without_token=False)


async def enter(
    gateway: httpx.AsyncClient, user_id: int = 42, token: str | None = None
) -> httpx.Response:
    headers = {} if token is None else {"X-Access-Token": token}
    return await gateway.post("/queues/enqueue", json={"userId": user_id}, headers=headers)


async def test_by_default_the_user_id_is_enough(
    client: httpx.AsyncClient, services: Services
) -> None:
    first, again = await enter(client), await enter(client)
    assert first.headers["X-Access-Token"] == again.headers["X-Access-Token"]
    for call in services.faults.of("EnterQueue"):
        (entrant,) = call.request.entrants
        assert not entrant.needs_proof
        assert entrant.attempt_id == ""


async def test_without_its_token_a_place_stays_its_owners(strict: httpx.AsyncClient) -> None:
    token = (await enter(strict)).headers["X-Access-Token"]
    body = assert_problem(await enter(strict), 403, "NOT_YOURS")
    assert body["title"] == TABLE["NOT_YOURS"].title
    again = await enter(strict, token=token)
    assert again.status_code == 201
    assert again.headers["X-Access-Token"] == token


async def test_a_genuine_token_counts_whatever_its_age(
    strict: httpx.AsyncClient, services: Services
) -> None:
    place = services.queue.enter(42)
    last_week = sign(place, iat=int(time.time()) - 7 * 86_400)
    assert (await enter(strict, token=last_week)).status_code == 201


async def test_other_tokens_prove_nothing(strict: httpx.AsyncClient, services: Services) -> None:
    place = services.queue.enter(42)
    ended = services.ended_token(43)
    another = services.token(44)
    for token in ("", "token", sign(place, OTHER_KEY), sign(place, iat=10**400), ended, another):
        assert_problem(await enter(strict, token=token), 403, "NOT_YOURS")


async def test_a_user_without_a_place_gets_one(
    strict: httpx.AsyncClient, services: Services
) -> None:
    for token in (None, "token", services.ended_token(42)):
        entered = await enter(strict, token=token)
        assert entered.status_code == 201
        services.queue.end(services.queue.enter(42).number)


async def test_the_openapi_document_names_the_header(
    strict: httpx.AsyncClient, client: httpx.AsyncClient
) -> None:
    for gateway, names in ((strict, ["X-Access-Token"]), (client, [])):
        spec = (await gateway.get("/openapi.json")).json()
        parameters = spec["paths"]["/queues/enqueue"]["post"]["parameters"]
        found = [parameter["name"] for parameter in parameters]
        assert found == [*names, "X-Challenge-Solution"]


async def test_each_request_is_an_attempt_of_its_own(
    strict: httpx.AsyncClient, services: Services
) -> None:
    for _ in range(3):
        await enter(strict)
    attempts = {call.request.entrants[0].attempt_id for call in services.faults.of("EnterQueue")}
    assert len(attempts) == 3
    assert all(len(attempt) == 32 for attempt in attempts)
