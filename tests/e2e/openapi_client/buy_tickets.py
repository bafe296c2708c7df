"""Buys two tickets with the generated client: `buy_tickets.py URL USER_ID CONCERT_ID`.

Runs in the client's own environment, with the folder of `frontrow_client` in PYTHONPATH. Prints
what it bought as JSON.
"""

import json
import sys
import time
from typing import TypeVar

from frontrow_client import Client
from frontrow_client.api.concerts import list_concerts, list_schedules, list_seats
from frontrow_client.api.queue import enter_queue, get_order
from frontrow_client.api.reservations import get_reservation, hold_seat, pay_reservation
from frontrow_client.models import (
    Concerts,
    EnterQueueRequest,
    Hold,
    HoldSeatRequest,
    Payment,
    PayReservationRequest,
    Problem,
    QueueOrder,
    Reservation,
    Schedules,
    Seats,
    SeatStatus,
)

Model = TypeVar("Model")


def main(url: str, user_id: int, concert_id: int) -> None:
    """Enters the queue, waits, takes the first two available seats of the first date, and pays."""
    client = Client(base_url=url)
    refused = parsed(Problem, get_order.sync(client=client, x_access_token="forged"))

    entered = enter_queue.sync_detailed(client=client, body=EnterQueueRequest(user_id=user_id))
    position = parsed(QueueOrder, entered.parsed)
    token = entered.headers["X-Access-Token"]
    while position.order > 0:
        time.sleep(position.poll_after_seconds)
        position = parsed(QueueOrder, get_order.sync(client=client, x_access_token=token))

    page = parsed(Concerts, list_concerts.sync(client=client, x_access_token=token, page_size=1))
    dates = parsed(Schedules, list_schedules.sync(concert_id, client=client, x_access_token=token))
    schedule = dates.schedules[0]
    seats = parsed(Seats, list_seats.sync(schedule.id, client=client, x_access_token=token))
    free = [seat.id for seat in seats.seats if seat.status == SeatStatus.AVAILABLE]

    hold = parsed(
        Hold,
        hold_seat.sync(
            client=client,
            body=HoldSeatRequest(user_id=user_id, concert_seat_ids=free[:2]),
            x_access_token=token,
            idempotency_key="hold",
        ),
    )
    payment = parsed(
        Payment,
        pay_reservation.sync(
            hold.reservation_id,
            client=client,
            body=PayReservationRequest(user_id=user_id),
            x_access_token=token,
        ),
    )
    reservation = parsed(
        Reservation,
        get_reservation.sync(hold.reservation_id, client=client, x_access_token=token),
    )
    bought = {
        "refused": refused.code,
        "concerts": len(page.concerts),
        "held": [seat.id for seat in hold.seats],
        "price": hold.price,
        "payment": payment.status,
        "reservation": reservation.reservation_id,
        "seats": [seat.seat_num for seat in reservation.seats],
    }
    print(json.dumps(bought))


def parsed(model: type[Model], response: object) -> Model:
    """Returns the response as `model`. Exits with what came instead."""
    if not isinstance(response, model):
        sys.exit(f"expected {model.__name__}, got {response}")
    return response


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
