"""What the middleware adds to every request, and the problems of unknown paths and methods."""

import httpx
import pytest
from prometheus_client import REGISTRY
from starlette.types import Message, Receive, Scope, Send

from gateway.middleware.errors import ErrorMiddleware
from tests.gateway.fakes import Services, service_error
from tests.gateway.problems import assert_problem


class TestTheRequestId:
    @pytest.mark.parametrize("request_id", ["a", "A-1._z", "x" * 64])
    async def test_of_the_client_is_used(
        self, client: httpx.AsyncClient, services: Services, request_id: str
    ) -> None:
        headers = {"X-Request-Id": request_id, "X-Access-Token": services.token()}
        response = await client.get("/queues/order", headers=headers)
        assert response.headers["X-Request-Id"] == request_id

    @pytest.mark.parametrize("request_id", [None, "", "x" * 65, "a b", "a\tb", "ünï", '"', "a,b"])
    async def test_is_created_otherwise(
        self, client: httpx.AsyncClient, request_id: str | None
    ) -> None:
        sent = {} if request_id is None else {b"X-Request-Id": request_id.encode("latin-1")}
        first = await client.get("/nowhere", headers=sent)
        second = await client.get("/nowhere", headers=sent)
        assert len(first.headers["X-Request-Id"]) == 32
        assert first.headers["X-Request-Id"] != second.headers["X-Request-Id"]
        assert_problem(first, 404, "NOT_FOUND")

    async def test_is_sent_to_every_service(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        services.reservations.hold(42, 101)
        requests = [
            ("POST", "/queues/enqueue", {"userId": 42}),
            ("GET", "/concerts/schedules/11/seats", None),
            ("POST", "/concerts/reservations/1/pay", {"userId": 42}),
        ]
        for number, (method, path, body) in enumerate(requests):
            headers = {"X-Request-Id": f"request-{number}", "X-Access-Token": services.token(42)}
            await client.request(method, path, json=body, headers=headers)
        assert {(call.request_id, call.method) for call in services.faults.calls} == {
            ("request-0", "EnterQueue"),
            ("request-1", "GetPositions"),
            ("request-1", "GetSeatMaps"),
            ("request-1", "GetTakenSeats"),
            ("request-2", "GetPositions"),
            ("request-2", "Pay"),
        }

    async def test_is_part_of_an_internal_error(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        services.faults.errors["ListConcerts"] = RuntimeError()
        headers = {"X-Request-Id": "mine", "X-Access-Token": services.token()}
        response = await client.get("/concerts", headers=headers)
        assert assert_problem(response, 500, "INTERNAL")["requestId"] == "mine"


PATHS = pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/queues/enqueue", "OPTIONS, POST"),
        ("/queues/order", "DELETE, GET, HEAD, OPTIONS"),
        ("/concerts", "GET, HEAD, OPTIONS"),
        ("/concerts/1/schedules", "GET, HEAD, OPTIONS"),
        ("/concerts/schedules/11/seats", "GET, HEAD, OPTIONS"),
        ("/concerts/reservation", "OPTIONS, POST"),
        ("/concerts/reservations/1/pay", "OPTIONS, POST"),
        ("/concerts/reservations/1", "DELETE, GET, HEAD, OPTIONS"),
        ("/health/live", "GET, HEAD, OPTIONS"),
        ("/health/ready", "GET, HEAD, OPTIONS"),
        ("/docs", "GET, HEAD, OPTIONS"),
        ("/openapi.json", "GET, HEAD, OPTIONS"),
        ("/static-offline-docs/swagger-ui.css", "GET, HEAD, OPTIONS"),
    ],
)


class TestPathsAndMethods:
    @pytest.mark.parametrize(
        "path",
        [
            "/",
            "/nowhere",
            "/concerts/",
            "/queues/order/",
            "/queues//order",
            "/concerts/1",
            "/concerts//schedules",
            "/concerts/1/schedules/2",
            "/concerts/1%2F2/schedules",
            "/concerts/reservations//pay",
            "/health",
            "/static-offline-docs/../gateway",
        ],
    )
    @pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "OPTIONS"])
    async def test_an_unknown_path_is_not_found(
        self, client: httpx.AsyncClient, method: str, path: str
    ) -> None:
        assert_problem(await client.request(method, path), 404, "NOT_FOUND")

    @PATHS
    async def test_a_wrong_method_gets_the_allowed_ones(
        self, client: httpx.AsyncClient, path: str, allowed: str
    ) -> None:
        methods = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"}
        for method in methods.difference(allowed.split(", ")):
            response = await client.request(method, path)
            assert response.status_code == 405
            assert response.headers["Allow"] == allowed
            if method != "HEAD":
                assert_problem(response, 405, "METHOD_NOT_ALLOWED")

    @PATHS
    async def test_options_returns_the_allowed_methods(
        self, client: httpx.AsyncClient, path: str, allowed: str
    ) -> None:
        response = await client.options(path)
        assert (response.status_code, response.content) == (204, b"")
        assert response.headers["Allow"] == allowed

    @pytest.mark.parametrize(
        "path",
        [
            "/queues/order",
            "/concerts",
            "/concerts/1/schedules",
            "/concerts/schedules/11/seats",
            "/concerts/reservations/1",
            "/health/live",
            "/health/ready",
            "/docs",
            "/openapi.json",
            "/static-offline-docs/swagger-ui.css",
        ],
    )
    @pytest.mark.parametrize("genuine", [True, False])
    async def test_head_is_get_without_a_body(
        self, client: httpx.AsyncClient, services: Services, path: str, genuine: bool
    ) -> None:
        services.reservations.hold(42, 101)
        headers = {"X-Access-Token": services.token(42) if genuine else "x", "X-Request-Id": "x"}
        got = await client.get(path, headers=headers)
        head = await client.head(path, headers=headers)
        assert head.status_code == got.status_code
        assert head.headers == got.headers
        assert head.content == b""
        assert int(head.headers["Content-Length"]) == len(got.content) > 0

    async def test_a_query_does_not_change_the_route(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        response = await client.get(
            "/queues/order?x=1", headers={"X-Access-Token": services.token()}
        )
        assert response.status_code == 200


async def test_requests_are_counted_by_route(client: httpx.AsyncClient, services: Services) -> None:
    def count(route: str, status: int) -> float:
        labels = {"route": route, "status": str(status)}
        return REGISTRY.get_sample_value("http_requests_total", labels) or 0.0

    cases = [
        ("/concerts/schedules/11/seats", "/concerts/schedules/{scheduleId}/seats", 200),
        ("/concerts/schedules/x/seats", "/concerts/schedules/{scheduleId}/seats", 422),
        ("/concerts/reservations/7", "/concerts/reservations/{reservationId}", 404),
        ("/nowhere/7", "other", 404),
    ]
    for path, route, status in cases:
        before = count(route, status)
        await client.get(path, headers={"X-Access-Token": services.token()})
        assert count(route, status) == before + 1, path


async def test_an_error_after_the_response_has_started_sends_nothing_more(
    client: httpx.AsyncClient, services: Services
) -> None:

    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise service_error("SEAT_HELD")

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    await ErrorMiddleware(app)(
        {"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send
    )
    assert [message["type"] for message in sent] == ["http.response.start"]
