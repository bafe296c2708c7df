"""The response messages of ADR 0030 have the wire format of the messages that they replaced.

Services and clients of both versions run side by side during a roll.
"""

from dataclasses import dataclass

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

from protos.frontrow.concert.v1 import concert_pb2
from protos.frontrow.payment.v1 import payment_pb2
from protos.frontrow.queue.v1 import queue_pb2
from protos.frontrow.reservation.v1 import reservation_pb2

INT64 = FieldDescriptorProto.TYPE_INT64
STRING = FieldDescriptorProto.TYPE_STRING
BOOL = FieldDescriptorProto.TYPE_BOOL
# An enum has the wire format of an int32.
ENUM = FieldDescriptorProto.TYPE_INT32
TIMESTAMP = FieldDescriptorProto.TYPE_MESSAGE


@dataclass(frozen=True)
class OldMessage:
    """A message that was replaced: its fields in the order of their numbers, from 1 on, and one
    message as JSON and as the bytes that the old code wrote."""

    name: str
    fields: dict[str, FieldDescriptorProto.Type.ValueType]
    values: dict[str, str | int | bool]
    serialised: bytes
    replaced_by: tuple[type[Message], ...]

    def message_class(self) -> type[Message]:
        """Builds the old message from its descriptor."""
        file = descriptor_pb2.FileDescriptorProto(
            name=f"old/{self.name}.proto",
            package="old",
            syntax="proto3",
            dependency=[timestamp_pb2.DESCRIPTOR.name],
        )
        message = file.message_type.add(name=self.name)
        for number, (name, kind) in enumerate(self.fields.items(), start=1):
            field = message.field.add(name=name, number=number, type=kind)
            if kind == TIMESTAMP:
                field.type_name = ".google.protobuf.Timestamp"
        pool = descriptor_pool.DescriptorPool()
        pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
        pool.Add(file)
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"old.{self.name}"))


OLD_MESSAGES = [
    OldMessage(
        "Reservation",
        {
            "id": INT64,
            "user_id": INT64,
            "seat_id": INT64,
            "schedule_id": INT64,
            "seat_num": STRING,
            "price": STRING,
            "status": ENUM,
            "held_until": TIMESTAMP,
            "payment_id": INT64,
        },
        {
            "id": "300",
            "user_id": "42",
            "seat_id": "9007199254740993",
            "schedule_id": "11",
            "seat_num": "A1",
            "price": "150000.00",
            "status": 2,
            "held_until": "2026-12-01T12:05:00.120Z",
            "payment_id": "7",
        },
        bytes.fromhex(
            "08ac02102a188180808080808010200b2a02413132093135303030302e3030380242"
            "0b08ecefbad80610809c9c394807"
        ),
        (
            reservation_pb2.ReserveResponse,
            reservation_pb2.GetReservationResponse,
            reservation_pb2.CancelReservationResponse,
            reservation_pb2.BeginPaymentResponse,
        ),
    ),
    OldMessage(
        "Payment",
        {
            "id": INT64,
            "reservation_id": INT64,
            "user_id": INT64,
            "amount": STRING,
            "status": ENUM,
        },
        {
            "id": "7",
            "reservation_id": "300",
            "user_id": "42",
            "amount": "150000.00",
            "status": 4,
        },
        bytes.fromhex("080710ac02182a22093135303030302e30302804"),
        (payment_pb2.PayResponse, payment_pb2.GetPaymentOfReservationResponse),
    ),
    OldMessage(
        "Room",
        {
            "room": STRING,
            "capacity": INT64,
            "max_waiting": INT64,
            "paused": BOOL,
            "admitted": INT64,
            "waiting": INT64,
            "epoch": INT64,
            "recovering": BOOL,
        },
        {
            "room": "main",
            "capacity": "1000",
            "max_waiting": "1000000",
            "paused": True,
            "admitted": "999",
            "waiting": "123456",
            "epoch": "90000000000001",
            "recovering": True,
        },
        bytes.fromhex("0a046d61696e10e80718c0843d200128e70730c0c4073881c09e90acbb144001"),
        (queue_pb2.GetRoomResponse, queue_pb2.UpdateRoomResponse),
    ),
]
# Fields that the old messages never had; clients of the old version ignore them.
ADDED = {
    "Payment": {"admission": 6, "currency": 7},
    "Reservation": {"seats": 10, "currency": 11},
}
REPLACEMENTS = [
    pytest.param(old, new, id=new.DESCRIPTOR.name)
    for old in OLD_MESSAGES
    for new in old.replaced_by
]


