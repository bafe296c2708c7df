"""The entrances of reservation_service over fakes: gRPC, events, the sweep."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import grpc
import pytest
from google.protobuf.message import DecodeError

from protos.frontrow.payment.v1 import events_pb2 as payment_events_pb2
from protos.frontrow.reservation.v1 import events_pb2, reservation_pb2, reservation_pb2_grpc
from reservation_service import service as service_module
from reservation_service.consumers import STRAY, PaymentEvents, StrayPaymentEvent
from reservation_service.domain import Availability, Status
from reservation_service.service import ReservationService
from reservation_service.servicer import ReservationServicer
from reservation_service.sweep import run_sweep
from servicekit import client
from servicekit.call_interceptor import CallInterceptor
from servicekit.errors import ServiceError, Unavailable
from servicekit.kafka import Record
from servicekit.rpc_errors import RemoteError
from tests.fakes.reservation import FakeReservationStore
from tests.reservation_service.conftest import HOLD_SECONDS, make_service


@pytest.fixture
def store() -> FakeReservationStore:
    return FakeReservationStore()


@pytest.fixture
def service(store: FakeReservationStore) -> ReservationService:
    return make_service(store)


# gRPC.


@pytest.fixture
async def stub(
    service: ReservationService,
) -> AsyncIterator["reservation_pb2_grpc.ReservationServiceAsyncStub"]:
    server = grpc.aio.server(interceptors=[CallInterceptor(5.0)])
    reservation_pb2_grpc.add_ReservationServiceServicer_to_server(
        ReservationServicer(service), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with client.connect(f"127.0.0.1:{port}") as channel:
        yield reservation_pb2_grpc.ReservationServiceStub(channel)
    await server.stop(None)


async def test_over_grpc_field_by_field(
    stub: "reservation_pb2_grpc.ReservationServiceAsyncStub", service: ReservationService
) -> None:
    held = await client.call(
        stub.Reserve, reservation_pb2.ReserveRequest(user_id=42, seat_id=17), budget=2
    )
    until = held.held_until.ToDatetime(UTC)
    assert abs((until - datetime.now(UTC)).total_seconds() - HOLD_SECONDS) < 5
    expected = reservation_pb2.ReserveResponse(
        id=1,
        user_id=42,
        seat_id=17,
        schedule_id=1,
        seat_num="B2",
        price="150000.00",
        status=reservation_pb2.RESERVATION_STATUS_HELD,
        held_until=held.held_until,
        seats=[reservation_pb2.ReservedSeat(id=17, seat_num="B2", price="150000.00")],
        currency="KRW",
    )
    assert held == expected
    read = await client.call(
        stub.GetReservation,
        reservation_pb2.GetReservationRequest(reservation_id=1, user_id=42),
        budget=2,
    )
    assert read.SerializeToString(deterministic=True) == expected.SerializeToString(
        deterministic=True
    )
    paying = await client.call(
        stub.BeginPayment,
        reservation_pb2.BeginPaymentRequest(reservation_id=1, user_id=42, payment_id=7),
        budget=2,
    )
    assert (paying.status, paying.payment_id) == (reservation_pb2.RESERVATION_STATUS_PAYING, 7)
    await service.confirm_payment(1, 7)
    await client.call(
        stub.Reserve, reservation_pb2.ReserveRequest(user_id=43, seat_id=18), budget=2
    )
    taken = await client.call(
        stub.ListTakenSeats, reservation_pb2.ListTakenSeatsRequest(schedule_id=1), budget=2
    )
    assert (list(taken.held_seat_ids), list(taken.sold_seat_ids)) == ([18], [17])
    sold = await client.call(
        stub.CountSoldSeats, reservation_pb2.CountSoldSeatsRequest(schedule_ids=[1, 2]), budget=2
    )
    assert dict(sold.sold_by_schedule) == {1: 1}
    cancelled = await client.call(
        stub.CancelReservation,
        reservation_pb2.CancelReservationRequest(reservation_id=2, user_id=43),
        budget=2,
    )
    assert cancelled.status == reservation_pb2.RESERVATION_STATUS_CANCELLED


async def test_a_response_of_taken_seats_is_limited_as_a_whole(
    stub: "reservation_pb2_grpc.ReservationServiceAsyncStub",
    store: FakeReservationStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of sold-out stadiums with the largest ids."""
    asked: list[Sequence[int]] = []

    async def taken_seats(schedule_ids: Sequence[int]) -> Sequence[Availability]:
        asked.append(schedule_ids)
        return [Availability([], range(2**63 - 65_536, 2**63)) for _ in schedule_ids]

    async def touched_schedules(ranges: Sequence[tuple[int, int]], limit: int) -> Sequence[int]:
        assert ranges == [(1, 9), (2**62, 2**63 - 1)]
        return range(2**63 - limit, 2**63)

    monkeypatch.setattr(store, "taken_seats", taken_seats)
    monkeypatch.setattr(store, "touched_schedules", touched_schedules)
    answer = await client.call(
        stub.GetTakenSeats,
        reservation_pb2.GetTakenSeatsRequest(
            schedule_ids=range(1, 257),
            touched_in=[
                reservation_pb2.GetTakenSeatsRequest.Range(first=first, last=last)
                for first, last in ((1, 9), (2**62, 2**63 - 1))
            ],
        ),
        budget=10,
    )
    assert [len(each.sold_seat_ids) for each in answer.schedules] == [65_536] * 3
    assert len(answer.touched.schedule_ids) == 2_000
    assert answer.ByteSize() < 4 * 1024 * 1024
    monkeypatch.setattr(service_module, "MAX_TAKEN", 10)
    answer = await client.call(
        stub.GetTakenSeats,
        reservation_pb2.GetTakenSeatsRequest(schedule_ids=range(1, 257)),
        budget=10,
    )
    assert len(answer.schedules) == 1
    assert not answer.HasField("touched")


