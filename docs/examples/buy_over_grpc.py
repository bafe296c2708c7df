"""Buys adjacent seats from the services themselves, without the gateway.

    python -m docs.examples.buy_over_grpc --user 42 --count 2

Needs grpcio and the `protos` package, and nothing else of this project.
"""

import argparse
import os
import random
import sys
import time

import grpc

from protos.frontrow.concert.v1 import concert_pb2, concert_pb2_grpc
from protos.frontrow.payment.v1 import payment_pb2, payment_pb2_grpc
from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc
from protos.frontrow.reservation.v1 import reservation_pb2, reservation_pb2_grpc

# Every call has a deadline, in seconds. Paying waits for the payment provider.
DEADLINE = 5.0
PAY_DEADLINE = 10.0
# The services are reached directly, also where `http_proxy` is set.
DIRECT = (("grpc.enable_http_proxy", 0),)


def enter_queue(stub: queue_pb2_grpc.QueueServiceStub, room: str, user: int) -> queue_pb2.Place:
    """Enters the queue and returns the place once it is admitted."""
    request = queue_pb2.EnterQueueRequest(room=room, user_ids=[user])
    (entered,) = stub.EnterQueue(request, timeout=DEADLINE).results
    if entered.error_code:
        raise SystemExit(f"the waiting room gives no place: {entered.error_code}")
    position = entered.position
    while position.state == queue_pb2.PLACE_STATE_WAITING:
        print(f"waiting: number {position.order} in line")
        time.sleep(position.poll_after_ms / 1000)
        poll = queue_pb2.GetPositionsRequest(places=[entered.place])
        (position,) = stub.GetPositions(poll, timeout=DEADLINE).positions
    if position.state != queue_pb2.PLACE_STATE_ADMITTED:
        raise SystemExit("the place has ended; enter again")
    print(f"admitted with place {entered.place.number}")
    return entered.place


def hold_seats(
    concerts: concert_pb2_grpc.ConcertServiceStub,
    reservations: reservation_pb2_grpc.ReservationServiceStub,
    user: int,
    count: int,
) -> reservation_pb2.Reservation:
    """Holds the best adjacent seats of the first date that has so many."""
    page = concerts.ListConcerts(concert_pb2.ListConcertsRequest(), timeout=DEADLINE)
    for concert in page.concerts:
        dates = concerts.ListSchedules(
            concert_pb2.ListSchedulesRequest(concert_id=concert.id), timeout=DEADLINE
        )
        for date in dates.schedules:
            print(f"asking for {count} seats of {concert.title!r} on {date.date}")
            # One call may hold seats for many users, each item by itself.
            best = reservation_pb2.BestAvailable(schedule_id=date.id, count=count)
            item = reservation_pb2.HoldSeatsRequest.Item(user_id=user, best_available=best)
            request = reservation_pb2.HoldSeatsRequest(items=[item])
            (result,) = reservations.HoldSeats(request, timeout=DEADLINE).results
            if result.HasField("reservation"):
                return result.reservation
            if result.error.code != "NOT_ENOUGH_SEATS":
                raise SystemExit(f"no seats are held: {result.error.code}")
    raise SystemExit("no date has so many adjacent seats")


def pay(
    stub: payment_pb2_grpc.PaymentServiceStub,
    reservation: reservation_pb2.Reservation,
    place: queue_pb2.Place,
) -> payment_pb2.PayResponse:
    """Pays, and repeats the call while the outcome is unknown. Paying twice charges once."""
    request = payment_pb2.PayRequest(
        reservation_id=reservation.id,
        user_id=reservation.user_id,
        # The payment ends the admission of this place, and the next in line is admitted.
        admission=payment_pb2.Admission(room=place.room, place_number=place.number),
    )
    while True:
        payment = stub.Pay(request, timeout=PAY_DEADLINE)
        if payment.status != payment_pb2.PAYMENT_STATUS_PENDING:
            return payment
        print("the outcome is not known yet, repeating the call")
        time.sleep(1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--user", type=int, default=random.randint(10**9, 10**10))
    parser.add_argument("--count", type=int, default=2, help="how many adjacent seats")
    parser.add_argument("--room", default="main")
    for name, port in (
        ("queue", 9101),
        ("concert", 9102),
        ("reservation", 9103),
        ("payment", 9104),
    ):
        address = os.environ.get(f"{name.upper()}_ADDR", f"127.0.0.1:{port}")
        parser.add_argument(f"--{name}", default=address, help=f"{name}_service, host:port")
    return parser.parse_args()


def main() -> int:
    """Returns 0 if the ticket was bought, 1 if not."""
    chosen = arguments()
    with (
        grpc.insecure_channel(chosen.queue, options=DIRECT) as queue,
        grpc.insecure_channel(chosen.concert, options=DIRECT) as concert,
        grpc.insecure_channel(chosen.reservation, options=DIRECT) as reservation,
        grpc.insecure_channel(chosen.payment, options=DIRECT) as payment,
    ):
        try:
            place = enter_queue(queue_pb2_grpc.QueueServiceStub(queue), chosen.room, chosen.user)
            held = hold_seats(
                concert_pb2_grpc.ConcertServiceStub(concert),
                reservation_pb2_grpc.ReservationServiceStub(reservation),
                chosen.user,
                chosen.count,
            )
            seats = ", ".join(seat.seat_num for seat in held.seats)
            print(f"holding {seats} for {held.price}: reservation {held.id}")
            paid = pay(payment_pb2_grpc.PaymentServiceStub(payment), held, place)
        except grpc.RpcError as error:
            print(f"{error.code().name}: {error.details()}", file=sys.stderr)
            return 1
    status = payment_pb2.PaymentStatus.Name(paid.status)
    print(f"payment {paid.id}: {status.removeprefix('PAYMENT_STATUS_')}")
    return 0 if paid.status == payment_pb2.PAYMENT_STATUS_SUCCEEDED else 1


if __name__ == "__main__":
    sys.exit(main())
