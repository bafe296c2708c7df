"""The services behind the admin API: rooms and operators as they are, on stores in memory; events
and the house as far as the admin API sees them."""

import json
from collections.abc import Callable
from typing import Any

import grpc

from concert_service.domain import EventStatus
from concert_service.events.errors import EventChanged, EventNotFound, WrongEventStatus
from concert_service.events.servicer import CatalogueAdminServicer
from concert_service.operators.domain import Role
from concert_service.operators.service import OperatorService
from concert_service.operators.servicer import OperatorServicer
from concert_service.rooms.service import RoomService
from concert_service.rooms.servicer import RoomAdminServicer
from protos.frontrow.concert.v1 import (
    catalogue_pb2,
    catalogue_pb2_grpc,
    operators_pb2_grpc,
    rooms_pb2_grpc,
)
from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc
from protos.frontrow.reservation.v1 import reservation_pb2, reservation_pb2_grpc
from reservation_service.errors import SeatsTaken
from servicekit.call_interceptor import CallInterceptor, Context
from servicekit.errors import ServiceError
from tests.fakes.operators import FakeOperatorStore
from tests.fakes.rooms import FakeRoomStore

Document = dict[str, Any]
DRAFT = catalogue_pb2.EVENT_STATUS_DRAFT
PUBLISHED = catalogue_pb2.EVENT_STATUS_PUBLISHED
CANCELLED = catalogue_pb2.EVENT_STATUS_CANCELLED
SCHEDULE = 70
ADMIN_TOKEN = "the-admin-token-of-the-queue-service"


class Steps(list[str]):
    """What was asked of the services, in order. `before` is called before the step of its name."""

    def __init__(self) -> None:
        self.before: dict[str, Callable[[], None]] = {}
        self.failing: dict[str, ServiceError] = {}

    def note(self, step: str) -> None:
        """Notes a step; raises what it is to fail with."""
        name = step.partition(" ")[0]
        if act := self.before.pop(name, None):
            act()
        self.append(step)
        if error := self.failing.pop(name, None):
            raise error


