"""Concerts, their dates and their seats: the successful responses, field by field."""

import asyncio

import httpx
import pytest

from protos.frontrow.concert.v1 import concert_pb2
from tests.gateway.conftest import OpenGateway
from tests.gateway.fakes import (
    CONFIRMED,
    ROWS_PER_PAGE,
    Services,
)
from tests.gateway.fakes.tokens import token
from tests.gateway.problems import assert_problem


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

    async def test_a_service_without_pages_beside_one_with_pages(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        services.concerts.rows_per_page = 1
        services.concerts.knows_page_tokens = False
        response = await client.get("/concerts/1/schedules", headers=token(services.token()))
        assert [date["id"] for date in response.json()["schedules"]] == [11, 12]
        assert len(services.faults.of("ListSchedules")) == 2

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
            ],
            "currency": "KRW",
        }

    async def test_as_many_seats_as_a_date_can_have(
        self, open_gateway: OpenGateway, services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = await open_gateway(read_budget_seconds=20)
        # Comparing as many with the OpenAPI document takes seconds.
        monkeypatch.setitem(client.event_hooks, "response", [])
        # The column is a SMALLINT UNSIGNED, a name has 16 characters of at most 4 bytes.
        services.concerts.seats = [
            concert_pb2.Seat(
                id=2**63 - 65_536 + n, schedule_id=11, seat_num="🎟" * 16, price="9999999999.99"
            )
            for n in range(65_536)
        ]
        taken = services.reservations.hold(1, 2**63 - 1)
        response = await client.get("/concerts/schedules/11/seats", headers=token(services.token()))
        assert response.status_code == 200
        seats = response.json()["seats"]
        assert len(seats) == 65_536
        assert seats[0] == {
            "id": 2**63 - 65_536,
            "seatNum": "🎟" * 16,
            "price": "9999999999.99",
            "status": "AVAILABLE",
        }
        assert [seat["id"] for seat in seats if seat["status"] == "HELD"] == [taken.seat_id]

    async def test_an_unknown_date(self, client: httpx.AsyncClient, services: Services) -> None:
        response = await client.get("/concerts/schedules/99/seats", headers=token(services.token()))
        assert_problem(response, 404, "SCHEDULE_NOT_FOUND")
        assert services.faults.of("GetTakenSeats") == []

    async def test_a_date_brings_the_facts_of_the_other_dates_of_its_concert(
        self, open_gateway: OpenGateway, services: Services
    ) -> None:
        client = await open_gateway(facts_ttl_seconds=30)
        for _ in range(2):
            for schedule_id in (11, 12):
                path = f"/concerts/schedules/{schedule_id}/seats"
                assert (await client.get(path, headers=token(services.token()))).is_success
        assert len(services.faults.of("GetSeatMaps")) == 1

    async def test_concurrent_requests_share_one_read(
        self, open_gateway: OpenGateway, services: Services
    ) -> None:
        client = await open_gateway(seats_ttl_seconds=1, facts_ttl_seconds=30)
        headers = token(services.token())
        responses = await asyncio.gather(
            *(client.get("/concerts/schedules/11/seats", headers=headers) for _ in range(50))
        )
        assert {response.status_code for response in responses} == {200}
        assert len(services.faults.of("GetSeatMaps")) == 1
        assert len(services.faults.of("GetTakenSeats")) == 1

    async def test_a_failure_is_not_cached(
        self, open_gateway: OpenGateway, services: Services
    ) -> None:
        client = await open_gateway(seats_ttl_seconds=1, facts_ttl_seconds=30)
        headers = token(services.token())
        path = "/concerts/schedules/11/seats"
        services.faults.errors["GetTakenSeats"] = RuntimeError("unavailable")
        assert_problem(await client.get(path, headers=headers), 500, "INTERNAL")
        services.faults.errors.clear()
        assert (await client.get(path, headers=headers)).status_code == 200
