"""Every error that a client can get: the rows of the table, provoked over HTTP."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import grpc
import httpx
import pytest

from gateway.errors import TABLE
from gateway.middleware import errors
from seat_maps.decoding import MAX_RESPONSE_BYTES
from servicekit import call_context, rpc_errors
from servicekit.errors import (
    Conflict,
    Declined,
    Exhausted,
    Gone,
    InvalidRequest,
    NotFound,
    ServiceError,
    TimedOut,
    Unavailable,
)
from tests.gateway.conftest import OpenGateway
from tests.gateway.fakes import Services, service_error
from tests.gateway.problems import assert_problem

# For each RPC a request that calls it.
REQUESTS = {
    "EnterQueue": ("POST", "/queues/enqueue", {"userId": 42}),
    "GetPositions": ("GET", "/queues/order", None),
    "LeaveQueue": ("DELETE", "/queues/order", None),
    "ListConcerts": ("GET", "/concerts", None),
    "ListSchedules": ("GET", "/concerts/1/schedules", None),
    "CountSoldSeats": ("GET", "/concerts/1/schedules", None),
    "GetSeatMaps": ("GET", "/concerts/schedules/11/seats", None),
    "GetTakenSeats": ("GET", "/concerts/schedules/11/seats", None),
    "HoldSeats": ("POST", "/concerts/reservation", {"userId": 42, "concertSeatId": 101}),
    "GetReservation": ("GET", "/concerts/reservations/1", None),
    "CancelReservation": ("DELETE", "/concerts/reservations/1", None),
    "Pay": ("POST", "/concerts/reservations/1/pay", {"userId": 42}),
}
SECRET = "SELECT * FROM seats; host db-7.internal"


async def ask(client: httpx.AsyncClient, services: Services, method: str) -> httpx.Response:
    """Sends the request that calls this RPC, as user 42, who is admitted."""
    verb, path, body = REQUESTS[method]
    return await client.request(
        verb, path, json=body, headers={"X-Access-Token": services.token(42)}
    )


def fail(services: Services, method: str, error: ServiceError) -> None:
    """Lets this RPC fail; of an RPC for several items, each item."""
    errors = services.faults.item_errors if method == "HoldSeats" else services.faults.errors
    errors[method] = error


class TestErrorsOfAService:
    """One row of the contract's table each: RPC, code, kind, status, Retry-After."""

    @pytest.mark.parametrize(
        ("method", "code", "kind", "status", "retry_after"),
        [
            ("ListSchedules", "CONCERT_NOT_FOUND", NotFound, 404, None),
            ("GetSeatMaps", "SCHEDULE_NOT_FOUND", NotFound, 404, None),
            ("HoldSeats", "SEAT_NOT_FOUND", NotFound, 404, None),
            ("HoldSeats", "SCHEDULE_NOT_FOUND", NotFound, 404, None),
            ("HoldSeats", "SEAT_HELD", Conflict, 409, None),
            ("HoldSeats", "SEAT_SOLD", Conflict, 409, None),
            ("HoldSeats", "SINGLE_SEAT_LEFT", Conflict, 409, None),
            ("HoldSeats", "NOT_ENOUGH_SEATS", Conflict, 409, None),
            ("HoldSeats", "TOO_MANY_SEATS", Conflict, 409, None),
            ("HoldSeats", "IDEMPOTENCY_KEY_REUSED", InvalidRequest, 422, None),
            ("HoldSeats", "IN_PROGRESS", Conflict, 409, 1),
            ("HoldSeats", "PAYMENT_IN_PROGRESS", Conflict, 409, 1),
            ("HoldSeats", "TOKEN_EXPIRED", Gone, 401, None),
            ("HoldSeats", "UNAVAILABLE", Unavailable, 503, 1),
            ("HoldSeats", "TIMEOUT", TimedOut, 504, 1),
            ("Pay", "RESERVATION_NOT_FOUND", NotFound, 404, None),
            ("Pay", "NOT_YOURS", Conflict, 403, None),
            ("Pay", "RESERVATION_EXPIRED", Gone, 410, None),
            ("Pay", "PAYMENT_DECLINED", Declined, 402, None),
            ("Pay", "ALREADY_PAID", Conflict, 409, None),
            ("Pay", "IDEMPOTENCY_KEY_REUSED", InvalidRequest, 422, None),
            ("Pay", "IN_PROGRESS", Conflict, 409, 1),
            ("Pay", "PAYMENT_IN_PROGRESS", Conflict, 409, 1),
            ("Pay", "TOKEN_EXPIRED", Gone, 401, None),
            ("GetReservation", "RESERVATION_NOT_FOUND", NotFound, 404, None),
            ("CancelReservation", "RESERVATION_NOT_FOUND", NotFound, 404, None),
            ("CancelReservation", "PAYMENT_IN_PROGRESS", Conflict, 409, 1),
            ("CancelReservation", "ALREADY_PAID", Conflict, 409, None),
        ],
    )
    async def test_reaches_the_client(
        self,
        client: httpx.AsyncClient,
        services: Services,
        method: str,
        code: str,
        kind: type[ServiceError],
        status: int,
        retry_after: int | None,
    ) -> None:
        fail(services, method, service_error(code, kind, "A sentence for a person."))
        response = await ask(client, services, method)
        body = assert_problem(response, status, code, retry_after)
        assert body["detail"] == "A sentence for a person."

    @pytest.mark.parametrize("code", sorted(TABLE))
    async def test_every_code_of_the_table_reaches_the_client(
        self,
        services: Services,
        client: httpx.AsyncClient,
        code: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setitem(client.event_hooks, "response", [])  # no route declares every code
        services.faults.item_errors["HoldSeats"] = service_error(code)
        response = await ask(client, services, "HoldSeats")
        assert (response.status_code, response.json()["code"]) == (TABLE[code].status, code)
        assert response.json()["title"] == TABLE[code].title
        assert response.headers.get("Retry-After") == (str(TABLE[code].retry_after or "") or None)

    async def test_a_code_that_is_not_in_the_table_is_masked(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        services.faults.item_errors["HoldSeats"] = service_error("NEW_CODE", Conflict, SECRET)
        response = await ask(client, services, "HoldSeats")
        assert_problem(response, 500, "INTERNAL")
        assert SECRET not in response.text

    async def test_metadata_does_not_reach_the_client(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        services.faults.item_errors["HoldSeats"] = service_error(
            "SEAT_HELD", Conflict, code="x", status="y", allow="z", shard="db-7"
        )
        response = await ask(client, services, "HoldSeats")
        assert_problem(response, 409, "SEAT_HELD")
        assert "db-7" not in response.text


class TestTheWaitingRoom:
    @pytest.mark.parametrize(("code", "status"), [("QUEUE_FULL", 429), ("QUEUE_PAUSED", 503)])
    async def test_closed_to_new_users(
        self, client: httpx.AsyncClient, services: Services, code: str, status: int
    ) -> None:
        services.queue.closed = code
        response = await client.post("/queues/enqueue", json={"userId": 42})
        assert_problem(response, status, code, 10)
        assert "X-Access-Token" not in response.headers

    async def test_one_ended_place_does_not_fail_the_batch(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        services.faults.delays["EnterQueue"] = 0.02
        inside = services.token(1)
        responses = await asyncio.gather(
            *(client.post("/queues/enqueue", json={"userId": user}) for user in range(2, 12)),
            client.get("/queues/order", headers={"X-Access-Token": inside}),
        )
        assert [response.status_code for response in responses] == [201] * 10 + [200]

    @pytest.mark.parametrize(
        "method", ["ListConcerts", "ListSchedules", "GetSeatMaps", "HoldSeats", "Pay"]
    )
    async def test_a_waiting_place_is_refused(
        self, client: httpx.AsyncClient, services: Services, method: str
    ) -> None:
        services.queue.capacity = 0
        services.queue.enter(1)
        response = await ask(client, services, method)
        body = assert_problem(response, 403, "STILL_WAITING", 3)
        assert body["order"] == 2
        assert services.faults.of(method) == []

    @pytest.mark.parametrize(
        "method", ["ListConcerts", "ListSchedules", "GetSeatMaps", "HoldSeats"]
    )
    async def test_an_ended_place_is_refused(
        self, client: httpx.AsyncClient, services: Services, method: str
    ) -> None:
        verb, path, body = REQUESTS[method]
        headers = {"X-Access-Token": services.ended_token(42)}
        response = await client.request(verb, path, json=body, headers=headers)
        assert_problem(response, 401, "TOKEN_EXPIRED")
        assert services.faults.of(method) == []

    @pytest.mark.parametrize("method", ["HoldSeats", "Pay"])
    async def test_the_token_of_another_user_is_refused(
        self, client: httpx.AsyncClient, services: Services, method: str
    ) -> None:
        verb, path, body = REQUESTS[method]
        headers = {"X-Access-Token": services.token(43)}
        response = await client.request(verb, path, json=body, headers=headers)
        assert_problem(response, 403, "NOT_YOURS")
        assert services.faults.of(method) == []

    async def test_the_reservation_of_another_user_cannot_be_paid(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        services.reservations.hold(43, 101)
        assert_problem(await ask(client, services, "Pay"), 403, "NOT_YOURS")

    async def test_the_payment_of_another_user_is_not_shown(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        services.reservations.hold(43, 101)
        pay = "/concerts/reservations/1/pay"
        await client.post(pay, json={"userId": 43}, headers={"X-Access-Token": services.token(43)})
        headers = {"X-Access-Token": services.ended_token(42)}
        response = await client.post(pay, json={"userId": 42}, headers=headers)
        assert_problem(response, 403, "NOT_YOURS")


@pytest.mark.parametrize("method", REQUESTS)
class TestAFailingService:
    async def test_unavailable(
        self, client: httpx.AsyncClient, services: Services, method: str
    ) -> None:
        services.faults.errors[method] = Unavailable("The store is unavailable.")
        assert_problem(await ask(client, services, method), 503, "UNAVAILABLE", 1)

    async def test_timed_out(
        self, client: httpx.AsyncClient, services: Services, method: str
    ) -> None:
        services.faults.errors[method] = TimedOut("The store took too long.")
        assert_problem(await ask(client, services, method), 504, "TIMEOUT", 1)

    async def test_a_defect_is_masked(
        self, client: httpx.AsyncClient, services: Services, method: str
    ) -> None:
        services.faults.errors[method] = RuntimeError(SECRET)
        response = await ask(client, services, method)
        assert_problem(response, 500, "INTERNAL")
        assert "db-7" not in response.text

    async def test_an_error_without_a_code_is_masked(
        self, client: httpx.AsyncClient, services: Services, method: str
    ) -> None:
        services.faults.errors[method] = service_error("INTERNAL", Exhausted, SECRET)
        response = await ask(client, services, method)
        assert_problem(response, 500, "INTERNAL")
        assert "db-7" not in response.text


async def test_no_service_at_the_address(
    open_gateway: OpenGateway, services: Services, unused_address: str
) -> None:
    # One RPC each: gRPC retries an idempotent one, which takes time.
    for address, method in {
        "queue_addr": "GetPositions",
        "concert_addr": "ListConcerts",
        "reservation_addr": "HoldSeats",
        "payment_addr": "Pay",
    }.items():
        client = await open_gateway(**{address: unused_address})
        response = await ask(client, services, method)
        assert_problem(response, 503, "UNAVAILABLE", 1)
        assert unused_address not in response.text


async def test_a_service_that_does_not_answer_in_time(
    open_gateway: OpenGateway, services: Services
) -> None:
    client = await open_gateway(
        read_budget_seconds=0.03, write_budget_seconds=0.03, pay_budget_seconds=0.03
    )
    for method in REQUESTS:
        services.faults.delays = {method: 5}
        assert_problem(await ask(client, services, method), 504, "TIMEOUT", 1)


class TestADefectOfTheGateway:
    @pytest.fixture
    def defect(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def fail(*_: object) -> None:
            raise RuntimeError(SECRET)

        monkeypatch.setattr("gateway.admissions.Admissions.check", fail)

    @pytest.mark.usefixtures("defect")
    @pytest.mark.parametrize("method", ["ListConcerts", "HoldSeats", "Pay"])
    async def test_is_masked_and_logged(
        self,
        client: httpx.AsyncClient,
        services: Services,
        caplog: pytest.LogCaptureFixture,
        method: str,
    ) -> None:
        response = await ask(client, services, method)
        assert_problem(response, 500, "INTERNAL")
        assert "db-7" not in response.text
        assert [record.message for record in caplog.records].count("request_failed") == 1


async def test_a_code_of_a_newer_service_is_masked_and_logged(
    client: httpx.AsyncClient, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    class Newer(Exhausted):
        code = "NOT_YET_KNOWN"

    services.faults.errors["ListConcerts"] = Newer("Something new.")
    assert_problem(await ask(client, services, "ListConcerts"), 500, "INTERNAL")
    assert [record.message for record in caplog.records] == ["unknown_error_code"]


class TestTooManyRequests:
    @pytest.fixture(autouse=True)
    def _within_one_instant(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = SimpleNamespace(monotonic_ns=lambda: 1_000_000_000_000)
        monkeypatch.setattr("gateway.rate_limit.time", clock)

    async def test_of_one_place(self, open_gateway: OpenGateway, services: Services) -> None:
        client = await open_gateway(requests_per_second=5)
        headers = {"X-Access-Token": services.token(42)}
        responses = [await client.get("/queues/order", headers=headers) for _ in range(7)]
        assert [response.status_code for response in responses] == [200] * 5 + [429] * 2
        assert_problem(responses[-1], 429, "TOO_MANY_REQUESTS", 1)
        other = {"X-Access-Token": services.token(43)}
        assert (await client.get("/queues/order", headers=other)).status_code == 200

    async def test_a_flood_with_a_victims_id_leaves_the_victim_alone(
        self, open_gateway: OpenGateway
    ) -> None:
        client = await open_gateway(requests_per_second=5, trusted_proxies=["127.0.0.0/8"])
        sources = ["203.0.113.9"] * 50 + ["192.0.2.7"] * 7
        statuses = [
            (
                await client.post(
                    "/queues/enqueue", json={"userId": 42}, headers={"X-Forwarded-For": source}
                )
            ).status_code
            for source in sources
        ]
        assert statuses == [201] * 5 + [429] * 45 + [201] * 5 + [429] * 2

    async def test_of_one_source(self, open_gateway: OpenGateway, services: Services) -> None:
        """Whatever it asks for: also other users, forged tokens and paths that do not exist."""
        client = await open_gateway(
            requests_per_second_per_source=5, trusted_proxies=["127.0.0.0/8"]
        )
        headers = {"X-Forwarded-For": "203.0.113.9"}
        paths = ["/queues/order", "/concerts", "/docs", "/openapi.json", "/nothing"]
        statuses = [(await client.get(path, headers=headers)).status_code for path in paths]
        assert 429 not in statuses
        for path in paths:
            assert_problem(await client.get(path, headers=headers), 429, "TOO_MANY_REQUESTS", 1)
        entering = await client.post("/queues/enqueue", json={"userId": 1}, headers=headers)
        assert entering.status_code == 429
        assert not services.faults.of("EnterQueue")
        # A load balancer's probes, and everybody else, go on.
        assert (await client.get("/health/ready", headers=headers)).status_code == 200
        assert (await client.get("/openapi.json")).status_code == 200

    async def test_of_new_places(self, open_gateway: OpenGateway, services: Services) -> None:
        client = await open_gateway(trusted_proxies=["127.0.0.0/8"])
        services.queue.closed, services.queue.retry_after_ms = "TOO_MANY_REQUESTS", 20_001
        headers = {"X-Forwarded-For": "2001:db8:1:2::9"}
        refused = await client.post("/queues/enqueue", json={"userId": 42}, headers=headers)
        assert_problem(refused, 429, "TOO_MANY_REQUESTS", 21)
        (call,) = services.faults.of("EnterQueue")
        assert [entrant.source for entrant in call.request.entrants] == ["2001:db8:1:2::/64"]

    async def test_of_one_user_who_enters(self, open_gateway: OpenGateway) -> None:
        client = await open_gateway(requests_per_second=5)
        responses = [await client.post("/queues/enqueue", json={"userId": 42}) for _ in range(7)]
        assert [response.status_code for response in responses] == [201] * 5 + [429] * 2
        assert_problem(responses[-1], 429, "TOO_MANY_REQUESTS", 1)
        assert (await client.post("/queues/enqueue", json={"userId": 43})).status_code == 201


class FailingLog:
    """Notes the events of a module's log and the request id that each would have."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, str]]] = []

    def error(self, event: str, **fields: str) -> None:
        self.events.append((event, call_context.request_id.get(), fields))

    exception = error


class TestAStatusThatNoServiceRaised:
    """Such as RESOURCE_EXHAUSTED from gRPC itself, for a message that is too large."""

    @pytest.fixture
    def log(self, monkeypatch: pytest.MonkeyPatch) -> FailingLog:
        log = FailingLog()
        monkeypatch.setattr(rpc_errors, "log", log)
        monkeypatch.setattr(errors, "log", log)
        return log

    @asynccontextmanager
    async def service(self, answer: Callable[[bytes, Any], Awaitable[bytes]]) -> AsyncIterator[str]:
        """The address of a service whose every method gives this answer."""

        class Everything(grpc.GenericRpcHandler):
            def service(self, details: grpc.HandlerCallDetails) -> Any:
                if details.method.endswith("/WatchCatalogue"):  # in the background
                    return None
                return grpc.unary_unary_rpc_method_handler(answer)

        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Everything(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        yield f"127.0.0.1:{port}"
        await server.stop(None)

    @pytest.mark.parametrize("status", [s for s in grpc.StatusCode if s != grpc.StatusCode.OK])
    async def test_is_500_or_an_outage_and_every_500_is_logged(
        self,
        services: Services,
        open_gateway: OpenGateway,
        log: FailingLog,
        status: grpc.StatusCode,
    ) -> None:
        async def fail(_: bytes, context: Any) -> bytes:
            await context.abort(status, SECRET)
            return b""

        async with self.service(fail) as address:
            client = await open_gateway(concert_addr=address)
            response = await ask(client, services, "ListConcerts")
        assert SECRET not in response.text
        assert SECRET not in str(log.events)
        if status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            assert_problem(response, 503, "UNAVAILABLE", 1)
            assert log.events == []
        elif status is grpc.StatusCode.DEADLINE_EXCEEDED:
            assert_problem(response, 504, "TIMEOUT", 1)
            assert log.events == []
        else:
            self.assert_logged(response, log, status)

    async def test_message_above_the_limit(
        self, services: Services, open_gateway: OpenGateway, log: FailingLog
    ) -> None:
        async def answer(*_: object) -> bytes:
            return bytes(MAX_RESPONSE_BYTES + 1)

        async with self.service(answer) as address:
            client = await open_gateway(concert_addr=address)
            response = await ask(client, services, "ListConcerts")
        self.assert_logged(response, log, grpc.StatusCode.RESOURCE_EXHAUSTED)

    def assert_logged(
        self, response: httpx.Response, log: FailingLog, status: grpc.StatusCode
    ) -> None:
        body = assert_problem(response, 500, "INTERNAL")
        method = "/frontrow.concert.v1.ConcertService/ListConcerts"
        assert log.events == [
            ("unexpected_status", body["requestId"], {"method": method, "status": status.name}),
            ("request_failed", body["requestId"], {"path": "/concerts"}),
        ]


async def test_the_failure_of_a_service_is_logged_by_the_gateway_too(
    client: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FailingLog()
    monkeypatch.setattr(errors, "log", log)
    services.faults.errors["ListConcerts"] = RuntimeError(SECRET)
    body = assert_problem(await ask(client, services, "ListConcerts"), 500, "INTERNAL")
    assert log.events == [("request_failed", body["requestId"], {"path": "/concerts"})]
