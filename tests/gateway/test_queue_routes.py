"""Entering, polling and leaving: the successful responses, field by field."""

import httpx
import jwt
import pytest

from servicekit.errors import ServiceError, TimedOut, Unavailable
from tests.gateway.conftest import OpenGateway
from tests.gateway.fakes import (
    CANCELLED,
    GIVEN_AT,
    HELD,
    KEY_ID,
    Services,
    sign,
)
from tests.gateway.fakes.tokens import token
from tests.gateway.polling import uncounted
from tests.gateway.problems import assert_problem

# The calls of leaving, in order.
LEAVING = ["CancelHolds", "LeaveQueue"]


class TestEnteringTheQueue:
    async def test_with_room_admits_at_once(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        services.queue.admitted_until_ms = 1_796_126_400_250
        response = await client.post("/queues/enqueue", json={"userId": 42})
        assert response.status_code == 201
        assert response.headers["content-type"] == "application/json"
        (place,) = services.queue.admitted.values()
        assert response.headers["X-Access-Token"] == sign(place)
        assert "Retry-After" not in response.headers
        assert uncounted(response) == {
            "order": 0,
            "pollAfterSeconds": 0,
            "estimatedWaitSeconds": 0,
            "admittedUntil": "2026-12-01T12:00:00.250Z",
            "recovering": False,
        }

    async def test_without_room_gives_a_waiting_place(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        services.queue.capacity = 0
        services.queue.enter(1)
        response = await client.post("/queues/enqueue", json={"userId": 42})
        assert response.status_code == 201
        assert response.headers["Retry-After"] == "3"  # 2.5 s, rounded up
        assert uncounted(response) == {
            "order": 2,
            "pollAfterSeconds": 2.5,
            "estimatedWaitSeconds": 2.468,
            "admittedUntil": None,
            "recovering": False,
        }

    async def test_repeated_returns_the_same_place(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        first = await client.post("/queues/enqueue", json={"userId": 42})
        again = await client.post("/queues/enqueue", json={"userId": 42})
        assert again.status_code == 201
        assert again.headers["X-Access-Token"] == first.headers["X-Access-Token"]
        assert len(services.queue.admitted) == 1

    async def test_needs_no_content_type(self, client: httpx.AsyncClient) -> None:
        response = await client.post("/queues/enqueue", content=b'{"userId": 42}')
        assert response.status_code == 201

    async def test_ignores_unknown_fields(self, client: httpx.AsyncClient) -> None:
        response = await client.post("/queues/enqueue", json={"userId": 42, "more": None})
        assert response.status_code == 201


class TestPollingTheOrder:
    async def test_of_a_waiting_place(self, client: httpx.AsyncClient, services: Services) -> None:
        services.queue.recovering = True
        response = await client.get("/queues/order", headers=token(services.waiting_token()))
        assert response.status_code == 200
        assert response.headers["Retry-After"] == "2"
        assert uncounted(response) == {
            "order": 1,
            "pollAfterSeconds": 1.5,
            "estimatedWaitSeconds": 1.234,
            "admittedUntil": None,
            "recovering": True,
        }

    async def test_an_admission_shows_at_once(
        self, open_gateway: OpenGateway, services: Services
    ) -> None:
        client = await open_gateway(admission_ttl_seconds=1)
        headers = token(services.waiting_token())
        assert (await client.get("/queues/order", headers=headers)).json()["order"] == 1
        services.queue.capacity = 1
        services.queue.end(0)
        assert (await client.get("/queues/order", headers=headers)).json()["order"] == 0

    async def test_of_an_ended_place(self, client: httpx.AsyncClient, services: Services) -> None:
        response = await client.get("/queues/order", headers=token(services.ended_token()))
        assert_problem(response, 401, "TOKEN_EXPIRED")


class TestLeavingTheQueue:
    async def test_admits_the_next_in_line(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        services.queue.capacity = 1
        leaver, next_one = token(services.token(1)), token(services.token(2))
        left = await client.delete("/queues/order", headers=leaver)
        assert (left.status_code, left.content) == (204, b"")
        assert (await client.get("/queues/order", headers=next_one)).json()["order"] == 0
        assert (await client.delete("/queues/order", headers=leaver)).status_code == 204

    async def test_leaving_ends_the_holds_first(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        place = services.queue.enter(42)
        hold = services.reservations.hold(42, 101)
        left = await client.delete("/queues/order", headers=token(sign(place)))
        assert left.status_code == 204
        assert hold.status == CANCELLED
        order = [call.method for call in services.faults.calls if call.method in LEAVING]
        assert order == LEAVING
        (call,) = services.faults.of("CancelHolds")
        assert call.request.user_id == 42
        assert call.request.admission.room == place.room
        assert call.request.admission.place_number == place.number

    @pytest.mark.parametrize("error", [Unavailable("no"), TimedOut("no")])
    async def test_if_the_holds_do_not_end_the_place_stays(
        self, client: httpx.AsyncClient, services: Services, error: ServiceError
    ) -> None:
        headers = token(services.token(42))
        services.faults.errors["CancelHolds"] = error
        response = await client.delete("/queues/order", headers=headers)
        assert_problem(response, 503, "UNAVAILABLE", 1)
        assert not services.faults.of("LeaveQueue")
        assert (await client.get("/queues/order", headers=headers)).json()["order"] == 0

    async def test_leaving_keeps_the_holds_if_so_configured(
        self, open_gateway: OpenGateway, services: Services
    ) -> None:
        client = await open_gateway(leaving_ends_holds=False)
        hold = services.reservations.hold(42, 101)
        left = await client.delete("/queues/order", headers=token(services.token(42)))
        assert (left.status_code, hold.status) == (204, HELD)
        assert not services.faults.of("CancelHolds")

    async def test_ends_the_cached_admission_at_once(
        self, open_gateway: OpenGateway, services: Services
    ) -> None:
        client = await open_gateway(admission_ttl_seconds=1)
        headers = token(services.token())
        assert (await client.get("/concerts", headers=headers)).status_code == 200
        await client.delete("/queues/order", headers=headers)
        assert_problem(await client.get("/concerts", headers=headers), 401, "TOKEN_EXPIRED")


def test_the_tokens_of_the_fakes_have_the_claims_of_the_contract(services: Services) -> None:
    place = services.queue.enter(42)
    text = sign(place)
    assert jwt.get_unverified_header(text)["kid"] == KEY_ID
    assert jwt.decode(text, options={"verify_signature": False}) == {
        "room": "main",
        "place": place.number,
        "user": 42,
        "epoch": 1,
        "iat": GIVEN_AT,
    }
