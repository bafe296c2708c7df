"""The connections of the admin API to the services."""

import asyncio

from gateway.settings import Settings
from protos.frontrow.concert.v1.catalogue_pb2_grpc import CatalogueAdminServiceStub
from protos.frontrow.concert.v1.operators_pb2_grpc import OperatorServiceStub
from protos.frontrow.concert.v1.rooms_pb2_grpc import RoomAdminServiceStub
from protos.frontrow.queue.v1.queue_pb2_grpc import QueueAdminServiceStub
from protos.frontrow.reservation.v1.reservation_pb2_grpc import ReservationAdminServiceStub
from servicekit.client import connect

READ_SECONDS = 5.0
"""Deadline of a call that reads or changes little."""

CHANGE_SECONDS = 60.0
"""Deadline of a call that may change a whole event."""

MAX_DOCUMENT_BYTES = 8 * 1024 * 1024
"""The largest document, or file of seats, that concert_service accepts."""

# A document, its state and its changes.
_MAX_RESPONSE_BYTES = 32 * 1024 * 1024
_IDEMPOTENT = {
    "frontrow.concert.v1.OperatorService": ["ListKeys", "Authenticate", "ListAuditEntries"],
    "frontrow.concert.v1.CatalogueAdminService": ["GetEvent", "ListEvents"],
    "frontrow.concert.v1.RoomAdminService": ["ListRooms"],
    "frontrow.queue.v1.QueueAdminService": ["GetRoom"],
    "frontrow.reservation.v1.ReservationAdminService": ["ListBuyers"],
}


class AdminClients:
    """One channel for each service, apart from those of the public API: a document of 8 MB must not
    hold up the calls of a crowd. Nothing connects before the first call.

    Create it inside the event loop that uses it; `close()` it at the end.
    """

    def __init__(self, settings: Settings) -> None:
        concert, reservation, queue = (
            connect(address, idempotent=_IDEMPOTENT, max_response_bytes=_MAX_RESPONSE_BYTES)
            for address in (
                settings.concert_addr,
                settings.reservation_addr,
                settings.queue_addr,
            )
        )
        self._channels = (concert, reservation, queue)
        self.operators = OperatorServiceStub(concert)
        self.catalogue = CatalogueAdminServiceStub(concert)
        self.rooms = RoomAdminServiceStub(concert)
        self.house = ReservationAdminServiceStub(reservation)
        self.queue = QueueAdminServiceStub(queue)
        token = settings.queue_admin_token.get_secret_value()
        self.queue_credentials = (("authorization", f"Bearer {token}"),) if token else ()

    async def close(self) -> None:
        """Closes the channels and cancels calls in progress."""
        await asyncio.gather(*(channel.close() for channel in self._channels))
