"""The OpenAPI document: valid, complete, and true to the responses that the other tests got."""

import re

import httpx
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.errors import PROBLEM_JSON, TABLE
from tests.gateway.declared import Declared

ALWAYS = {"UNAVAILABLE", "TIMEOUT", "INTERNAL"}
BODY = {"INVALID_REQUEST", "BODY_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE"}
GENUINE = {"INVALID_TOKEN", "TOKEN_EXPIRED", "TOO_MANY_REQUESTS"}
ADMITTED = GENUINE | {"STILL_WAITING"}
KEY = {"IDEMPOTENCY_KEY_REUSED", "IN_PROGRESS"}

# The contract for each route: statuses of success, codes of errors.
ROUTES: dict[tuple[str, str], tuple[set[str], set[str]]] = {
    ("post", "/queues/enqueue"): (
        {"201"},
        ALWAYS
        | BODY
        | {
            "IDENTITY_REQUIRED",
            "NOT_YOURS",
            "CHALLENGE_REQUIRED",
            "CONCERT_NOT_FOUND",
            "QUEUE_FULL",
            "QUEUE_NOT_OPEN",
            "QUEUE_PAUSED",
            "TOO_MANY_REQUESTS",
        },
    ),
    ("get", "/queues/order"): ({"200"}, ALWAYS | GENUINE),
    ("delete", "/queues/order"): ({"204"}, ALWAYS | GENUINE),
    ("get", "/concerts"): ({"200"}, ALWAYS | ADMITTED | {"INVALID_REQUEST"}),
    ("get", "/concerts/{concertId}/schedules"): (
        {"200"},
        ALWAYS | ADMITTED | {"INVALID_REQUEST", "WRONG_ROOM", "CONCERT_NOT_FOUND"},
    ),
    ("get", "/concerts/schedules/{scheduleId}/seats"): (
        {"200"},
        ALWAYS | ADMITTED | {"INVALID_REQUEST", "WRONG_ROOM", "SCHEDULE_NOT_FOUND"},
    ),
    ("get", "/concerts/schedules/{scheduleId}/seats/status"): (
        {"200", "304"},
        ALWAYS | ADMITTED | {"INVALID_REQUEST", "WRONG_ROOM", "SCHEDULE_NOT_FOUND"},
    ),
    ("post", "/concerts/reservation"): (
        {"200"},
        ALWAYS
        | ADMITTED
        | BODY
        | KEY
        | {
            "NOT_YOURS",
            "WRONG_ROOM",
            "SALES_CLOSED",
            "SEAT_NOT_FOUND",
            "SCHEDULE_NOT_FOUND",
            "SEAT_HELD",
            "SEAT_SOLD",
            "SINGLE_SEAT_LEFT",
            "NOT_ENOUGH_SEATS",
            "TOO_MANY_SEATS",
            "PAYMENT_IN_PROGRESS",
        },
    ),
    ("post", "/concerts/reservations/{reservationId}/pay"): (
        {"200", "202"},
        ALWAYS
        | ADMITTED
        | BODY
        | KEY
        | {
            "NOT_YOURS",
            "RESERVATION_NOT_FOUND",
            "RESERVATION_EXPIRED",
            "PAYMENT_DECLINED",
            "CHARGE_AMOUNT_DIFFERS",
            "ALREADY_PAID",
            "PAYMENT_IN_PROGRESS",
        },
    ),
    ("get", "/concerts/reservations/{reservationId}"): (
        {"200"},
        ALWAYS | GENUINE | {"INVALID_REQUEST", "NOT_YOURS", "RESERVATION_NOT_FOUND"},
    ),
    ("delete", "/concerts/reservations/{reservationId}"): (
        {"204"},
        ALWAYS
        | GENUINE
        | {
            "INVALID_REQUEST",
            "NOT_YOURS",
            "RESERVATION_NOT_FOUND",
            "PAYMENT_IN_PROGRESS",
            "ALREADY_PAID",
        },
    ),
    ("get", "/queues/draws/{room}"): ({"200"}, ALWAYS | {"DRAW_NOT_FOUND"}),
    ("get", "/queues/draws/{room}/numbers"): (
        {"200", "304"},
        ALWAYS | {"DRAW_NOT_FOUND", "DRAW_NOT_PUBLISHED", "TOO_MANY_REQUESTS"},
    ),
    ("get", "/health/live"): ({"200"}, set()),
    ("get", "/health/ready"): ({"200", "503"}, set()),
}

# Names that generated clients are built from: renaming one breaks them.
OPERATION_IDS = {
    "enterQueue": "EnterQueueRequest",
    "getOrder": None,
    "leaveQueue": None,
    "listConcerts": None,
    "listSchedules": None,
    "listSeats": None,
    "getSeatStatus": None,
    "holdSeat": "HoldSeatRequest",
    "payReservation": "PayReservationRequest",
    "getReservation": None,
    "cancelReservation": None,
    "getDraw": None,
    "getDrawNumbers": None,
    "getLiveness": None,
    "getReadiness": None,
}