async def test_over_grpc_errors_keep_code_and_kind(
    stub: "reservation_pb2_grpc.ReservationServiceAsyncStub",
) -> None:
    async def refusal(user_id: int, seat_id: int, key: str = "") -> tuple[str, grpc.StatusCode]:
        request = reservation_pb2.ReserveRequest(
            user_id=user_id, seat_id=seat_id, idempotency_key=key
        )
        with pytest.raises(RemoteError) as refused:
            await client.call(stub.Reserve, request, budget=2)
        return refused.value.code, refused.value.status

    request = reservation_pb2.ReserveRequest(user_id=1, seat_id=1, idempotency_key="key")
    await client.call(stub.Reserve, request, budget=2)
    assert await refusal(2, 1) == ("SEAT_HELD", grpc.StatusCode.ALREADY_EXISTS)
    assert await refusal(1, 0) == ("INVALID_REQUEST", grpc.StatusCode.INVALID_ARGUMENT)
    assert await refusal(1, 2**62) == ("SEAT_NOT_FOUND", grpc.StatusCode.NOT_FOUND)
    assert await refusal(1, 2, "key") == (
        "IDEMPOTENCY_KEY_REUSED",
        grpc.StatusCode.INVALID_ARGUMENT,
    )


# Payment events.


def payment_event(
    reservation_id: int, payment_id: int, kind: str, *, reason: str = "CARD_DECLINED"
) -> Record:
    event = payment_events_pb2.PaymentEvent(
        event_id=f"{payment_id}-{kind}",
        payment_id=payment_id,
        reservation_id=reservation_id,
        user_id=1,
    )
    getattr(event, kind).SetInParent()
    if kind == "failed":
        event.failed.reason = reason
    return Record(
        topic="payment.events",
        key=str(reservation_id).encode(),
        value=event.SerializeToString(),
    )


async def test_a_success_event_confirms_once(
    service: ReservationService, store: FakeReservationStore
) -> None:
    events = PaymentEvents(service)
    held = await service.hold_seat(1, 1, "")
    await service.begin_payment(held.id, 1, 7, 0)
    for _ in range(2):
        assert await events.handle([payment_event(held.id, 7, "succeeded")]) == []
    assert await store.stored(held.id) == Status.CONFIRMED
    assert store.sold == {1: 1}


async def test_a_failure_event_returns_to_the_hold_and_a_refund_event_has_no_effect(
    service: ReservationService, store: FakeReservationStore
) -> None:
    events = PaymentEvents(service)
    held = await service.hold_seat(1, 1, "")
    await service.begin_payment(held.id, 1, 7, 0)
    assert await events.handle([payment_event(held.id, 7, "refunded")]) == []
    assert await store.stored(held.id) == Status.PAYING
    for _ in range(2):
        assert await events.handle([payment_event(held.id, 7, "failed")]) == []
    assert await store.stored(held.id) == Status.HELD


async def test_a_lost_seat_is_published_at_every_delivery(
    service: ReservationService, store: FakeReservationStore
) -> None:
    events = PaymentEvents(service)
    held = await service.hold_seat(1, 1, "")
    await service.begin_payment(held.id, 1, 7, 0)
    await store.lapse(held.id)
    await service.hold_seat(2, 1, "")
    for _ in range(2):
        (lost,) = await events.handle([payment_event(held.id, 7, "succeeded")])
        assert (lost.topic, lost.key) == ("reservation.events", str(held.id).encode())
        event = events_pb2.ReservationEvent.FromString(lost.value)
        assert (event.reservation_id, event.seat_lost.payment_id) == (held.id, 7)
        assert event.occurred_at.seconds > 0


