"""GET /concerts/schedules/{scheduleId}/seats/status."""

import httpx
import pytest

from tests.gateway.conftest import OpenGateway
from tests.gateway.fakes import CONFIRMED, Services
from tests.gateway.fakes.tokens import token
from tests.gateway.problems import assert_problem

PATH = "/concerts/schedules/11/seats/status"


@pytest.fixture
def shopper(services: Services) -> dict[str, str]:
    return token(services.token())


async def test_it_lists_what_is_not_available(
    client: httpx.AsyncClient, services: Services, shopper: dict[str, str]
) -> None:
    services.reservations.hold(1, 103)
    services.reservations.hold(1, 101).status = CONFIRMED
    services.reservations.hold(1, 201)  # of another date
    status = (await client.get(PATH, headers=shopper)).json()
    assert (status["held"], status["sold"]) == ([103], [101])
    seats = (await client.get(PATH.removesuffix("/status"), headers=shopper)).json()["seats"]
    taken = {seat["id"]: seat["status"] for seat in seats if seat["status"] != "AVAILABLE"}
    assert taken == {103: "HELD", 101: "SOLD"}


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*"])
async def test_the_same_answer_again_is_304(
    client: httpx.AsyncClient, services: Services, shopper: dict[str, str], form: str
) -> None:
    services.reservations.hold(1, 103)
    first = await client.get(PATH, headers=shopper)
    assert first.headers["ETag"] == f'"{first.json()["version"]}"'
    assert first.headers["Cache-Control"] == "private, no-cache"
    asked = shopper | {"If-None-Match": form.format(first.headers["ETag"])}
    again = await client.get(PATH, headers=asked)
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]


@pytest.mark.parametrize("change", ["held", "paid", "price", "currency", "one seat more"])
async def test_each_change_has_another_version(
    client: httpx.AsyncClient, services: Services, shopper: dict[str, str], change: str
) -> None:
    held = services.reservations.hold(1, 103)
    first = await client.get(PATH, headers=shopper)
    if change == "held":
        services.reservations.hold(1, 101)
    elif change == "paid":
        held.status = CONFIRMED
    elif change == "price":
        services.concerts.seats[0].price = "1.00"
    elif change == "currency":
        services.concerts.currency = "EUR"
    else:
        more = services.concerts.seats[0]
        services.concerts.seats.append(type(more)(id=999, schedule_id=11, seat_num="B1", price="1"))
    second = await client.get(PATH, headers=shopper | {"If-None-Match": first.headers["ETag"]})
    assert second.status_code == 200
    assert second.json()["version"] != first.json()["version"]
    is_same_map = second.json()["mapVersion"] == first.json()["mapVersion"]
    assert is_same_map == (change in ("held", "paid"))


async def test_two_gateways_name_the_same_version(
    open_gateway: OpenGateway, services: Services, shopper: dict[str, str]
) -> None:
    services.reservations.hold(1, 102, 103)
    etags = {
        (await (await open_gateway()).get(PATH, headers=shopper)).headers["ETag"] for _ in range(2)
    }
    assert len(etags) == 1


async def test_it_wants_an_admission_and_a_date(
    client: httpx.AsyncClient, services: Services, shopper: dict[str, str]
) -> None:
    unknown = await client.get("/concerts/schedules/99/seats/status", headers=shopper)
    assert_problem(unknown, 404, "SCHEDULE_NOT_FOUND")
    bad = await client.get("/concerts/schedules/0/seats/status", headers=shopper)
    assert_problem(bad, 422, "INVALID_REQUEST")
    assert_problem(await client.get(PATH), 401, "INVALID_TOKEN")


@pytest.mark.parametrize(
    ("currency", "price"), [("", "1.00"), ("KRW", "1.00"), ("JPY", "1.00"), ("KWD", "1.000")]
)
async def test_prices_have_the_places_of_their_currency(
    client: httpx.AsyncClient,
    services: Services,
    shopper: dict[str, str],
    currency: str,
    price: str,
) -> None:
    services.concerts.currency = currency
    for seat in services.concerts.seats:
        seat.price = "1"
    seats = (await client.get("/concerts/schedules/11/seats", headers=shopper)).json()
    assert seats["currency"] == (currency or "KRW")
    assert {seat["price"] for seat in seats["seats"]} == {price}


async def test_a_section_is_passed_on(
    client: httpx.AsyncClient, services: Services, shopper: dict[str, str]
) -> None:
    best = {"scheduleId": 11, "count": 1, "section": "Floor"}
    body = {"userId": 42, "bestAvailable": best}
    held = await client.post("/concerts/reservation", json=body, headers=shopper)
    assert held.status_code == 200
    (item,) = services.faults.of("HoldSeats")[-1].request.items
    assert item.best_available.section == "Floor"


@pytest.mark.parametrize("bad", ["", "x" * 65, 1, ["Floor"]])
async def test_a_bad_section(
    client: httpx.AsyncClient, shopper: dict[str, str], bad: object
) -> None:
    best = {"scheduleId": 11, "count": 1, "section": bad}
    response = await client.post(
        "/concerts/reservation", json={"userId": 42, "bestAvailable": best}, headers=shopper
    )
    errors = assert_problem(response, 422, "INVALID_REQUEST")["errors"]
    assert [error["field"] for error in errors] == ["bestAvailable.section"]
