"""What a browser needs before a page of another origin can use the API."""

import json

import httpx
import pytest

from gateway.settings import Settings
from servicekit.settings import load
from tests.gateway.conftest import OpenGateway
from tests.gateway.fakes import KEYS, Services
from tests.gateway.problems import assert_problem

SHOP = "https://shop.example"
OTHER = "https://evil.example"
EXPOSED = {
    "x-access-token", "x-request-id", "retry-after", "www-authenticate", "allow", "age", "etag"
}  # fmt: skip
REQUESTS = [
    ("POST", "/queues/enqueue", {"userId": 42}, 201),
    ("GET", "/queues/order", None, 200),
    ("GET", "/openapi.json", None, 200),
    ("GET", "/health/live", None, 200),
    ("DELETE", "/concerts/reservations/1", None, 404),
    ("POST", "/queues/enqueue", {"userId": 0}, 422),
    ("POST", "/queues/enqueue", {"userId": "x" * 20_000}, 413),
    ("GET", "/nowhere", None, 404),
    ("PUT", "/concerts", None, 405),
    ("POST", "/concerts/reservation", {"userId": 42, "concertSeatId": 101}, 500),
]


def preflight(origin: str, method: str, *headers: str) -> dict[str, str]:
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    return asked | ({"Access-Control-Request-Headers": ",".join(headers)} if headers else {})


def cors(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if "access-control" in name}


@pytest.fixture
async def shop(open_gateway: OpenGateway, services: Services) -> httpx.AsyncClient:
    """A client of a gateway that lets pages of SHOP call it."""
    client = await open_gateway(cors_origins=(SHOP, "http://localhost:3000"))
    client.headers["X-Access-Token"] = services.token(42)
    services.faults.errors["HoldSeats"] = RuntimeError()
    return client


@pytest.mark.parametrize(("method", "path", "body", "status"), REQUESTS)
class TestAResponse:
    @pytest.mark.parametrize("origin", [SHOP, "http://localhost:3000"])
    async def test_can_be_read_by_the_origin(
        self,
        shop: httpx.AsyncClient,
        method: str,
        path: str,
        body: object,
        status: int,
        origin: str,
    ) -> None:
        response = await shop.request(method, path, json=body, headers={"Origin": origin})
        assert response.status_code == status
        assert response.headers["Access-Control-Allow-Origin"] == origin
        exposed = response.headers["Access-Control-Expose-Headers"].lower()
        assert set(exposed.split(", ")) == EXPOSED
        assert "Origin" in response.headers["Vary"]
        assert "Access-Control-Allow-Credentials" not in response.headers

    async def test_cannot_be_read_by_another(
        self, shop: httpx.AsyncClient, method: str, path: str, body: object, status: int
    ) -> None:
        response = await shop.request(method, path, json=body, headers={"Origin": OTHER})
        assert response.status_code == status
        assert "Access-Control-Allow-Origin" not in response.headers

    async def test_says_nothing_where_no_origin_is_set(
        self, client: httpx.AsyncClient, method: str, path: str, body: object, status: int
    ) -> None:
        response = await client.request(method, path, json=body, headers={"Origin": SHOP})
        assert cors(response) == {}
        assert "Vary" not in response.headers


async def test_every_origin(open_gateway: OpenGateway) -> None:
    client = await open_gateway(cors_origins=("*",))
    response = await client.get("/concerts", headers={"Origin": OTHER})
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    asked = await client.options("/concerts", headers=preflight(OTHER, "GET", "x-access-token"))
    assert (asked.status_code, asked.headers["Access-Control-Allow-Origin"]) == (200, "*")


