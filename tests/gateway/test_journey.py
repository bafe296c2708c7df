"""The seven routes, one after the other."""

import httpx

from gateway import schemas
from tests.gateway.fakes import Services
from tests.gateway.fakes.tokens import token
from tests.gateway.problems import assert_problem


async def test_the_journey(client: httpx.AsyncClient, services: Services) -> None:
    entered = await client.post("/queues/enqueue", json={"userId": 42})
    assert entered.status_code == 201
    headers = token(entered.headers["X-Access-Token"])
    assert (await client.get("/queues/order", headers=headers)).json()["order"] == 0
    concerts = schemas.Concerts.model_validate_json(
        (await client.get("/concerts", headers=headers)).content
    )
    schedules = schemas.Schedules.model_validate_json(
        (
            await client.get(f"/concerts/{concerts.concerts[0].id}/schedules", headers=headers)
        ).content
    )
    seats = schemas.Seats.model_validate_json(
        (
            await client.get(
                f"/concerts/schedules/{schedules.schedules[0].id}/seats", headers=headers
            )
        ).content
    )
    seat = seats.seats[0]
    reserved = await client.post(
        "/concerts/reservation",
        json={"userId": 42, "concertSeatId": seat.id},
        headers=headers,
    )
    assert reserved.status_code == 200
    hold = schemas.Hold.model_validate_json(reserved.content)
    assert hold.price == seat.price
    pay = f"/concerts/reservations/{hold.reservation_id}/pay"
    paid = await client.post(pay, json={"userId": 42}, headers=headers)
    assert paid.status_code == 200
    payment = schemas.Payment.model_validate_json(paid.content)
    assert payment.status == "SUCCEEDED"
    # Paying has ended the admission; repeating it returns the same, other routes refuse.
    again = await client.post(pay, json={"userId": 42}, headers=headers)
    assert (again.status_code, again.json()) == (200, paid.json())
    assert len(services.faults.of("Pay")) == 1
    assert_problem(await client.get("/concerts", headers=headers), 401, "TOKEN_EXPIRED")
