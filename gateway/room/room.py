"""One waiting room: the copy of it, what is answered from it, and the calls about its places."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from gateway.admissions import Admissions
from gateway.pace import Pace
from gateway.room.answers import RoomAnswers, RoomViewState
from gateway.room.copy import RoomCopy
from gateway.room.draw import Cohorts, RoomDraw
from gateway.room.healing import Healing
from gateway.room.notice import Notice
from gateway.room.outage import QueueOutage
from gateway.room.signs import SignsOfLife
from gateway.room.watch import RoomWatch
from gateway.settings import Settings
from gateway.tokens import renew_issued_before
from protos.frontrow.concert.v1 import rooms_pb2
from protos.frontrow.queue.v1 import queue_pb2
from protos.limits import MAX_ITEMS
from servicekit.background import keep_running
from servicekit.batching import Batcher
from servicekit.client import call
from servicekit.errors import Unavailable
from servicekit.rpc_errors import RemoteError

if TYPE_CHECKING:  # a type that exists in the stub file only
    from protos.frontrow.queue.v1.queue_pb2_grpc import QueueServiceAsyncStub

# An answer of an epoch that is over arrives once: the next one knows the newer epoch.
_MOST_ASKED = 2


class Entry(NamedTuple):
    """A user who enters, and what the gateway knows about the user."""

    user_id: int
    entrant: queue_pb2.EnterQueueRequest.Entrant


class Room:
    """Everything that a gateway process keeps of one room.

    Takes some 60 kB as long as nobody enters or polls here, and up to 12 MB and the view (8 MB for
    a million places) when a crowd does. `start` it inside the event loop that uses it, and `close`
    it at the end.
    """

    def __init__(
        self, name: str, queue: "QueueServiceAsyncStub", settings: Settings, cohorts: Cohorts
    ) -> None:
        self.name = name
        self.definition: rooms_pb2.Room | None = None
        """What operators have decided; None: the room runs by the settings of queue_service."""
        self.notice = Notice()
        self._queue = queue
        self._settings = settings
        signs = SignsOfLife()
        self.copy = RoomCopy(settings.room_fresh_seconds)
        self.answers = RoomAnswers(
            self.copy, signs, QueueOutage(settings.room_outage_seconds, name)
        )
        self.watch = RoomWatch(queue, name, self.copy, signs) if settings.room_view else None
        self._draw = RoomDraw(self.copy, cohorts, name)
        self._healing = Healing(self.copy, signs, self._hand_back, name)
        self._background: list[asyncio.Task[None]] = []
        self.positions = Batcher[queue_pb2.Place, queue_pb2.Position](
            self._get_positions,
            budget=settings.read_budget_seconds,
            max_batch=MAX_ITEMS,
            longest_pause=settings.batch_pause_seconds,
        )
        self.entries = Batcher[Entry, queue_pb2.EnterQueueResponse.Result](
            self._enter_queue,
            budget=settings.read_budget_seconds,
            max_batch=MAX_ITEMS,
            longest_pause=settings.batch_pause_seconds,
        )
        self.admissions = Admissions(
            self.positions,
            settings.admission_ttl_seconds,
            Pace(enforced=settings.enforce_pace),
            self.answers,
        )

    def start(self) -> None:
        """Begins to watch the room, if the room view is on."""
        if self.watch is not None:
            work = {
                "room_watch": self.watch.run,
                "room_healing": self._healing.run,
                "room_draw": self._draw.run,
            }
            self._background = [
                asyncio.create_task(keep_running(name, run)) for name, run in work.items()
            ]

    async def close(self) -> None:
        """Ends the watch. Calls that are under way finish."""
        for task in self._background:
            task.cancel()
        if self._background:
            await asyncio.wait(self._background)

    def define(self, definition: rooms_pb2.Room | None) -> None:
        """Takes the definition of the room."""
        self.definition = definition
        self.notice.define(definition)
        self._draw.define(definition)

    def view_state(self) -> RoomViewState:
        """Returns whether the room view answers, and why not."""
        if self.watch is None:
            return RoomViewState.OFF
        if not self.watch.supported:
            return RoomViewState.UNSUPPORTED
        return self.answers.state()

    async def leave(self, place: queue_pb2.Place) -> None:
        """Ends a place. Raises what a call raises."""
        await call(
            self._queue.LeaveQueue,
            queue_pb2.LeaveQueueRequest(place=place, memory=self.copy.memory()),
            budget=self._settings.write_budget_seconds,
        )

    async def _get_positions(
        self, places: Sequence[queue_pb2.Place]
    ) -> Sequence[queue_pb2.Position]:
        for _ in range(_MOST_ASKED):
            try:
                response = await call(
                    self._queue.GetPositions,
                    queue_pb2.GetPositionsRequest(
                        places=places,
                        renew_issued_before=renew_issued_before(
                            self._settings.token_max_age_seconds
                        ),
                        memory=self.copy.memory(),
                    ),
                    budget=self._settings.read_budget_seconds,
                )
            except RemoteError as error:
                _check_known(error)
                raise
            positions = self.answers.believed(places, response)
            if positions is not None:
                return positions
        raise Unavailable("The waiting room has answered from a store that was replaced.")

    async def _enter_queue(
        self, entries: Sequence[Entry]
    ) -> Sequence[queue_pb2.EnterQueueResponse.Result]:
        try:
            response = await call(
                self._queue.EnterQueue,
                queue_pb2.EnterQueueRequest(
                    room=self.name,
                    user_ids=[entry.user_id for entry in entries],
                    entrants=[entry.entrant for entry in entries],
                    renew_issued_before=renew_issued_before(self._settings.token_max_age_seconds),
                    memory=self.copy.memory(),
                ),
                budget=self._settings.read_budget_seconds,
            )
        except RemoteError as error:
            _check_known(error)
            raise
        return response.results

    async def _hand_back(self, request: queue_pb2.HandBackRequest) -> queue_pb2.HandBackResponse:
        return await call(self._queue.HandBack, request, budget=self._settings.write_budget_seconds)


def _check_known(error: RemoteError) -> None:
    """Raises Unavailable if queue_service does not know the room: a new one is known here a moment
    earlier than to each queue_service, and one that is removed a moment longer."""
    if error.code == "ROOM_NOT_FOUND":
        raise Unavailable("The waiting room is not ready yet.") from error