class TestAPreflight:
    @pytest.mark.parametrize(
        ("method", "path", "headers"),
        [
            ("POST", "/queues/enqueue", ["content-type", "authorization", "x-challenge-solution"]),
            ("GET", "/queues/order", ["x-access-token", "x-request-id"]),
            ("DELETE", "/queues/order", ["x-access-token"]),
            ("POST", "/concerts/reservation", ["content-type", "idempotency-key"]),
            ("HEAD", "/concerts", []),
        ],
    )
    async def test_of_a_request_of_the_api(
        self, shop: httpx.AsyncClient, method: str, path: str, headers: list[str]
    ) -> None:
        response = await shop.options(path, headers=preflight(SHOP, method, *headers))
        assert response.status_code == 200
        assert response.headers["Access-Control-Allow-Origin"] == SHOP
        assert method in response.headers["Access-Control-Allow-Methods"].split(", ")
        allowed = response.headers["Access-Control-Allow-Headers"].lower().split(", ")
        assert set(headers) <= set(allowed)
        assert int(response.headers["Access-Control-Max-Age"]) == 7_200
        assert response.headers["X-Request-Id"]

    @pytest.mark.parametrize(
        ("headers", "refused"),
        [
            (preflight(OTHER, "GET"), ["Origin"]),
            (preflight(SHOP, "PUT"), ["Access-Control-Request-Method"]),
            (preflight(SHOP, "GET", "x-other"), ["Access-Control-Request-Headers"]),
            (preflight(OTHER, "PUT"), ["Origin", "Access-Control-Request-Method"]),
        ],
    )
    async def test_of_another_request_is_refused(
        self, shop: httpx.AsyncClient, headers: dict[str, str], refused: list[str]
    ) -> None:
        response = await shop.options("/concerts", headers=headers)
        body = assert_problem(response, 422, "INVALID_REQUEST")
        assert [error["field"] for error in body["errors"]] == refused
        assert all("(CORS)" in error["message"] for error in body["errors"])
        assert cors(response) == {}

    async def test_is_an_ordinary_request_where_no_origin_is_set(
        self, client: httpx.AsyncClient
    ) -> None:
        response = await client.options("/concerts", headers=preflight(SHOP, "GET"))
        assert (response.status_code, cors(response)) == (204, {})

    async def test_options_still_returns_the_methods(self, shop: httpx.AsyncClient) -> None:
        response = await shop.options("/concerts", headers={"Origin": SHOP})
        assert (response.status_code, response.headers["Allow"]) == (204, "GET, HEAD, OPTIONS")
        assert response.headers["Access-Control-Allow-Origin"] == SHOP


class TestTheSetting:
    @pytest.fixture(autouse=True)
    def _keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GATEWAY_TOKEN_KEYS", json.dumps(KEYS))

    def test_is_a_list(self, monkeypatch: pytest.MonkeyPatch) -> None:
        origins = [SHOP, "http://127.0.0.1:3000", "http://[::1]:3000", "capacitor://localhost"]
        monkeypatch.setenv("GATEWAY_CORS_ORIGINS", json.dumps(origins))
        assert load(Settings).cors_origins == tuple(origins)

    @pytest.mark.parametrize(
        "origin",
        [f"{SHOP}/", f"{SHOP}/page", "shop.example", "https://Shop.example", "null", "", "**"],
    )
    def test_that_would_never_match_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], origin: str
    ) -> None:
        monkeypatch.setenv("GATEWAY_CORS_ORIGINS", json.dumps([origin]))
        with pytest.raises(SystemExit):
            load(Settings)
        assert capsys.readouterr().err.startswith("GATEWAY_CORS_ORIGINS: ")


async def test_a_page_can_read_that_its_source_sent_too_many_requests(
    open_gateway: OpenGateway,
) -> None:
    """Preflights do not count: they precede requests that do."""
    client = await open_gateway(cors_origins=(SHOP,), requests_per_second_per_source=1)
    for _ in range(5):
        asked = preflight(SHOP, "GET", "X-Access-Token")
        assert (await client.options("/queues/order", headers=asked)).status_code == 200
    first, second = [await client.get("/docs", headers={"Origin": SHOP}) for _ in range(2)]
    assert first.status_code == 200
    assert_problem(second, 429, "TOO_MANY_REQUESTS", 1)
    assert second.headers["Access-Control-Allow-Origin"] == SHOP
