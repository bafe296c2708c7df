"""Paying: POST /concerts/reservations/{reservationId}/pay."""

import httpx
import pytest

from protos.frontrow.payment.v1 import payment_pb2
from servicekit.errors import Gone
from tests.gateway.conftest import OpenGateway
from tests.gateway.fakes import PENDING, REFUNDED, SUCCEEDED, Services, service_error, sign
from tests.gateway.fakes.tokens import token
from tests.gateway.problems import assert_problem


class TestPaying:
    @pytest.fixture
    def pay(self, services: Services) -> str:
        """The path that pays a hold of user 42."""
        return f"/concerts/reservations/{services.reservations.hold(42, 101).id}/pay"

    async def test_returns_the_payment(
        self, client: httpx.AsyncClient, services: Services, pay: str
    ) -> None:
        place = services.queue.enter(42)
        response = await client.post(
            pay,
            json={"userId": 42},
            headers=token(sign(place)) | {"Idempotency-Key": "k-2"},
        )
        assert response.status_code == 200
        assert response.json() == {"paymentId": 1, "reservationId": 1, "status": "SUCCEEDED"}
        (call,) = services.faults.of("Pay")
        assert call.request.idempotency_key == "k-2"
        admission = call.request.admission
        assert (admission.room, admission.place_number) == (place.room, place.number)

    async def test_pending_is_202_and_a_repeated_request_returns_the_outcome(
        self, client: httpx.AsyncClient, services: Services, pay: str
    ) -> None:
        services.payments.outcome = PENDING
        headers = token(services.token())
        response = await client.post(pay, json={"userId": 42}, headers=headers)
        assert response.status_code == 202
        assert response.headers["Retry-After"] == "1"
        assert response.json() == {"paymentId": 1, "reservationId": 1, "status": "PENDING"}
        services.payments.payments[1].status = SUCCEEDED
        again = await client.post(pay, json={"userId": 42}, headers=headers)
        assert again.status_code == 200
        assert again.json() == {"paymentId": 1, "reservationId": 1, "status": "SUCCEEDED"}

    async def test_ends_the_admission_at_once(
        self, open_gateway: OpenGateway, services: Services, pay: str
    ) -> None:
        client = await open_gateway(admission_ttl_seconds=1)
        headers = token(services.token())
        await client.post(pay, json={"userId": 42}, headers=headers)
        assert_problem(await client.get("/concerts", headers=headers), 401, "TOKEN_EXPIRED")

    @pytest.mark.parametrize("route", ["hold", "pay"])
    async def test_nothing_is_bought_before_the_event_of_the_payment(
        self, client: httpx.AsyncClient, services: Services, pay: str, route: str
    ) -> None:
        place = services.queue.enter(42)
        headers = token(sign(place))
        other = services.reservations.hold(42, 102).id
        assert (await client.post(pay, json={"userId": 42}, headers=headers)).status_code == 200
        # queue_service has not heard of the payment yet.
        services.queue.admitted[place.number] = place
        path, body = {
            "hold": ("/concerts/reservation", {"userId": 42, "concertSeatId": 103}),
            "pay": (f"/concerts/reservations/{other}/pay", {"userId": 42}),
        }[route]
        response = await client.post(path, json=body, headers=headers)
        assert_problem(response, 401, "TOKEN_EXPIRED")
        again = await client.post(pay, json={"userId": 42}, headers=headers)
        assert (again.status_code, again.json()["paymentId"]) == (200, 1)

    async def test_repeating_a_payment_of_an_earlier_admission_ends_nothing(
        self, client: httpx.AsyncClient, services: Services, pay: str
    ) -> None:
        await client.post(pay, json={"userId": 42}, headers=token(services.token()))
        headers = token(services.token())  # of a new place
        assert (await client.post(pay, json={"userId": 42}, headers=headers)).status_code == 200
        hold = {"userId": 42, "concertSeatId": 103}
        response = await client.post("/concerts/reservation", json=hold, headers=headers)
        assert response.status_code == 200

    @pytest.mark.parametrize("method", ["HoldSeats", "Pay"])
    async def test_a_service_that_knows_the_end_of_the_admission_is_asked_once(
        self, client: httpx.AsyncClient, services: Services, pay: str, method: str
    ) -> None:
        headers = token(services.token())
        expired = service_error("TOKEN_EXPIRED", Gone)
        services.faults.errors["Pay"] = services.faults.item_errors["HoldSeats"] = expired
        path, body = {
            "HoldSeats": ("/concerts/reservation", {"userId": 42, "concertSeatId": 103}),
            "Pay": (pay, {"userId": 42}),
        }[method]
        for _ in range(2):
            response = await client.post(path, json=body, headers=headers)
            assert_problem(response, 401, "TOKEN_EXPIRED")
            assert response.headers["WWW-Authenticate"] == "X-Access-Token"
        assert len(services.faults.of(method)) == 1

    async def test_after_the_admission_returns_a_pending_payment(
        self, client: httpx.AsyncClient, services: Services, pay: str
    ) -> None:
        services.payments.outcome = PENDING
        headers = token(services.token())
        await client.post(pay, json={"userId": 42}, headers=headers)
        services.queue.end(services.queue.enter(42).number)
        response = await client.post(pay, json={"userId": 42}, headers=headers)
        assert (response.status_code, response.json()["status"]) == (202, "PENDING")

    async def test_after_the_admission_starts_no_payment(
        self, client: httpx.AsyncClient, services: Services, pay: str
    ) -> None:
        response = await client.post(
            pay, json={"userId": 42}, headers=token(services.ended_token())
        )
        assert_problem(response, 401, "TOKEN_EXPIRED")
        assert services.faults.of("Pay") == []

    async def test_refunded_is_an_expired_reservation(
        self, client: httpx.AsyncClient, services: Services, pay: str
    ) -> None:
        services.payments.outcome = REFUNDED
        response = await client.post(pay, json={"userId": 42}, headers=token(services.token()))
        assert_problem(response, 410, "RESERVATION_EXPIRED")

    async def test_an_unexpected_status_is_an_internal_error(
        self, client: httpx.AsyncClient, services: Services, pay: str
    ) -> None:
        services.payments.outcome = payment_pb2.PAYMENT_STATUS_FAILED
        response = await client.post(pay, json={"userId": 42}, headers=token(services.token()))
        assert_problem(response, 500, "INTERNAL")