class FakeCatalogue(catalogue_pb2_grpc.CatalogueAdminServiceServicer):
    """One event. Its seats are the numbers in `seats` of the document, of one schedule; those in
    `blocked` of the document are blocked."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.versions: list[Document] = []
        self.status = DRAFT
        # Seats of `new` in the document have no ids, and are hidden, before its first import.
        self._hidden: set[int] = set()
        self.shown = False
        # Imports instead, if it is set.
        self.importer: CatalogueAdminServicer | None = None

    @property
    def version(self) -> int:
        return len(self.versions)

    def store(self, document: Document) -> None:
        """Somebody imports a document."""
        if not self.versions or self.versions[-1] != document:
            self.versions.append(document)

    async def ImportEvent(
        self, request: catalogue_pb2.ImportEventRequest, context: Context
    ) -> catalogue_pb2.ImportEventResponse:
        self._steps.note("plan" if request.dry_run else f"import {request.expected_version}")
        if self.importer is not None:
            return await self.importer.ImportEvent(request, context)
        try:
            document = json.loads(request.document)
            problem = None if "title" in document else ("title", "is missing")
        except ValueError:
            document, problem = {}, ("", "is no JSON")
        response = catalogue_pb2.ImportEventResponse(external_id=document.get("externalId", ""))
        if problem:
            response.problems.add(field=problem[0], reason=problem[1], line=3, in_csv=False)
            return response
        present = self.versions[-1] if self.versions else {}
        if request.expected_version not in (0, self.version) and document != present:
            raise EventChanged(self.version)
        response.changes.extend(_changes(present, document))
        before, after = set(present.get("blocked", ())), set(document.get("blocked", ()))
        if after - before:
            response.blocked.add(schedule_id=SCHEDULE, seat_ids=sorted(after - before))
        if before - after:
            response.released.add(schedule_id=SCHEDULE, seat_ids=sorted(before - after))
        if document.get("closed") and not present.get("closed"):
            response.closed_schedules.append(SCHEDULE)
        if not request.dry_run:
            self.store(document)
            del response.blocked[:]  # they had ids before
            new = set(document.get("new", ()))
            if new - self._hidden:
                self._hidden |= new
                response.blocked.add(schedule_id=SCHEDULE, seat_ids=sorted(new))
            elif new and not self.shown:
                self.shown = True
                self.versions.append(document)
        response.version, response.status = self.version, self.status
        return response

    async def GetEvent(
        self, request: catalogue_pb2.GetEventRequest, context: Context
    ) -> catalogue_pb2.GetEventResponse:
        present = self._present(request.external_id)
        if request.version:
            present = self.versions[request.version - 1]
        response = catalogue_pb2.GetEventResponse(
            document=json.dumps(present).encode(), summary=self._summary()
        )
        if request.changes_since:
            response.changes.extend(_changes(self.versions[request.changes_since - 1], present))
        return response

    async def ListEvents(
        self, request: catalogue_pb2.ListEventsRequest, context: Context
    ) -> catalogue_pb2.ListEventsResponse:
        return catalogue_pb2.ListEventsResponse(events=[self._summary()] if self.versions else [])

    async def SetEventStatus(
        self, request: catalogue_pb2.SetEventStatusRequest, context: Context
    ) -> catalogue_pb2.SetEventStatusResponse:
        self._steps.note("plan-status" if request.dry_run else "set-status")
        present = self._present(request.external_id)
        if self.status == CANCELLED and request.status == PUBLISHED:
            raise WrongEventStatus(EventStatus.CANCELLED)
        if request.expected_version not in (0, self.version):
            raise EventChanged(self.version)
        if not request.dry_run:
            self.status = request.status
        response = catalogue_pb2.SetEventStatusResponse(event=self._summary())
        if blocked := present.get("blocked"):
            response.blocked.add(schedule_id=SCHEDULE, seat_ids=sorted(blocked))
        if request.status == CANCELLED or present.get("closed"):
            response.closed_schedules.append(SCHEDULE)
        return response

    def _present(self, external_id: str) -> Document:
        if not self.versions or self.versions[-1]["externalId"] != external_id:
            raise EventNotFound(external_id)
        return self.versions[-1]

    def _summary(self) -> catalogue_pb2.EventSummary:
        present = self.versions[-1]
        return catalogue_pb2.EventSummary(
            external_id=present["externalId"],
            concert_id=7,
            version=self.version,
            status=self.status,
            title=present["title"],
            room="main",
            schedule_ids=[SCHEDULE],
            seats=100,
        )


def _changes(before: Document, after: Document) -> list[catalogue_pb2.DocumentChange]:
    return [
        catalogue_pb2.DocumentChange(
            field=name,
            before=json.dumps(before[name]) if name in before else "",
            after=json.dumps(after[name]) if name in after else "",
        )
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


class FakeHouse(reservation_pb2_grpc.ReservationAdminServiceServicer):
    """The seats of one schedule that the house has, and those that are taken."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.blocked: set[int] = set()
        self.taken: set[int] = set()
        self.is_closed = False

    async def BlockSeats(
        self, request: reservation_pb2.BlockSeatsRequest, context: Context
    ) -> reservation_pb2.BlockSeatsResponse:
        self._steps.note(f"block {sorted(request.seat_ids)}")
        if taken := self.taken & set(request.seat_ids):
            raise SeatsTaken(sorted(taken))
        self.blocked |= set(request.seat_ids)
        return reservation_pb2.BlockSeatsResponse()

    async def ReleaseSeats(
        self, request: reservation_pb2.ReleaseSeatsRequest, context: Context
    ) -> reservation_pb2.ReleaseSeatsResponse:
        self._steps.note(f"release {sorted(request.seat_ids)}")
        self.blocked -= set(request.seat_ids)
        return reservation_pb2.ReleaseSeatsResponse()

    async def CloseSchedules(
        self, request: reservation_pb2.CloseSchedulesRequest, context: Context
    ) -> reservation_pb2.CloseSchedulesResponse:
        self._steps.note("close")
        self.is_closed = True
        return reservation_pb2.CloseSchedulesResponse(
            ended_holds=2, paying_reservation_ids=[11, 12], paid=3
        )

    async def ReopenSchedules(
        self, request: reservation_pb2.ReopenSchedulesRequest, context: Context
    ) -> reservation_pb2.ReopenSchedulesResponse:
        self._steps.note("reopen")
        self.is_closed = False
        return reservation_pb2.ReopenSchedulesResponse()

    async def ListBuyers(
        self, request: reservation_pb2.ListBuyersRequest, context: Context
    ) -> reservation_pb2.ListBuyersResponse:
        response = reservation_pb2.ListBuyersResponse(more=True)
        reservation = response.reservations.add(
            id=request.after_reservation_id + 1,
            user_id=42,
            seat_num="A1",
            price="150000.00",
            status=reservation_pb2.RESERVATION_STATUS_CONFIRMED,
            payment_id=9,
            currency="KRW",
        )
        reservation.seats.add(id=1, seat_num="A1")
        reservation.seats.add(id=2, seat_num="A2")
        return response