def test_it_is_valid(declared: Declared) -> None:
    OpenAPIV31SpecValidator(declared.spec).validate()


def test_it_has_these_routes_and_no_other(declared: Declared) -> None:
    found = {
        (method, path) for path, methods in declared.spec["paths"].items() for method in methods
    }
    assert found == set(ROUTES)


def test_its_operations_and_their_bodies_have_stable_names(declared: Declared) -> None:
    found: dict[str, str | None] = {}
    for operations in declared.spec["paths"].values():
        for operation in operations.values():
            body = operation.get("requestBody")
            reference = body and body["content"]["application/json"]["schema"]["$ref"]
            found[operation["operationId"]] = reference and reference.rpartition("/")[2]
    assert found == OPERATION_IDS


def test_its_tags_and_server_are_declared(declared: Declared) -> None:
    assert [server["url"] for server in declared.spec["servers"]] == ["/"]
    tags = {tag["name"]: tag["description"] for tag in declared.spec["tags"]}
    assert all(tags.values())
    used = {
        tag
        for operations in declared.spec["paths"].values()
        for operation in operations.values()
        for tag in operation["tags"]
    }
    assert used == set(tags)


@pytest.mark.parametrize(("method", "path"), ROUTES)
class TestARoute:
    def test_declares_its_responses(self, declared: Declared, method: str, path: str) -> None:
        successes, codes = ROUTES[method, path]
        responses = declared.spec["paths"][path][method]["responses"]
        assert set(responses) == successes | {str(TABLE[code].status) for code in codes}
        stated: set[str] = set()
        for status in set(responses) - successes:
            here = set(re.findall(r"`([A-Z_]+)`", responses[status]["description"]))
            assert {str(TABLE[code].status) for code in here} == {status}
            assert list(responses[status]["content"]) == [PROBLEM_JSON]
            stated |= here
        assert stated == codes

    def test_declares_its_headers(self, declared: Declared, method: str, path: str) -> None:
        operation = declared.spec["paths"][path][method]
        parameters = {p["name"]: p for p in operation.get("parameters", [])}
        _, codes = ROUTES[method, path]
        assert ("X-Access-Token" in parameters) == ("INVALID_TOKEN" in codes)
        assert ("Idempotency-Key" in parameters) == ("IN_PROGRESS" in codes)
        assert all(parameters["X-Access-Token"]["required"] for _ in codes & {"INVALID_TOKEN"})
        for name in re.findall(r"\{(\w+)\}", path):
            assert (parameters[name]["in"], parameters[name]["required"]) == ("path", True)
        assert ("requestBody" in operation) == ("BODY_TOO_LARGE" in codes)

    def test_has_a_description_and_a_tag(self, declared: Declared, method: str, path: str) -> None:
        operation = declared.spec["paths"][path][method]
        assert operation["description"]
        assert operation["tags"]


def test_the_bodies_declare_the_limits_of_ids(declared: Declared) -> None:
    schema = declared.spec["components"]["schemas"]["HoldSeatRequest"]
    properties = schema["properties"]
    for field in (
        properties["userId"],
        properties["concertSeatId"],
        properties["concertSeatIds"]["items"],
    ):
        assert (field["minimum"], field["maximum"]) == (1, 2**63 - 1)
    ids = properties["concertSeatIds"]
    assert (ids["minItems"], ids["uniqueItems"]) == (1, True)


@pytest.mark.parametrize(
    ("choice", "valid"),
    [
        ({"concertSeatId": 7}, True),
        ({"concertSeatIds": [7, 8]}, True),
        ({"bestAvailable": {"scheduleId": 5, "count": 3}}, True),
        ({}, False),
        ({"concertSeatId": 7, "concertSeatIds": [7]}, False),
        ({"concertSeatIds": [7, 7]}, False),
        ({"bestAvailable": {"scheduleId": 5}}, False),
    ],
)
def test_holding_declares_that_it_takes_one_form(
    declared: Declared, choice: dict[str, object], valid: bool
) -> None:
    validator = Draft202012Validator(
        {
            "$ref": "#/components/schemas/HoldSeatRequest",
            "components": declared.spec["components"],
        }
    )
    assert validator.is_valid({"userId": 42} | choice) == valid


async def test_the_page_loads_nothing_from_another_host(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert any(link.endswith(".js") for link in links)
    assert any(link.endswith(".css") for link in links)
    for link in links:
        assert link.startswith("/"), link
        assert (await client.get(link)).status_code == 200, link
    assert re.findall(r"https?://[^\s\"']+", page.text) == []
