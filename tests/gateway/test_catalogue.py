"""What the gateway does with the stream of the catalogue: rooms of concerts, and caches."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from protos.frontrow.concert.v1 import catalogue_pb2, rooms_pb2
from protos.frontrow.queue.v1 import queue_pb2
from servicekit.errors import Forbidden
from tests.gateway.conftest import OpenGateway
from tests.gateway.fakes import Services, service_error, sign
from tests.gateway.fakes.tokens import token
from tests.gateway.polling import until
from tests.gateway.problems import assert_problem
from tests.gateway.watching import OpenWatching, Watching

CACHES = {"facts_ttl_seconds": 30, "schedules_ttl_seconds": 60, "seats_ttl_seconds": 1}
Seen = TypeVar("Seen")
OPENS_AT = Timestamp(seconds=1_900_000_000)


@pytest.fixture
async def gateway(services: Services, open_watching: OpenWatching) -> Watching:
    """A gateway that caches for long, and knows the catalogue: concert 1 is behind the room `vip`,
    the others behind `main`."""
    services.queue.watch.supported = True
    services.catalogue.define(rooms_pb2.Room(name="vip", version=1))
    services.catalogue.change_concert(1, "vip", schedule_ids=[11, 12])
    gateway = await open_watching(**CACHES)
    await knows(gateway, 1, "vip")
    return gateway


async def knows(gateway: Watching, concert_id: int, room: str | None) -> None:
    """Waits until the gateway knows the room of a concert; None: that it is not on sale."""
    catalogue = gateway.clients.catalogue
    await until(lambda: gateway.clients.rooms.are_known and catalogue.room_of(concert_id) == room)


async def enter(gateway: Watching, **body: object) -> httpx.Response:
    return await gateway.http.post("/queues/enqueue", json={"userId": 42, **body})


class TestEntering:
    async def test_joins_the_room_of_the_concert(
        self, gateway: Watching, services: Services
    ) -> None:
        for body, room in (({"concertId": 1}, "vip"), ({"concertId": 2}, "main"), ({}, "main")):
            assert (await enter(gateway, **body)).status_code == 201
            assert services.faults.of("EnterQueue")[-1].request.room == room

    async def test_one_user_may_wait_in_several_rooms(self, gateway: Watching) -> None:
        tokens = {
            (await enter(gateway, concertId=concert_id)).headers["X-Access-Token"]
            for concert_id in (1, 2, 3, 1)
        }
        assert len(tokens) == 2

    @pytest.mark.parametrize("status", ["DRAFT", "CANCELLED", "ARCHIVED"])
    async def test_for_a_concert_that_is_not_on_sale(
        self, gateway: Watching, services: Services, status: str
    ) -> None:
        number = catalogue_pb2.EventStatus.Value(f"EVENT_STATUS_{status}")
        services.catalogue.change_concert(1, "vip", number)
        await knows(gateway, 1, None)
        for concert_id in (1, 99):
            response = await enter(gateway, concertId=concert_id)
            assert_problem(response, 404, "CONCERT_NOT_FOUND")
        assert not services.faults.of("EnterQueue")

    @pytest.mark.parametrize("bad", [0, -1, "1", 1.5, 2**63, True, [], {}])
    async def test_with_a_bad_id(self, gateway: Watching, bad: object) -> None:
        body = assert_problem(await enter(gateway, concertId=bad), 422, "INVALID_REQUEST")
        assert [error["field"] for error in body["errors"]] == ["concertId"]

    async def test_null_is_as_good_as_absent(self, gateway: Watching) -> None:
        assert (await enter(gateway, concertId=None)).status_code == 201

    async def test_before_the_catalogue_is_known(
        self, services: Services, open_gateway: OpenGateway, unused_address: str
    ) -> None:
        client = await open_gateway(concert_addr=unused_address)
        response = await client.post("/queues/enqueue", json={"userId": 42, "concertId": 1})
        assert_problem(response, 503, "UNAVAILABLE", 1)
        assert (await client.post("/queues/enqueue", json={"userId": 42})).status_code == 201

    async def test_before_gathering(self, gateway: Watching, services: Services) -> None:
        services.catalogue.define(rooms_pb2.Room(name="vip", version=2, opens_at=OPENS_AT))
        await until(lambda: _opens_at(gateway, "vip") != "")
        services.queue.closed = "QUEUE_NOT_OPEN"
        services.queue.retry_after_ms = 61_200
        response = await enter(gateway, concertId=1)
        body = assert_problem(response, 503, "QUEUE_NOT_OPEN", 62)
        assert body["opensAt"] == "2030-03-17T17:46:40.000Z"


class TestATokenOfAnotherRoom:
    @pytest.fixture
    async def main_token(self, services: Services) -> dict[str, str]:
        return token(services.token(7))

    @pytest.fixture
    async def vip_token(self, services: Services) -> dict[str, str]:
        return token(services.token(8, "vip"))

    @pytest.mark.parametrize(
        "path",
        [
            "/concerts/1/schedules",
            "/concerts/schedules/11/seats",
            "/concerts/schedules/11/seats/status",
        ],
    )
    async def test_is_refused(
        self,
        gateway: Watching,
        services: Services,
        main_token: dict[str, str],
        vip_token: dict[str, str],
        path: str,
    ) -> None:
        services.concerts.rooms = {1: "vip"}
        for _ in range(2):  # loaded, and from the cache
            assert_problem(await gateway.http.get(path, headers=main_token), 403, "WRONG_ROOM")
            assert (await gateway.http.get(path, headers=vip_token)).status_code == 200

    async def test_may_list_concerts(self, gateway: Watching, vip_token: dict[str, str]) -> None:
        assert (await gateway.http.get("/concerts", headers=vip_token)).status_code == 200

    async def test_of_a_removed_room_has_expired(
        self, gateway: Watching, services: Services, vip_token: dict[str, str]
    ) -> None:
        services.catalogue.change_concert(1, schedule_ids=[11, 12])
        services.catalogue.remove("vip")
        await until(lambda: gateway.clients.rooms.get("vip") is None)
        for path in ("/queues/order", "/concerts"):
            assert_problem(await gateway.http.get(path, headers=vip_token), 401, "TOKEN_EXPIRED")

    async def test_holding_is_decided_by_reservation_service(
        self, gateway: Watching, services: Services, main_token: dict[str, str]
    ) -> None:
        services.faults.item_errors["HoldSeats"] = service_error("WRONG_ROOM", Forbidden)
        response = await gateway.http.post(
            "/concerts/reservation", json={"userId": 7, "concertSeatId": 101}, headers=main_token
        )
        assert_problem(response, 403, "WRONG_ROOM")
        (item,) = services.faults.of("HoldSeats")[-1].request.items
        assert item.admission.room == "main"


class TestAChange:
    """Everything is cached for half a minute or longer."""

    @pytest.fixture
    async def shopper(self, services: Services) -> dict[str, str]:
        services.concerts.rooms = {1: "vip"}
        return token(services.token(8, "vip"))

    async def test_of_a_title_shows(
        self, gateway: Watching, services: Services, shopper: dict[str, str]
    ) -> None:
        async def titles() -> set[str]:
            listed = (await gateway.http.get("/concerts", headers=shopper)).json()["concerts"]
            return {concert["title"] for concert in listed}

        assert "New" not in await titles()
        services.concerts.concerts[1].title = "New"
        assert "New" not in await titles()
        services.catalogue.change_concert(2)
        await shows(titles, "New")

    async def test_of_a_date_shows(
        self, gateway: Watching, services: Services, shopper: dict[str, str]
    ) -> None:
        async def dates() -> set[str]:
            path = "/concerts/1/schedules"
            listed = (await gateway.http.get(path, headers=shopper)).json()["schedules"]
            return {schedule["date"] for schedule in listed}

        assert await dates() == {"2026-12-24", "2026-12-31"}
        services.concerts.schedules[0].date = "2026-12-25"
        assert "2026-12-25" not in await dates()
        services.catalogue.change_concert(1, "vip", schedule_ids=[11, 12])
        await shows(dates, "2026-12-25")

    async def test_of_a_price_shows(
        self, gateway: Watching, services: Services, shopper: dict[str, str]
    ) -> None:
        async def prices() -> set[str]:
            path = "/concerts/schedules/11/seats"
            listed = (await gateway.http.get(path, headers=shopper)).json()["seats"]
            return {seat["price"] for seat in listed}

        assert "1.00" not in await prices()
        services.concerts.seats[0].price = "1.00"
        assert "1.00" not in await prices()
        services.catalogue.change_concert(1, "vip", schedule_ids=[11, 12])
        await shows(prices, "1.00")

    async def test_a_new_stream_drops_everything(
        self, gateway: Watching, services: Services, shopper: dict[str, str]
    ) -> None:
        await gateway.http.get("/concerts/schedules/11/seats", headers=shopper)
        before = len(services.faults.of("GetSeatMaps"))
        services.catalogue.disconnect()

        async def asked() -> set[int]:
            await gateway.http.get("/concerts/schedules/11/seats", headers=shopper)
            return {len(services.faults.of("GetSeatMaps"))}

        await shows(asked, before + 1)


class TestWhatARoomSays:
    async def test_message_and_opening(self, gateway: Watching, services: Services) -> None:
        entered = await enter(gateway, concertId=1)
        assert {"message", "opensAt", "seatsLeft"}.isdisjoint(entered.json())
        message = 'Doors at 8 % "soon" </script> \U0001f39f'
        services.catalogue.define(
            rooms_pb2.Room(name="vip", version=2, message=message, opens_at=OPENS_AT)
        )
        await until(lambda: _opens_at(gateway, "vip") != "")
        for headers, body in (
            (token(entered.headers["X-Access-Token"]), None),
            ({}, {"userId": 42, "concertId": 1}),
        ):
            response = await gateway.http.request(
                "GET" if body is None else "POST",
                "/queues/order" if body is None else "/queues/enqueue",
                json=body,
                headers=headers,
            )
            assert response.json()["message"] == message
            # It is open: the fake room has no definition.
            assert response.json()["phase"] == "OPEN"
            assert "opensAt" not in response.json()
        in_main = await enter(gateway)
        assert {"message", "opensAt"}.isdisjoint(in_main.json())

    async def test_while_it_gathers(
        self, gateway: Watching, services: Services, room: Services
    ) -> None:
        services.queue.watch.change_fields(
            queue_pb2.RoomFields(definition_version=1, opens_at_ms=OPENS_AT.seconds * 1000)
        )
        services.catalogue.define(rooms_pb2.Room(name="main", version=1, opens_at=OPENS_AT))
        await until(lambda: _opens_at(gateway, "main") != "")
        await gateway.caught_up()
        response = await gateway.http.get(
            "/queues/order", headers=token(sign(room.queue.waiting[0]))
        )
        assert response.json()["phase"] == "GATHERING"
        assert response.json()["opensAt"] == "2030-03-17T17:46:40.000Z"


def _opens_at(gateway: Watching, name: str) -> str:
    room = gateway.clients.rooms.get(name)
    return "" if room is None else room.notice.opens_at


async def shows(ask: Callable[[], Awaitable[set[Seen]]], wanted: Seen) -> None:
    """Asks until the answer has this: within a second, or at most five on a busy machine."""
    async with asyncio.timeout(5):
        while wanted not in await ask():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