class FakeQueue(queue_pb2_grpc.QueueAdminServiceServicer):
    """Counts of one room; notes the credentials of the calls."""

    def __init__(self) -> None:
        self.credentials: list[str] = []

    async def GetRoom(
        self, request: queue_pb2.GetRoomRequest, context: Context
    ) -> queue_pb2.GetRoomResponse:
        metadata = dict(context.invocation_metadata() or ())
        self.credentials.append(str(metadata.get("authorization")))
        return queue_pb2.GetRoomResponse(room=request.room, admitted=5, waiting=1000)

    async def UpdateRoom(
        self, request: queue_pb2.UpdateRoomRequest, context: Context
    ) -> queue_pb2.UpdateRoomResponse:
        raise NotImplementedError("the admin API changes definitions")


class AdminServices:
    """One gRPC server with all of them."""

    def __init__(self) -> None:
        self.steps = Steps()
        self.operator_store = FakeOperatorStore()
        self.room_store = FakeRoomStore()
        self.operators = OperatorService(self.operator_store)
        self.catalogue = FakeCatalogue(self.steps)
        self.house = FakeHouse(self.steps)
        self.queue = FakeQueue()
        self._server = grpc.aio.server(interceptors=[CallInterceptor(10.0)])
        server = self._server
        operators_pb2_grpc.add_OperatorServiceServicer_to_server(self._operator_servicer(), server)
        rooms_pb2_grpc.add_RoomAdminServiceServicer_to_server(
            RoomAdminServicer(RoomService(self.room_store)), server
        )
        catalogue_pb2_grpc.add_CatalogueAdminServiceServicer_to_server(self.catalogue, server)
        reservation_pb2_grpc.add_ReservationAdminServiceServicer_to_server(self.house, server)
        queue_pb2_grpc.add_QueueAdminServiceServicer_to_server(self.queue, server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def _operator_servicer(self) -> OperatorServicer:
        steps = self.steps

        class Noting(OperatorServicer):
            async def AddAuditEntry(self, request: Any, context: Context) -> Any:
                steps.note("audit")
                return await super().AddAuditEntry(request, context)

            async def CompleteAuditEntry(self, request: Any, context: Context) -> Any:
                steps.note(f"outcome {request.outcome}")
                return await super().CompleteAuditEntry(request, context)

        return Noting(self.operators)

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)

    async def key(self, role: Role, name: str = "Ada") -> str:
        """Creates a key; returns its secret."""
        return (await self.operators.create_key(name, role))[1]

    def audit(self) -> list[tuple[str, str, str]]:
        """Action, subject and outcome of each entry."""
        return [(e.what.action, e.what.subject, e.outcome) for e in self.operator_store.entries]
