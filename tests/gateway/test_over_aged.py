"""A genuine token beyond its greatest age: replaced where the place lives, expired elsewhere."""

import time
from typing import Any

import httpx
import jwt
import pytest

from protos.frontrow.queue.v1 import queue_pb2
from tests.gateway.conftest import OpenGateway
from tests.gateway.fakes import KEY_ID, KEYS, Services, sign
from tests.gateway.problems import assert_problem

YESTERDAY = int(time.time()) - 90_000
ROUTES: list[tuple[str, str, Any, int]] = [
    ("GET", "/queues/order", None, 200),
    ("DELETE", "/queues/order", None, 204),
    ("GET", "/concerts", None, 200),
    ("GET", "/concerts/1/schedules", None, 200),
    ("GET", "/concerts/schedules/11/seats", None, 200),
    ("POST", "/concerts/reservation", {"userId": 42, "concertSeatId": 102}, 200),
    ("POST", "/concerts/reservations/1/pay", {"userId": 42}, 200),
    ("GET", "/concerts/reservations/1", None, 200),
    ("DELETE", "/concerts/reservations/1", None, 204),
]


def old_token(services: Services) -> tuple[queue_pb2.Place, dict[str, str]]:
    place = services.queue.enter(42)
    return place, {"X-Access-Token": sign(place, iat=YESTERDAY)}


def assert_fresh(response: httpx.Response, place: queue_pb2.Place) -> None:
    token = response.headers["X-Access-Token"]
    claims = jwt.decode(token, KEYS[KEY_ID], algorithms=["HS256"])
    assert (claims["place"], claims["user"]) == (place.number, 42)
    assert claims["iat"] > time.time() - 60


@pytest.mark.parametrize(("method", "path", "body", "status"), ROUTES)
class TestEveryRoute:
    async def test_a_live_place_gets_a_fresh_token(
        self,
        client: httpx.AsyncClient,
        services: Services,
        method: str,
        path: str,
        body: Any,
        status: int,
    ) -> None:
        place, headers = old_token(services)
        if "reservations/" in path:
            services.reservations.hold(42, 101)
        response = await client.request(method, path, headers=headers, json=body)
        assert response.status_code == status
        assert_fresh(response, place)

    async def test_an_ended_place_has_expired(
        self,
        client: httpx.AsyncClient,
        services: Services,
        method: str,
        path: str,
        body: Any,
        status: int,
    ) -> None:
        place, headers = old_token(services)
        services.queue.end(place.number)
        services.reservations.hold(42, 101)
        response = await client.request(method, path, headers=headers, json=body)
        assert_problem(response, 401, "TOKEN_EXPIRED")
        assert "X-Access-Token" not in response.headers
        assert [call.method for call in services.faults.calls] == ["GetPositions"]


async def test_an_error_carries_it_too(client: httpx.AsyncClient, services: Services) -> None:
    services.queue.capacity = 0
    place, headers = old_token(services)
    waiting = await client.get("/concerts", headers=headers)
    assert_problem(waiting, 403, "STILL_WAITING", retry_after=2)
    assert_fresh(waiting, place)
    missing = await client.get("/concerts/reservations/9", headers=headers)
    assert_problem(missing, 404, "RESERVATION_NOT_FOUND")
    assert_fresh(missing, place)


async def test_the_fresh_token_costs_no_further_call(
    client: httpx.AsyncClient, services: Services
) -> None:
    _, headers = old_token(services)
    fresh = (await client.get("/queues/order", headers=headers)).headers["X-Access-Token"]
    services.faults.calls.clear()
    services.reservations.hold(42, 101)
    response = await client.get("/concerts/reservations/1", headers={"X-Access-Token": fresh})
    assert response.status_code == 200
    assert "X-Access-Token" not in response.headers
    assert [call.method for call in services.faults.calls] == ["GetReservation"]


async def test_early_polls_with_an_over_aged_token_cost_no_call(
    open_gateway: OpenGateway, services: Services
) -> None:
    """A client that never adopts the fresh token must not be able to poll as often as it likes."""
    gateway = await open_gateway(enforce_pace=True)
    services.queue.capacity = 0
    for user in range(1_001, 1_201):
        services.queue.enter(user)
    place, headers = old_token(services)
    first = await gateway.get("/queues/order", headers=headers)
    assert_fresh(first, place)
    assert len(services.faults.of("GetPositions")) == 1
    for _ in range(10):
        again = await gateway.get("/queues/order", headers=headers)
        assert again.json()["order"] == first.json()["order"]
        refused = await gateway.get("/concerts", headers=headers)
        assert_problem(refused, 403, "STILL_WAITING", retry_after=202)
    assert len(services.faults.of("GetPositions")) == 1


async def test_a_poll_with_an_over_aged_token_is_one_call(
    client: httpx.AsyncClient, services: Services
) -> None:
    _, headers = old_token(services)
    await client.get("/queues/order", headers=headers)
    assert [call.method for call in services.faults.calls] == ["GetPositions"]


async def test_a_cached_admission_does_not_hide_it(
    open_gateway: OpenGateway, services: Services
) -> None:
    gateway = await open_gateway(admission_ttl_seconds=1)
    place, headers = old_token(services)
    for _ in range(2):
        assert_fresh(await gateway.get("/concerts", headers=headers), place)


async def test_entering_again_returns_a_fresh_token(
    client: httpx.AsyncClient, services: Services
) -> None:
    services.queue.given_at = YESTERDAY
    place = services.queue.enter(42)
    entered = await client.post("/queues/enqueue", json={"userId": 42})
    assert_fresh(entered, place)
    order = await client.get(
        "/queues/order", headers={"X-Access-Token": entered.headers["X-Access-Token"]}
    )
    assert order.status_code == 200


async def test_while_the_room_is_unavailable_it_is_neither(
    client: httpx.AsyncClient, services: Services
) -> None:
    _, headers = old_token(services)
    services.faults.errors["GetPositions"] = RuntimeError("broken")
    response = await client.get("/concerts/reservations/1", headers=headers)
    assert_problem(response, 500, "INTERNAL")
    assert services.faults.of("GetReservation") == []