def values(message: Message) -> dict[str, str | int | bool]:
    """The message as JSON, with numbers for enums as in `OldMessage.values`."""
    found: dict[str, str | int | bool] = MessageToDict(
        message, preserving_proto_field_name=True, use_integers_for_enums=True
    )
    return found


@pytest.mark.parametrize(("old", "new"), REPLACEMENTS)
def test_a_new_client_reads_what_an_old_server_sent(old: OldMessage, new: type[Message]) -> None:
    assert values(new.FromString(old.serialised)) == old.values


@pytest.mark.parametrize(("old", "new"), REPLACEMENTS)
def test_an_old_client_reads_what_a_new_server_sends(old: OldMessage, new: type[Message]) -> None:
    sent = ParseDict(old.values, new()).SerializeToString(deterministic=True)
    assert sent == old.serialised
    assert values(old.message_class().FromString(sent)) == old.values


@pytest.mark.parametrize(("old", "new"), REPLACEMENTS)
def test_a_response_has_the_fields_of_the_old_message_and_those_added_since(
    old: OldMessage, new: type[Message]
) -> None:
    fields = {field.name: field.number for field in new.DESCRIPTOR.fields}
    kept = {name: number for number, name in enumerate(old.fields, start=1)}
    assert fields == kept | ADDED.get(old.name, {})


def test_the_paths_of_the_rpcs_are_as_before_and_those_added_since() -> None:
    def paths(file: FileDescriptor) -> set[str]:
        return {
            f"{service.full_name}/{method.name}"
            for service in file.services_by_name.values()
            for method in service.methods
        }

    assert paths(queue_pb2.DESCRIPTOR) == {
        "frontrow.queue.v1.QueueService/EnterQueue",
        "frontrow.queue.v1.QueueService/GetPositions",
        "frontrow.queue.v1.QueueService/LeaveQueue",
        "frontrow.queue.v1.QueueService/WatchRoom",
        "frontrow.queue.v1.QueueService/HandBack",
        "frontrow.queue.v1.QueueAdminService/GetRoom",
        "frontrow.queue.v1.QueueAdminService/UpdateRoom",
    }
    assert paths(concert_pb2.DESCRIPTOR) == {
        "frontrow.concert.v1.ConcertService/ListConcerts",
        "frontrow.concert.v1.ConcertService/ListSchedules",
        "frontrow.concert.v1.ConcertService/ListSeats",
        "frontrow.concert.v1.ConcertService/GetSeats",
        "frontrow.concert.v1.ConcertService/GetSeatMaps",
    }
    assert paths(reservation_pb2.DESCRIPTOR) == {
        "frontrow.reservation.v1.ReservationService/Reserve",
        "frontrow.reservation.v1.ReservationService/HoldSeats",
        "frontrow.reservation.v1.ReservationService/GetReservation",
        "frontrow.reservation.v1.ReservationService/CancelReservation",
        "frontrow.reservation.v1.ReservationService/CancelHolds",
        "frontrow.reservation.v1.ReservationService/ListTakenSeats",
        "frontrow.reservation.v1.ReservationService/GetTakenSeats",
        "frontrow.reservation.v1.ReservationService/CountSoldSeats",
        "frontrow.reservation.v1.ReservationService/BeginPayment",
        "frontrow.reservation.v1.ReservationService/BeginPayments",
        "frontrow.reservation.v1.ReservationAdminService/BlockSeats",
        "frontrow.reservation.v1.ReservationAdminService/ReleaseSeats",
        "frontrow.reservation.v1.ReservationAdminService/CloseSchedules",
        "frontrow.reservation.v1.ReservationAdminService/ReopenSchedules",
        "frontrow.reservation.v1.ReservationAdminService/ListBuyers",
    }
    assert paths(payment_pb2.DESCRIPTOR) == {
        "frontrow.payment.v1.PaymentService/Pay",
        "frontrow.payment.v1.PaymentService/PayReservations",
        "frontrow.payment.v1.PaymentService/GetPaymentOfReservation",
    }
