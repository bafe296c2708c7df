"""No request or response can exceed gRPC's limit of a message, whatever is stored."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from concert_service.domain import (
    MAX_CONCERTS_PER_PAGE,
    MAX_ROWS_PER_PAGE,
    MAX_SEAT_MAP_IDS,
    MAX_SEATS,
)
from protos.frontrow.concert.v1 import concert_pb2
from protos.frontrow.payment.v1 import payment_pb2
from protos.frontrow.queue.v1 import queue_pb2
from protos.frontrow.reservation.v1 import reservation_pb2
from protos.limits import MAX_ITEMS, MAX_SEATS_PER_HOLD
from queue_service.room_copy import PART_ADMISSIONS, PART_PLACES
from queue_service.watch import MAX_CHANGES_BYTES
from reservation_service import house
from reservation_service.domain import MAX_SCHEDULES
from reservation_service.service import MAX_TOUCHED_RANGES

# gRPC's default for what a channel or a server accepts.
LIMIT = 4 * 1024 * 1024
# `position` of a seat is a SMALLINT UNSIGNED.
SEATS_PER_SCHEDULE = 65_536

# The messages that are a reservation.
RESERVATIONS = (
    "Reservation",
    "ReserveResponse",
    "GetReservationResponse",
    "CancelReservationResponse",
    "BeginPaymentResponse",
)

# How many entries each repeated field has at most. The fields that list everything, for callers
# that ask for no page, are not called without one by any program of ours.
ENTRIES = {
    "ListConcertsResponse.concerts": MAX_CONCERTS_PER_PAGE,
    "ListSchedulesResponse.schedules": MAX_ROWS_PER_PAGE,
    "ListSeatsResponse.seats": MAX_ROWS_PER_PAGE,
    "GetSeatsRequest.seat_ids": MAX_SEATS,
    "GetSeatsResponse.seats": MAX_SEATS,
    "GetSeatMapsRequest.schedule_ids": MAX_SEAT_MAP_IDS,
    "GetSeatMapsRequest.seat_ids": MAX_SEAT_MAP_IDS,
    "ListTakenSeatsResponse.held_seat_ids": SEATS_PER_SCHEDULE,
    "ListTakenSeatsResponse.sold_seat_ids": SEATS_PER_SCHEDULE,
    "GetTakenSeatsRequest.schedule_ids": MAX_ITEMS,
    "GetTakenSeatsRequest.touched_in": MAX_TOUCHED_RANGES,
    "CountSoldSeatsRequest.schedule_ids": MAX_SCHEDULES,
    "CountSoldSeatsResponse.sold_by_schedule": MAX_SCHEDULES,
    "CountSoldSeatsResponse.blocked_by_schedule": MAX_SCHEDULES,
    "CountSoldSeatsResponse.closed_schedules": MAX_SCHEDULES,
    "BlockSeatsRequest.seat_ids": house.MAX_SEATS,
    "ReleaseSeatsRequest.seat_ids": house.MAX_SEATS,
    "CloseSchedulesRequest.schedule_ids": house.MAX_SCHEDULES,
    "CloseSchedulesResponse.paying_reservation_ids": house.MAX_LISTED,
    "ReopenSchedulesRequest.schedule_ids": house.MAX_SCHEDULES,
    "WatchRoomRequest.seen": MAX_ITEMS,
    # One script moves, ends or restores at most some hundred places, each in at most two steps.
    "RoomChanges.changes": 2_048,
    "RoomSnapshot.waiting": PART_PLACES,
    "RoomSnapshot.admitted": PART_ADMISSIONS,
    "HandBackRequest.ended": MAX_ITEMS,
    "HandBackRequest.admitted": MAX_ITEMS,
    "HandBackRequest.waiting": MAX_ITEMS,
    "HoldSeatsRequest.items": MAX_ITEMS,
    "HoldSeatsResponse.results": MAX_ITEMS,
    "BeginPaymentsRequest.items": MAX_ITEMS,
    "BeginPaymentsResponse.results": MAX_ITEMS,
    "PayReservationsRequest.items": MAX_ITEMS,
    "PayReservationsResponse.results": MAX_ITEMS,
    # One more than may be held, to be refused for it.
    "SeatChoice.seat_ids": MAX_SEATS_PER_HOLD + 1,
    # Of a reservation, whatever the message that describes it.
    **{f"{message}.seats": MAX_SEATS_PER_HOLD for message in RESERVATIONS},
    # Some numbers, and the ids of seats.
    "ItemError.metadata": 4,
}
# Limited as a whole, with tests in tests/seat_maps and tests/reservation_service. A channel for
# seat maps accepts more.
BY_BYTES = ("GetSeatMapsResponse", "GetTakenSeatsResponse", "ListBuyersResponse")
# The requests and responses of queue_service are batches.
BATCHES = ("EnterQueue", "GetPositions", "RenewTokens")
# Bytes of the longest text; anything else is shorter than TEXT_BYTES, four for each of the 255
# characters of an idempotency key.
LENGTHS = {
    "Seat.seat_num": 16 * 4,
    "Seat.price": 16,
    "Seat.currency": 3,
    "Schedule.date": 10,
    "ReservedSeat.seat_num": 16 * 4,
    "ReservedSeat.price": 16,
    "ItemError.code": 32,
}
TEXT_BYTES = 255 * 4

METHODS = [
    method
    for file in (concert_pb2, payment_pb2, queue_pb2, reservation_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_the_largest_message_is_below_the_limit(method: MethodDescriptor) -> None:
    for message in messages(method):
        assert message.ByteSize() < LIMIT


def messages(method: MethodDescriptor) -> Iterator[Message]:
    """The largest request and response."""
    for descriptor in (method.input_type, method.output_type):
        if descriptor.name in BY_BYTES:
            continue
        message = GetMessageClass(descriptor)()
        fill(message)
        yield message


def fill(message: Message) -> None:
    """Sets every field to the most that it can hold."""
    fields: Sequence[Any] = message.DESCRIPTOR.fields
    for field in fields:
        name = f"{message.DESCRIPTOR.name}.{field.name}"
        if field.containing_oneof is not None and not is_largest(field):
            continue
        if not field.is_repeated:
            if field.message_type is not None:
                child = getattr(message, field.name)
                child.SetInParent()
                fill(child)
            else:
                setattr(message, field.name, largest(field, name))
            continue
        entries = getattr(message, field.name)
        count = most_entries(name)
        if field.message_type is None:
            entries.extend([largest(field, name)] * count)
        elif field.message_type.GetOptions().map_entry:
            fill_map(field, entries, count)
        else:
            entry = GetMessageClass(field.message_type)()
            fill(entry)
            entries.extend([entry] * count)


def fill_map(field: Any, entries: Any, count: int) -> None:
    """Adds so many entries, each of them as large as it can be."""
    key, value = (
        field.message_type.fields_by_name["key"],
        field.message_type.fields_by_name["value"],
    )
    for number in range(count):
        is_text = key.cpp_type == FieldDescriptor.CPPTYPE_STRING
        entries[str(number) if is_text else -1 - number] = largest(value, field.name)


def is_largest(field: Any) -> bool:
    """Returns whether no other member of its oneof can be larger."""

    def size(member: Any) -> int:
        if member.message_type is None:
            return 10
        message = GetMessageClass(member.message_type)()
        fill(message)
        return message.ByteSize()

    return bool(field is max(field.containing_oneof.fields, key=size))


def most_entries(name: str) -> int:
    if name.startswith(BATCHES):
        return MAX_ITEMS
    if name == "WatchRoomResponse.changes":
        return changes_of_a_message()
    assert name in ENTRIES, f"{name} has no limit: list it in pages"
    return ENTRIES[name]


def changes_of_a_message() -> int:
    """As many of the largest as their limit of bytes allows."""
    changes = queue_pb2.RoomChanges()
    fill(changes)
    return max(1, MAX_CHANGES_BYTES // changes.ByteSize())


def largest(field: Any, name: str) -> object:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            size = LENGTHS.get(name, TEXT_BYTES)
            return bytes(size) if field.type == FieldDescriptor.TYPE_BYTES else "x" * size
        case FieldDescriptor.CPPTYPE_BOOL:
            return True
        case FieldDescriptor.CPPTYPE_ENUM:
            return max(value.number for value in field.enum_type.values)
        case FieldDescriptor.CPPTYPE_INT32 | FieldDescriptor.CPPTYPE_INT64:
            return -1  # ten bytes, as a varint
        case FieldDescriptor.CPPTYPE_UINT32 | FieldDescriptor.CPPTYPE_UINT64:
            return 2**32 - 1
    return 1.5