async def test_invalid_events_are_refused(service: ReservationService) -> None:
    events = PaymentEvents(service)
    with pytest.raises(StrayPaymentEvent):
        await events.handle([payment_event(99, 7, "succeeded")])
    with pytest.raises(DecodeError):
        await events.handle([Record(topic="payment.events", key=b"1", value=b"\xff\xff")])
    with pytest.raises(ValueError, match="unknown kind"):
        await events.handle([Record(topic="payment.events", key=b"1", value=b"")])


async def test_a_stray_event_is_counted_and_changes_nothing(
    service: ReservationService, store: FakeReservationStore
) -> None:
    events = PaymentEvents(service)
    held = await service.hold_seat(1, 1, "")
    before = strays("succeeded")
    with pytest.raises(StrayPaymentEvent):
        await events.handle([payment_event(held.id, 999_999_999, "succeeded")])
    assert strays("succeeded") == before + 1
    assert await store.stored(held.id) == Status.HELD
    assert store.sold == {}


@pytest.mark.parametrize("reason", ["UNAVAILABLE", "CARD_DECLINED"])
async def test_a_failure_of_an_unknown_payment_is_a_no_op(
    service: ReservationService, store: FakeReservationStore, reason: str
) -> None:
    """payment_service fails a payment whose BeginPayment had no answer. The version before
    `earlier_payment` keeps no trace of a payment whose failure it has handled."""
    events = PaymentEvents(service)
    held = await service.hold_seat(1, 1, "")
    before = strays("failed")
    for reservation_id in (held.id, 99):
        record = payment_event(reservation_id, 7, "failed", reason=reason)
        assert await events.handle([record]) == []
    assert strays("failed") == before + 2
    assert await store.stored(held.id) == Status.HELD


async def test_events_that_come_together_have_the_effect_of_one_after_the_other(
    service: ReservationService, store: FakeReservationStore
) -> None:
    events = PaymentEvents(service)
    paid, declined, repaid, lost = [await service.hold_seat(1, seat, "") for seat in (1, 2, 3, 4)]
    for payment, held in enumerate((paid, declined, repaid, lost), 7):
        await service.begin_payment(held.id, 1, payment, 0)
    await service.begin_payment(repaid.id, 1, 11, 9)
    await store.lapse(lost.id)
    await service.hold_seat(2, 4, "")
    before = strays("failed")
    together = [
        payment_event(paid.id, 7, "succeeded"),
        payment_event(repaid.id, 9, "failed"),
        payment_event(99, 12, "failed"),
        payment_event(repaid.id, 11, "succeeded"),
        payment_event(lost.id, 10, "succeeded"),
        payment_event(paid.id, 7, "refunded"),
        payment_event(declined.id, 8, "failed"),
    ]
    for _ in range(2):
        (event,) = await events.handle(together)
        assert event.key == str(lost.id).encode()
    assert strays("failed") == before + 2
    assert [await store.stored(held.id) for held in (paid, repaid, declined)] == [
        Status.CONFIRMED,
        Status.CONFIRMED,
        Status.HELD,
    ]


async def test_a_stray_event_among_others_stops_none_of_them_and_is_counted_by_itself(
    service: ReservationService, store: FakeReservationStore
) -> None:
    events = PaymentEvents(service)
    first, second = [await service.hold_seat(1, seat, "") for seat in (1, 2)]
    for payment, held in enumerate((first, second), 7):
        await service.begin_payment(held.id, 1, payment, 0)
    stray = payment_event(first.id, 999_999_999, "succeeded")
    failed = payment_event(99, 12, "failed")
    before, failed_before = strays("succeeded"), strays("failed")
    with pytest.raises(StrayPaymentEvent):
        await events.handle(
            [
                failed,
                payment_event(first.id, 7, "succeeded"),
                stray,
                payment_event(second.id, 8, "succeeded"),
            ]
        )
    assert strays("succeeded") == before
    assert await store.stored(first.id) == await store.stored(second.id) == Status.CONFIRMED
    with pytest.raises(StrayPaymentEvent):
        await events.handle([stray])
    await events.handle([failed])
    assert strays("succeeded") == before + 1
    assert strays("failed") == failed_before + 1


def strays(kind: str) -> float:
    return float(STRAY.labels(kind)._value.get())


# The sweep.


async def test_the_sweep_continues_after_a_failure(
    service: ReservationService, store: FakeReservationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = await service.hold_seat(1, 1, "")
    await store.lapse(held.id)
    rounds: list[ServiceError | None] = [Unavailable("The database is unavailable."), None]
    swept = asyncio.Event()
    expire_holds = service.expire_holds

    async def sometimes() -> int:
        if (error := rounds.pop(0)) is not None:
            raise error
        swept.set()
        return await expire_holds()

    monkeypatch.setattr(service, "expire_holds", sometimes)
    sweep = asyncio.create_task(run_sweep(service, 0.001))
    await swept.wait()
    sweep.cancel()
    await asyncio.gather(sweep, return_exceptions=True)
    assert await store.stored(held.id) == Status.EXPIRED
