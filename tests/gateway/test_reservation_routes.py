"""Holding seats in each form of the request; reading and cancelling a reservation."""

import httpx
import pytest

from protos.frontrow.reservation.v1 import reservation_pb2
from servicekit.errors import Conflict
from tests.gateway.fakes import CONFIRMED, Services, service_error
from tests.gateway.fakes.tokens import token
from tests.gateway.problems import assert_problem

HELD_UNTIL = "2026-12-01T12:05:00.120Z"
SEAT_101 = {"id": 101, "seatNum": "A2", "price": "90000.50"}
SEAT_102 = {"id": 102, "seatNum": "A1", "price": "150000.00"}


async def hold(
    client: httpx.AsyncClient, services: Services, choice: dict[str, object], key: str = ""
) -> httpx.Response:
    """Sends the request of user 42, who is admitted."""
    headers = token(services.token(42)) | ({"Idempotency-Key": key} if key else {})
    return await client.post("/concerts/reservation", json={"userId": 42} | choice, headers=headers)


def sent(services: Services) -> reservation_pb2.HoldSeatsRequest.Item:
    """Returns the only item that reservation_service has got."""
    (call,) = services.faults.of("HoldSeats")
    (item,) = call.request.items
    assert isinstance(item, reservation_pb2.HoldSeatsRequest.Item)
    return item


