"""The successful responses of the routes, field by field."""

import asyncio
import time
from types import SimpleNamespace

import httpx
import jwt
import pytest
from grpc_health.v1 import health_pb2

from gateway import schemas
from gateway.clients import Clients
from gateway.routes import health
from gateway.server import Drain
from protos.frontrow.concert.v1 import concert_pb2
from protos.frontrow.payment.v1 import payment_pb2
from servicekit.errors import Gone, ServiceError, TimedOut, Unavailable
from tests.gateway.conftest import OpenGateway
from tests.gateway.fakes import (
    CANCELLED,
    CONFIRMED,
    GIVEN_AT,
    HELD,
    KEY_ID,
    PENDING,
    REFUNDED,
    ROWS_PER_PAGE,
    SUCCEEDED,
    Services,
    service_error,
    sign,
)
from tests.gateway.problems import assert_problem

# The calls of leaving, in order.
LEAVING = ["CancelHolds", "LeaveQueue"]


def token(text: str) -> dict[str, str]:
    return {"X-Access-Token": text}


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
        assert response.json() == {
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
        assert response.json() == {
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
        assert response.json() == {
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


class TestConcerts:
    async def test_all_on_one_page(self, client: httpx.AsyncClient, services: Services) -> None:
        response = await client.get("/concerts", headers=token(services.token()))
        assert response.status_code == 200
        assert response.json() == {
            "concerts": [
                {"id": 1, "title": 'The "Escapes" \\ Ünïcode'},
                {"id": 2, "title": "Second"},
                {"id": 3, "title": "Third"},
            ]
        }
        assert services.faults.of("ListConcerts")[0].request.page_size == 100

    async def test_page_by_page(self, client: httpx.AsyncClient, services: Services) -> None:
        headers = token(services.token())
        first = (await client.get("/concerts?pageSize=2", headers=headers)).json()
        assert [concert["id"] for concert in first["concerts"]] == [1, 2]
        rest = (
            await client.get(
                "/concerts",
                params={"pageSize": 2, "pageToken": first["nextPageToken"]},
                headers=headers,
            )
        ).json()
        assert [concert["id"] for concert in rest["concerts"]] == [3]
        assert "nextPageToken" not in rest

    @pytest.mark.parametrize("size", ["0", "101", "-1", "1.0", "", "x", "²", "9" * 400])
    async def test_an_invalid_page_size(
        self, client: httpx.AsyncClient, services: Services, size: str
    ) -> None:
        response = await client.get(
            "/concerts", params={"pageSize": size}, headers=token(services.token())
        )
        body = assert_problem(response, 422, "INVALID_REQUEST")
        assert [error["field"] for error in body["errors"]] == ["pageSize"]

    @pytest.mark.parametrize("page_token", ["forged", "9" * 257])
    async def test_an_invalid_page_token(
        self, client: httpx.AsyncClient, services: Services, page_token: str
    ) -> None:
        response = await client.get(
            "/concerts", params={"pageToken": page_token}, headers=token(services.token())
        )
        body = assert_problem(response, 422, "INVALID_REQUEST")
        assert [error["field"] for error in body["errors"]] == ["pageToken"]


class TestSchedules:
    async def test_by_date_and_sold_out_when_every_seat_is_sold(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        headers = token(services.token())
        last_seat = services.reservations.hold(1, 201)
        path = "/concerts/1/schedules"
        # A held seat is not sold.
        response = await client.get(path, headers=headers)
        assert response.status_code == 200
        assert response.json() == {
            "schedules": [
                {"id": 11, "date": "2026-12-24", "status": "AVAILABLE"},
                {"id": 12, "date": "2026-12-31", "status": "AVAILABLE"},
            ]
        }
        last_seat.status = CONFIRMED
        response = await client.get(path, headers=headers)
        assert [schedule["status"] for schedule in response.json()["schedules"]] == [
            "AVAILABLE",
            "SOLD_OUT",
        ]

    async def test_without_upcoming_dates(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        response = await client.get("/concerts/2/schedules", headers=token(services.token()))
        assert (response.status_code, response.json()) == (200, {"schedules": []})
        assert services.faults.of("CountSoldSeats") == []

    async def test_more_dates_than_one_call_lists_or_counts(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        services.concerts.schedules += [
            concert_pb2.Schedule(id=1000 + n, concert_id=2, date="2026-12-24", seat_count=1)
            for n in range(ROWS_PER_PAGE + 1)
        ]
        last = services.concerts.schedules[-1].id
        services.concerts.seats.append(
            concert_pb2.Seat(id=301, schedule_id=last, seat_num="A1", price="1.00")
        )
        services.reservations.hold(1, 301).status = CONFIRMED
        response = await client.get("/concerts/2/schedules", headers=token(services.token()))
        assert response.status_code == 200
        dates = response.json()["schedules"]
        assert [date["id"] for date in dates] == list(range(1000, last + 1))
        assert [date["id"] for date in dates if date["status"] == "SOLD_OUT"] == [last]
        assert len(services.faults.of("ListSchedules")) == 2
        assert len(services.faults.of("CountSoldSeats")) == 6

    async def test_dates_are_cached_longer_than_their_status(
        self, open_gateway: OpenGateway, services: Services
    ) -> None:
        client = await open_gateway(facts_ttl_seconds=30)
        for _ in range(3):
            await client.get("/concerts/1/schedules", headers=token(services.token()))
        assert len(services.faults.of("ListSchedules")) == 1
        assert len(services.faults.of("CountSoldSeats")) == 3


class TestSeats:
    async def test_every_seat_in_seat_order(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        services.reservations.hold(1, 101)
        services.reservations.hold(1, 103).status = CONFIRMED
        services.reservations.hold(1, 201)  # of another date
        response = await client.get("/concerts/schedules/11/seats", headers=token(services.token()))
        assert response.status_code == 200
        assert response.json() == {
            "seats": [
                {"id": 102, "seatNum": "A1", "price": "150000.00", "status": "AVAILABLE"},
                {"id": 101, "seatNum": "A2", "price": "90000.50", "status": "HELD"},
                {"id": 103, "seatNum": "A10", "price": "0.05", "status": "SOLD"},
            ]
        }

    async def test_as_many_seats_as_a_date_can_have(
        self, client: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Comparing as many with the OpenAPI document takes seconds.
        monkeypatch.setitem(client.event_hooks, "response", [])
        # The column is a SMALLINT UNSIGNED, a name has 16 characters of at most 4 bytes.
        services.concerts.seats = [
            concert_pb2.Seat(
                id=2**63 - 1 - n, schedule_id=11, seat_num="🎟" * 16, price="9999999999.99"
            )
            for n in range(65_536)
        ]
        taken = services.reservations.hold(1, 2**63 - 65_536)
        response = await client.get("/concerts/schedules/11/seats", headers=token(services.token()))
        assert response.status_code == 200
        seats = response.json()["seats"]
        assert len(seats) == 65_536
        assert seats[0] == {
            "id": 2**63 - 1,
            "seatNum": "🎟" * 16,
            "price": "9999999999.99",
            "status": "AVAILABLE",
        }
        assert [seat["id"] for seat in seats if seat["status"] == "HELD"] == [taken.seat_id]

    async def test_a_service_without_pages_beside_one_with_pages(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        services.concerts.rows_per_page = 1
        services.concerts.knows_page_tokens = False
        response = await client.get("/concerts/schedules/11/seats", headers=token(services.token()))
        assert [seat["id"] for seat in response.json()["seats"]] == [102, 101, 103]
        assert len(services.faults.of("ListSeats")) == 2
        response = await client.get("/concerts/1/schedules", headers=token(services.token()))
        assert [date["id"] for date in response.json()["schedules"]] == [11, 12]

    async def test_concurrent_requests_share_one_read(
        self, open_gateway: OpenGateway, services: Services
    ) -> None:
        client = await open_gateway(seats_ttl_seconds=1, facts_ttl_seconds=30)
        headers = token(services.token())
        responses = await asyncio.gather(
            *(client.get("/concerts/schedules/11/seats", headers=headers) for _ in range(50))
        )
        assert {response.status_code for response in responses} == {200}
        assert len(services.faults.of("ListSeats")) == 1
        assert len(services.faults.of("ListTakenSeats")) == 1

    async def test_a_failure_is_not_cached(
        self, open_gateway: OpenGateway, services: Services
    ) -> None:
        client = await open_gateway(seats_ttl_seconds=1, facts_ttl_seconds=30)
        headers = token(services.token())
        path = "/concerts/schedules/11/seats"
        services.faults.errors["ListTakenSeats"] = RuntimeError("unavailable")
        assert_problem(await client.get(path, headers=headers), 500, "INTERNAL")
        services.faults.errors.clear()
        assert (await client.get(path, headers=headers)).status_code == 200


class TestHoldingASeat:
    async def test_returns_the_hold(self, client: httpx.AsyncClient, services: Services) -> None:
        response = await client.post(
            "/concerts/reservation",
            json={"userId": 42, "concertSeatId": 101},
            headers=token(services.token()) | {"Idempotency-Key": "k-1"},
        )
        assert response.status_code == 200
        assert response.json() == {
            "reservationId": 1,
            "price": "90000.50",
            "heldUntil": "2026-12-01T12:05:00.120Z",
        }
        (call,) = services.faults.of("Reserve")
        assert (call.request.user_id, call.request.seat_id) == (42, 101)
        assert call.request.idempotency_key == "k-1"

    async def test_without_an_idempotency_key(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        await client.post(
            "/concerts/reservation",
            json={"userId": 42, "concertSeatId": 101},
            headers=token(services.token()),
        )
        assert services.faults.of("Reserve")[0].request.idempotency_key == ""


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

    @pytest.mark.parametrize("method", ["Reserve", "Pay"])
    async def test_a_service_that_knows_the_end_of_the_admission_is_asked_once(
        self, client: httpx.AsyncClient, services: Services, pay: str, method: str
    ) -> None:
        headers = token(services.token())
        services.faults.errors[method] = service_error("TOKEN_EXPIRED", Gone)
        path, body = {
            "Reserve": ("/concerts/reservation", {"userId": 42, "concertSeatId": 103}),
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


class TestOneReservation:
    async def test_can_be_read(self, client: httpx.AsyncClient, services: Services) -> None:
        services.reservations.hold(42, 101)
        response = await client.get("/concerts/reservations/1", headers=token(services.token()))
        assert response.status_code == 200
        assert response.json() == {
            "reservationId": 1,
            "price": "90000.50",
            "heldUntil": "2026-12-01T12:05:00.120Z",
            "concertSeatId": 101,
            "scheduleId": 11,
            "seatNum": "A2",
            "status": "HELD",
        }

    async def test_can_be_read_without_an_admission(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        services.reservations.hold(42, 101).status = CONFIRMED
        response = await client.get(
            "/concerts/reservations/1", headers=token(services.ended_token())
        )
        assert (response.status_code, response.json()["status"]) == (200, "CONFIRMED")
        assert response.json()["heldUntil"] is None

    async def test_can_be_cancelled(self, client: httpx.AsyncClient, services: Services) -> None:
        services.reservations.hold(42, 101)
        headers = token(services.token())
        response = await client.delete("/concerts/reservations/1", headers=headers)
        assert (response.status_code, response.content) == (204, b"")
        response = await client.get("/concerts/reservations/1", headers=headers)
        assert response.json()["status"] == "CANCELLED"
        response = await client.delete("/concerts/reservations/1", headers=headers)
        assert response.status_code == 204

    @pytest.mark.parametrize("method", ["GET", "DELETE"])
    async def test_is_only_for_its_owner(
        self, client: httpx.AsyncClient, services: Services, method: str
    ) -> None:
        services.reservations.hold(1, 101)
        response = await client.request(
            method, "/concerts/reservations/1", headers=token(services.token(42))
        )
        assert_problem(response, 403, "NOT_YOURS")

    async def test_cannot_be_cancelled_once_paid(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        services.reservations.hold(42, 101).status = CONFIRMED
        response = await client.delete("/concerts/reservations/1", headers=token(services.token()))
        assert_problem(response, 409, "ALREADY_PAID")


class TestHealth:
    @pytest.fixture
    def checks(self, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
        """The results of all checks of the services."""
        results: list[list[str]] = []
        check = Clients.unavailable_services

        async def counted(clients: Clients) -> list[str]:
            results.append(await check(clients))
            return results[-1]

        monkeypatch.setattr(Clients, "unavailable_services", counted)
        return results

    async def test_ready_when_every_service_answers(self, client: httpx.AsyncClient) -> None:
        response = await client.get("/health/ready")
        assert response.status_code == 200
        assert response.json() == {"status": "ready", "away": [], "roomView": "off"}

    async def test_not_ready_names_the_unavailable_services(
        self, open_gateway: OpenGateway, unused_address: str
    ) -> None:
        client = await open_gateway(payment_addr=unused_address)
        response = await client.get("/health/ready")
        assert response.status_code == 503
        expected = {"status": "not ready", "away": ["payment_service"], "roomView": "off"}
        assert response.json() == expected
        assert response.headers["Retry-After"] == "1"
        assert (await client.get("/health/live")).json() == {"status": "live"}

    async def test_a_draining_service_is_unavailable(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        await services.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert (await client.get("/health/ready")).status_code == 503

    async def test_the_services_are_asked_once_a_second(
        self, open_gateway: OpenGateway, checks: list[list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = await open_gateway(readiness_ttl_seconds=1)
        crowd = await asyncio.gather(*(client.get("/health/ready") for _ in range(50)))
        crowd += [await client.get("/health/ready") for _ in range(50)]
        assert {response.status_code for response in crowd} == {200}
        assert len(checks) == 1
        monkeypatch.setattr(health, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 1))
        await client.get("/health/ready")
        assert len(checks) == 2

    async def test_a_recovery_shows_soon(
        self, open_gateway: OpenGateway, services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = await open_gateway(readiness_ttl_seconds=1)
        await services.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert (await client.get("/health/ready")).status_code == 503
        await services.health.set("", health_pb2.HealthCheckResponse.SERVING)
        assert (await client.get("/health/ready")).status_code == 503
        later = SimpleNamespace(monotonic=lambda: time.monotonic() + 0.1)
        monkeypatch.setattr(health, "time", later)
        assert (await client.get("/health/ready")).status_code == 200

    async def test_a_client_that_leaves_does_not_end_the_check_for_the_others(
        self, open_gateway: OpenGateway, checks: list[list[str]]
    ) -> None:
        client = await open_gateway(readiness_ttl_seconds=1)
        impatient, patient = (asyncio.create_task(client.get("/health/ready")) for _ in range(2))
        await asyncio.sleep(0)
        impatient.cancel()
        assert (await patient).status_code == 200
        assert len(checks) == 1

    async def test_a_drain_shows_at_once(self, open_gateway: OpenGateway) -> None:
        drain = Drain()
        client = await open_gateway(drain=drain, readiness_ttl_seconds=1)
        assert (await client.get("/health/ready")).status_code == 200
        drain.begun = True
        response = await client.get("/health/ready")
        assert (response.status_code, response.json()["status"]) == (503, "draining")


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
