"""GET /queues/draws/{room} and /queues/draws/{room}/numbers."""

import asyncio
import hashlib

import httpx
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from protos.frontrow.concert.v1 import rooms_pb2
from servicekit.errors import Unavailable
from tests.gateway.fakes import Services
from tests.gateway.polling import until
from tests.gateway.problems import assert_problem
from tests.gateway.serving import serving
from tests.gateway.watching import OpenWatching, Watching

SEED = bytes(range(32))
NUMBERS = list(range(10**13, 10**13 + 2_500))
OPENS_AT = Timestamp(seconds=1_900_000_000)


def define(services: Services) -> None:
    services.queue.watch.supported = True
    services.catalogue.define(
        rooms_pb2.Room(name="vip", version=1, order=rooms_pb2.LINE_ORDER_DRAW)
    )
    services.catalogue.define(rooms_pb2.Room(name="club", version=1))
    services.draws.draws["vip"] = rooms_pb2.GetDrawResponse(
        seed_sha256=hashlib.sha256(SEED).digest(),
        opens_at=OPENS_AT,
        public_value_source="A lottery",
    )


def publish(services: Services) -> None:
    draw = services.draws.draws["vip"]
    draw.cohort.size = len(NUMBERS)
    draw.cohort.sha256 = hashlib.sha256(
        b"".join(number.to_bytes(8, "big") for number in NUMBERS)
    ).digest()
    draw.seed, draw.public_value = SEED, "7 11 13"
    services.draws.numbers["vip"] = NUMBERS
    services.draws.numbers_per_part = 1_000


@pytest.fixture
async def gateway(services: Services, open_watching: OpenWatching) -> Watching:
    define(services)
    gateway = await open_watching()
    await until(lambda: gateway.clients.rooms.get("vip") is not None)
    return gateway


async def test_before_the_opening_the_commitment_is_public(gateway: Watching) -> None:
    draw = (await gateway.http.get("/queues/draws/vip")).json()
    assert draw == {
        "room": "vip",
        "seedSha256": hashlib.sha256(SEED).hexdigest(),
        "publicValueSource": "A lottery",
        "gatherFrom": None,
        "gatherUntil": None,
        "opensAt": "2030-03-17T17:46:40.000Z",
        "cohort": None,
        "seed": None,
        "publicValue": None,
    }
    numbers = await gateway.http.get("/queues/draws/vip/numbers")
    assert_problem(numbers, 404, "DRAW_NOT_PUBLISHED")


async def test_after_it_anybody_can_read_everything(gateway: Watching, services: Services) -> None:
    publish(services)
    draw = (await gateway.http.get("/queues/draws/vip")).json()
    assert (draw["seed"], draw["publicValue"]) == (SEED.hex(), "7 11 13")
    for _ in range(2):
        response = await gateway.http.get("/queues/draws/vip/numbers")
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        listed = [int(line) for line in response.text.splitlines()]
        packed = b"".join(number.to_bytes(8, "big") for number in listed)
        assert hashlib.sha256(packed).hexdigest() == draw["cohort"]["sha256"]
        assert len(listed) == draw["cohort"]["size"]
    assert len(services.faults.of("GetCohort")) == 3  # once for each part


@pytest.mark.parametrize("path", ["club", "main", "unknown", "x" * 200, "%00"])
async def test_a_room_without_a_draw_costs_no_call(
    gateway: Watching, services: Services, path: str
) -> None:
    for more in ("", "/numbers"):
        response = await gateway.http.get(f"/queues/draws/{path}{more}")
        assert_problem(response, 404, "DRAW_NOT_FOUND")
    assert not services.faults.of("GetDraw")


async def test_a_crowd_shares_one_call(gateway: Watching, services: Services) -> None:
    for _ in range(20):
        assert (await gateway.http.get("/queues/draws/vip")).status_code == 200
    assert len(services.faults.of("GetDraw")) == 1


async def test_without_concert_service(gateway: Watching, services: Services) -> None:
    publish(services)
    services.faults.errors["GetCohort"] = Unavailable("away")
    response = await gateway.http.get("/queues/draws/vip/numbers")
    assert_problem(response, 503, "UNAVAILABLE", 1)


async def test_the_lists_that_are_sent_at_once_are_bounded(
    gateway: Watching, services: Services
) -> None:
    publish(services)
    draws = gateway.clients.draws
    cohort = await draws.published("vip")
    # Nobody has read anything yet, and the first part is still being loaded.
    asked = await asyncio.gather(
        *(draws.numbers("vip", cohort) for _ in range(65)), return_exceptions=True
    )
    lists = [each for each in asked if not isinstance(each, BaseException)]
    assert len(lists) == 64
    refused = await gateway.http.get("/queues/draws/vip/numbers")
    assert_problem(refused, 429, "TOO_MANY_REQUESTS", 5)
    assert len([part async for part in lists[0]]) == 3
    del asked, lists[1:3]  # clients that have gone before the first byte
    for _ in range(3):
        assert (await gateway.http.get("/queues/draws/vip/numbers")).status_code == 200


async def test_clients_that_read_slowly_keep_nobody_waiting(
    gateway: Watching, services: Services
) -> None:
    publish(services)
    draws = gateway.clients.draws
    cohort = await draws.published("vip")
    slow = [await draws.numbers("vip", cohort) for _ in range(10)]
    for some in slow:
        assert await anext(some)  # and no more
    assert (await gateway.http.get("/queues/draws/vip/numbers")).status_code == 200


async def test_a_list_that_is_known_is_not_sent_again(
    gateway: Watching, services: Services
) -> None:
    publish(services)
    path = "/queues/draws/vip/numbers"
    etag = (await gateway.http.get(path)).headers["ETag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        response = await gateway.http.get(path, headers={"If-None-Match": known})
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["ETag"] == etag
    several = [("If-None-Match", '"other"'), ("If-None-Match", etag)]
    assert (await gateway.http.get(path, headers=several)).status_code == 304
    # A room of the same name has another list.
    services.draws.draws["vip"].cohort.sha256 = bytes(32)
    gateway.clients.draws._draws.clear()
    assert (await gateway.http.get(path, headers={"If-None-Match": etag})).status_code == 200


async def test_the_list_over_a_connection(services: Services) -> None:
    define(services)
    publish(services)
    async with (
        serving(services, room_view=False) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        path = "/queues/draws/vip/numbers"
        while (await client.get(path)).status_code == 503:  # until the rooms are known
            pass
        response = await client.get(path)
        assert response.text == "".join(f"{number}\n" for number in NUMBERS)
        head = await client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        # The connection is still in order.
        assert (await client.get("/queues/draws/vip")).status_code == 200
