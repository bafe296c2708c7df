"""Changes an event in two services, in an order in which no seat is sold that should not be.

reservation_service decides who has which seat. So seats that leave the sale are blocked there
before the document changes, and seats that return are released after it: at every moment the house
has at least the seats that the document blocks. Each step is idempotent, and each later import
names what is still to be released: after an interruption, the operator repeats the change.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gateway.admin.clients import CHANGE_SECONDS, AdminClients
from protos.frontrow.concert.v1 import catalogue_pb2
from protos.frontrow.reservation.v1 import reservation_pb2
from servicekit.client import call
from servicekit.errors import ServiceError, is_transient
from servicekit.rpc_errors import RemoteError

PUBLISHED = catalogue_pb2.EVENT_STATUS_PUBLISHED
CANCELLED = catalogue_pb2.EVENT_STATUS_CANCELLED
ARCHIVED = catalogue_pb2.EVENT_STATUS_ARCHIVED

# What reservation_service takes in one call.
_SEATS_PER_CALL = 100_000
_SCHEDULES_PER_CALL = 1_000


@dataclass(frozen=True)
class Import:
    """An event document to import. `version`: the one that the operator has seen, 0 for any."""

    document: bytes
    seats_csv: bytes
    version: int
    operator: str

    def request(self, *, version: int, dry_run: bool) -> catalogue_pb2.ImportEventRequest:
        """Returns the message."""
        return catalogue_pb2.ImportEventRequest(
            document=self.document,
            seats_csv=self.seats_csv,
            expected_version=version,
            dry_run=dry_run,
            operator=self.operator,
        )


@dataclass
class Closed:
    """What became of the buyers of schedules that were closed."""

    ended_holds: int = 0
    paid: int = 0
    paying_reservation_ids: tuple[int, ...] = ()


class Sale:
    """Changes events. Raises the errors of CatalogueAdminService and ReservationAdminService."""

    def __init__(self, clients: AdminClients) -> None:
        self._catalogue = clients.catalogue
        self._house = clients.house

    async def plan(self, asked: Import) -> catalogue_pb2.ImportEventResponse:
        """Returns what the import would change, or the mistakes of the document."""
        return await self._import(asked.request(version=asked.version, dry_run=True))

    async def import_event(
        self, asked: Import, plan: catalogue_pb2.ImportEventResponse
    ) -> catalogue_pb2.ImportEventResponse:
        """Carries out a plan without mistakes, unless the event has changed since. Raises
        EVENT_CHANGED, SEATS_TAKEN, WRONG_EVENT_STATUS."""
        leaving = [*plan.blocked, *plan.removed]
        try:
            await self._block(leaving)
            await self._close(plan.closed_schedules)
            done = await self._import(asked.request(version=plan.version, dry_run=False))
        except ServiceError as error:
            if not is_transient(error):
                await self._undo(plan.external_id, leaving, plan.closed_schedules)
            raise
        if done.blocked:
            # New seats, which have ids only now, and stay hidden until they are blocked.
            await self._block(done.blocked)
            shown = await self._import(asked.request(version=done.version, dry_run=False))
            done.version = shown.version
        await self._release(done.released)
        await self._reopen(done.reopened_schedules)
        return done

    async def set_status(
        self, external_id: str, status: "catalogue_pb2.EventStatus.ValueType", version: int
    ) -> tuple[catalogue_pb2.EventSummary, Closed]:
        """Publishes, cancels or archives an event; returns it, and what became of the buyers of the
        schedules that were closed. Raises EVENT_NOT_FOUND, EVENT_CHANGED, WRONG_EVENT_STATUS."""
        plan = await self._set_status(external_id, status, version, dry_run=True)
        try:
            await self._block(plan.blocked)
            closed = await self._close(plan.closed_schedules)
            done = await self._set_status(
                external_id, status, version or plan.event.version, dry_run=False
            )
        except ServiceError as error:
            if not is_transient(error):
                await self._undo(external_id, plan.blocked, plan.closed_schedules)
            raise
        return done.event, closed

    async def _undo(
        self,
        external_id: str,
        blocked: Iterable[catalogue_pb2.SeatsOfSchedule],
        closed: Iterable[int],
    ) -> None:
        """Takes back what was told to reservation_service for a change that was refused then, as
        far as the event, as somebody else has changed it, does not say the same."""
        try:
            present = await call(
                self._catalogue.GetEvent,
                catalogue_pb2.GetEventRequest(external_id=external_id),
                budget=CHANGE_SECONDS,
            )
        except RemoteError as error:
            if error.code == "EVENT_NOT_FOUND":  # a new event, of which no seat has an id
                return
            raise
        truth = await self._set_status(external_id, present.summary.status, 0, dry_run=True)
        kept = {id for each in truth.blocked for id in each.seat_ids}
        await self._release(
            catalogue_pb2.SeatsOfSchedule(
                schedule_id=each.schedule_id,
                seat_ids=[id for id in each.seat_ids if id not in kept],
            )
            for each in blocked
        )
        await self._reopen([id for id in closed if id not in truth.closed_schedules])

    async def _import(
        self, request: catalogue_pb2.ImportEventRequest
    ) -> catalogue_pb2.ImportEventResponse:
        return await call(self._catalogue.ImportEvent, request, budget=CHANGE_SECONDS)

    async def _set_status(
        self,
        external_id: str,
        status: "catalogue_pb2.EventStatus.ValueType",
        version: int,
        *,
        dry_run: bool,
    ) -> catalogue_pb2.SetEventStatusResponse:
        request = catalogue_pb2.SetEventStatusRequest(
            external_id=external_id, status=status, expected_version=version, dry_run=dry_run
        )
        return await call(self._catalogue.SetEventStatus, request, budget=CHANGE_SECONDS)

    async def _block(self, seats: Iterable[catalogue_pb2.SeatsOfSchedule]) -> None:
        for schedule_id, ids in _by_schedule(seats).items():
            for some in _parts(ids, _SEATS_PER_CALL):
                request = reservation_pb2.BlockSeatsRequest(schedule_id=schedule_id, seat_ids=some)
                await call(self._house.BlockSeats, request, budget=CHANGE_SECONDS)

    async def _release(self, seats: Iterable[catalogue_pb2.SeatsOfSchedule]) -> None:
        for schedule_id, ids in _by_schedule(seats).items():
            for some in _parts(ids, _SEATS_PER_CALL):
                request = reservation_pb2.ReleaseSeatsRequest(
                    schedule_id=schedule_id, seat_ids=some
                )
                await call(self._house.ReleaseSeats, request, budget=CHANGE_SECONDS)

    async def _close(self, schedule_ids: Sequence[int]) -> Closed:
        closed = Closed()
        for some in _parts(schedule_ids, _SCHEDULES_PER_CALL):
            request = reservation_pb2.CloseSchedulesRequest(schedule_ids=some)
            done = await call(self._house.CloseSchedules, request, budget=CHANGE_SECONDS)
            closed.ended_holds += done.ended_holds
            closed.paid += done.paid
            closed.paying_reservation_ids += tuple(done.paying_reservation_ids)
        return closed

    async def _reopen(self, schedule_ids: Sequence[int]) -> None:
        for some in _parts(schedule_ids, _SCHEDULES_PER_CALL):
            request = reservation_pb2.ReopenSchedulesRequest(schedule_ids=some)
            await call(self._house.ReopenSchedules, request, budget=CHANGE_SECONDS)


def _by_schedule(seats: Iterable[catalogue_pb2.SeatsOfSchedule]) -> Mapping[int, list[int]]:
    by_schedule: dict[int, list[int]] = {}
    for each in seats:
        by_schedule.setdefault(each.schedule_id, []).extend(each.seat_ids)
    return by_schedule


def _parts(items: Sequence[int], size: int) -> Iterable[Sequence[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))