class TestHoldingSeats:
    async def test_one(self, client: httpx.AsyncClient, services: Services) -> None:
        place = services.queue.enter(42)
        response = await hold(client, services, {"concertSeatId": 101}, key="k-1")
        assert response.status_code == 200
        assert response.json() == {
            "reservationId": 1,
            "price": "90000.50",
            "currency": "KRW",
            "heldUntil": HELD_UNTIL,
            "seats": [SEAT_101],
        }
        assert sent(services) == reservation_pb2.HoldSeatsRequest.Item(
            user_id=42,
            seats=reservation_pb2.SeatChoice(seat_ids=[101]),
            idempotency_key="k-1",
            admission=reservation_pb2.Admission(room="main", place_number=place.number),
        )

    async def test_several(self, client: httpx.AsyncClient, services: Services) -> None:
        response = await hold(client, services, {"concertSeatIds": [102, 101]}, key="k-1")
        assert response.status_code == 200
        assert response.json() == {
            "reservationId": 1,
            "price": "240000.50",
            "currency": "KRW",
            "heldUntil": HELD_UNTIL,
            "seats": [SEAT_101, SEAT_102],
        }
        # The service normalises the order, for the key too.
        assert list(sent(services).seats.seat_ids) == [102, 101]
        assert sent(services).idempotency_key == "k-1"

    async def test_a_list_of_one(self, client: httpx.AsyncClient, services: Services) -> None:
        response = await hold(client, services, {"concertSeatIds": [101]})
        assert response.json()["seats"] == [SEAT_101]
        assert list(sent(services).seats.seat_ids) == [101]

    async def test_the_best(self, client: httpx.AsyncClient, services: Services) -> None:
        best = {"scheduleId": 11, "count": 2}
        response = await hold(client, services, {"bestAvailable": best})
        assert response.json()["seats"] == [SEAT_101, SEAT_102]
        assert response.json()["price"] == "240000.50"
        assert sent(services).best_available == reservation_pb2.BestAvailable(
            schedule_id=11, count=2
        )
        assert sent(services).idempotency_key == ""

    async def test_the_best_with_every_wish(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        best = {
            "scheduleId": 11,
            "count": 2,
            "priceCategory": "Gold",
            "accessible": True,
            "allowSplit": True,
        }
        response = await hold(client, services, {"bestAvailable": best})
        assert response.status_code == 200
        assert sent(services).best_available == reservation_pb2.BestAvailable(
            schedule_id=11, count=2, price_category="Gold", accessible=True, allow_split=True
        )

    @pytest.mark.parametrize(
        "others",
        [
            {"concertSeatIds": None, "bestAvailable": None},
            {"concert_seat_ids": [102], "SeatIds": 5},
        ],
    )
    async def test_null_and_unknown_members_do_not_count(
        self, client: httpx.AsyncClient, services: Services, others: dict[str, object]
    ) -> None:
        response = await hold(client, services, {"concertSeatId": 101} | others)
        assert response.json()["seats"] == [SEAT_101]


class TestARequestThatIsNoChoice:
    @pytest.mark.parametrize(
        ("choice", "fields"),
        [
            ({}, ["concertSeatId"]),
            ({"concertSeatId": None}, ["concertSeatId"]),
            (
                {"concertSeatId": 101, "concertSeatIds": [102]},
                ["concertSeatId", "concertSeatIds"],
            ),
            (
                {"concertSeatIds": [102], "bestAvailable": {"scheduleId": 11, "count": 1}},
                ["concertSeatIds", "bestAvailable"],
            ),
            (
                {
                    "concertSeatId": 101,
                    "concertSeatIds": [102],
                    "bestAvailable": {"scheduleId": 11, "count": 1},
                },
                ["concertSeatId", "concertSeatIds", "bestAvailable"],
            ),
            ({"concertSeatId": "x", "concertSeatIds": [102]}, ["concertSeatId", "concertSeatIds"]),
            ({"concertSeatIds": []}, ["concertSeatIds"]),
            ({"concertSeatIds": [101, 102, 101]}, ["concertSeatIds"]),
            ({"concertSeatIds": 101}, ["concertSeatIds"]),
            ({"concertSeatIds": "101"}, ["concertSeatIds"]),
            ({"concertSeatIds": {"101": 1}}, ["concertSeatIds"]),
            ({"concertSeatIds": [101, 0, "x"]}, ["concertSeatIds.1", "concertSeatIds.2"]),
            ({"concertSeatIds": [True]}, ["concertSeatIds.0"]),
            ({"bestAvailable": []}, ["bestAvailable"]),
            ({"bestAvailable": {}}, ["bestAvailable.scheduleId", "bestAvailable.count"]),
            ({"bestAvailable": {"scheduleId": 11, "count": 0}}, ["bestAvailable.count"]),
            ({"bestAvailable": {"scheduleId": 11, "count": True}}, ["bestAvailable.count"]),
            (
                {"bestAvailable": {"scheduleId": 0, "count": 1, "priceCategory": ""}},
                ["bestAvailable.scheduleId", "bestAvailable.priceCategory"],
            ),
            (
                {
                    "bestAvailable": {
                        "scheduleId": 11,
                        "count": 1,
                        "priceCategory": "x" * 65,
                        "accessible": "true",
                        "allowSplit": 1,
                    }
                },
                [
                    "bestAvailable.priceCategory",
                    "bestAvailable.accessible",
                    "bestAvailable.allowSplit",
                ],
            ),
        ],
    )
    async def test_names_its_fields(
        self,
        client: httpx.AsyncClient,
        services: Services,
        choice: dict[str, object],
        fields: list[str],
    ) -> None:
        body = assert_problem(await hold(client, services, choice), 422, "INVALID_REQUEST")
        assert [error["field"] for error in body["errors"]] == fields
        assert all(error["message"] for error in body["errors"])
        assert services.faults.of("HoldSeats") == []

    async def test_the_choice_is_reported_with_the_other_fields(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        response = await client.post(
            "/concerts/reservation", json={}, headers=token(services.token(42))
        )
        body = assert_problem(response, 422, "INVALID_REQUEST")
        assert [error["field"] for error in body["errors"]] == ["userId", "concertSeatId"]

    async def test_seats_of_several_dates(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        response = await hold(client, services, {"concertSeatIds": [101, 201]})
        body = assert_problem(response, 422, "INVALID_REQUEST")
        assert [error["field"] for error in body["errors"]] == ["concertSeatIds"]

    @pytest.mark.parametrize("count", [50, 51, 2_000])
    async def test_too_many_seats_are_for_the_service_to_refuse(
        self, client: httpx.AsyncClient, services: Services, count: int
    ) -> None:
        services.faults.item_errors["HoldSeats"] = service_error(
            "TOO_MANY_SEATS", Conflict, limit="8"
        )
        choices: tuple[dict[str, object], ...] = (
            {"concertSeatIds": list(range(1, count + 1))},
            {"bestAvailable": {"scheduleId": 11, "count": count}},
        )
        for choice in choices:
            response = await hold(client, services, choice)
            assert assert_problem(response, 409, "TOO_MANY_SEATS")["limit"] == 8
        by_ids, best = [call.request.items[0] for call in services.faults.of("HoldSeats")]
        # One more than any limit, so that it is refused, and no more: a call has many requests.
        assert len(by_ids.seats.seat_ids) == best.best_available.count == min(count, 51)


class TestSeatsThatCannotBeHeld:
    async def test_conflicts_are_named(self, client: httpx.AsyncClient, services: Services) -> None:
        first, second = services.reservations.hold(7, 101), services.reservations.hold(7, 103)
        choice: dict[str, object] = {"concertSeatIds": [101, 102, 103]}
        body = assert_problem(await hold(client, services, choice), 409, "SEAT_HELD")
        assert body["conflicts"] == [101, 103]
        second.status = CONFIRMED
        body = assert_problem(await hold(client, services, choice), 409, "SEAT_SOLD")
        assert body["conflicts"] == [101, 103]
        first.status = CONFIRMED
        body = assert_problem(
            await hold(client, services, {"concertSeatId": 101}), 409, "SEAT_SOLD"
        )
        assert body["conflicts"] == [101]
        # None of the three was held by the refused requests.
        response = await hold(client, services, {"concertSeatId": 102})
        assert response.json()["seats"] == [SEAT_102]

    async def test_a_single_seat_left_alone_is_named(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        services.faults.item_errors["HoldSeats"] = service_error(
            "SINGLE_SEAT_LEFT", Conflict, conflicts="103"
        )
        response = await hold(client, services, {"concertSeatIds": [101, 102]})
        assert assert_problem(response, 409, "SINGLE_SEAT_LEFT")["conflicts"] == [103]

    async def test_not_enough(self, client: httpx.AsyncClient, services: Services) -> None:
        best = {"scheduleId": 11, "count": 4}
        response = await hold(client, services, {"bestAvailable": best})
        assert_problem(response, 409, "NOT_ENOUGH_SEATS")

    async def test_of_an_unknown_date(self, client: httpx.AsyncClient, services: Services) -> None:
        best = {"scheduleId": 99, "count": 1}
        response = await hold(client, services, {"bestAvailable": best})
        assert_problem(response, 404, "SCHEDULE_NOT_FOUND")

    async def test_that_cool_down(self, client: httpx.AsyncClient, services: Services) -> None:
        services.faults.item_errors["HoldSeats"] = service_error(
            "SEAT_HELD", Conflict, conflicts="102", retry_after="217"
        )
        response = await hold(client, services, {"concertSeatIds": [101, 102]})
        assert assert_problem(response, 409, "SEAT_HELD", 217)["conflicts"] == [102]


class TestOneReservation:
    async def test_can_be_read(self, client: httpx.AsyncClient, services: Services) -> None:
        services.reservations.hold(42, 101)
        response = await client.get("/concerts/reservations/1", headers=token(services.token()))
        assert response.status_code == 200
        assert response.json() == {
            "reservationId": 1,
            "price": "90000.50",
            "currency": "KRW",
            "heldUntil": "2026-12-01T12:05:00.120Z",
            "seats": [{"id": 101, "seatNum": "A2", "price": "90000.50"}],
            "concertSeatId": 101,
            "scheduleId": 11,
            "seatNum": "A2",
            "status": "HELD",
        }

    async def test_of_several_seats_names_all_and_the_first(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        services.reservations.hold(42, 103, 101)
        response = await client.get("/concerts/reservations/1", headers=token(services.token()))
        assert response.json() == {
            "reservationId": 1,
            "price": "90000.55",
            "currency": "KRW",
            "heldUntil": "2026-12-01T12:05:00.120Z",
            "seats": [
                {"id": 101, "seatNum": "A2", "price": "90000.50"},
                {"id": 103, "seatNum": "A10", "price": "0.05"},
            ],
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
