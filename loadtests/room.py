"""The waiting room through its operator's interface."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator

import grpc

from harness import stopping
from harness.errors import UserError
from loadtests.target import Target
from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc
from queue_service.admin_guard import credentials
from servicekit.client import DIRECT

ROOM = "main"
_SECONDS = 10.0
_EVERYBODY = 10_000_000


class Room:
    """Sets the capacity of the waiting room for scripts, and sets it back at the end. Raises
    UserError if queue_service does not answer."""

    def __init__(self, target: Target) -> None:
        self._address = target.queue_addr
        self._channel = grpc.insecure_channel(self._address, options=DIRECT)
        self._admin = queue_pb2_grpc.QueueAdminServiceStub(self._channel)
        self._credential = credentials(target.admin_token)
        self._queue = queue_pb2_grpc.QueueServiceStub(self._channel)
        self._capacity = self._get().capacity

    def __enter__(self) -> Room:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(UserError):
            self._set(self._capacity)
        self._channel.close()

    def empty_line(self, seconds: float = 60.0) -> None:
        """Admits everybody who still waits since an earlier test. Raises UserError if people still
        wait after so many seconds."""
        deadline = time.monotonic() + seconds
        room = self._get()
        while room.waiting:
            if time.monotonic() > deadline:
                raise UserError(
                    f"{room.waiting} people still wait after {seconds:.0f} s with room for"
                    " everybody: is the waiting room paused?"
                )
            self._set(_EVERYBODY)
            self._enter_and_leave()
            stopping.wait(0.2)
            room = self._get()

    def _enter_and_leave(self) -> None:
        """Enters and leaves: a room admits nobody while it receives no requests."""
        user = random.randint(1_000_000_000, 90_000_000_000)
        request = queue_pb2.EnterQueueRequest(room=ROOM, user_ids=[user])
        with one_sentence(self._address):
            for result in self._queue.EnterQueue(request, timeout=_SECONDS).results:
                leaving = queue_pb2.LeaveQueueRequest(place=result.place)
                if not result.error_code:
                    self._queue.LeaveQueue(leaving, timeout=_SECONDS)

    def make_room_for(self, count: int | None) -> int:
        """Sets the capacity so that `count` more people can be admitted (None: as many as the room
        is configured for), and returns it. Raises UserError if more than that are in the way."""
        admitted = self._get().admitted
        if 0 < (count or 0) < admitted:
            raise UserError(
                f"{admitted:,} people of an earlier test are still admitted, too many for a test of"
                f" a room for {count:,}: wait until their admissions expire, or restart the system."
            )
        capacity = int(admitted + (self._capacity if count is None else count))
        self._set(capacity)
        return capacity

    def _get(self) -> queue_pb2.GetRoomResponse:
        with one_sentence(self._address):
            return self._admin.GetRoom(
                queue_pb2.GetRoomRequest(room=ROOM), timeout=_SECONDS, metadata=self._credential
            )

    def _set(self, capacity: int) -> None:
        request = queue_pb2.UpdateRoomRequest(room=ROOM, capacity=capacity)
        with one_sentence(self._address):
            self._admin.UpdateRoom(request, timeout=_SECONDS, metadata=self._credential)


@contextlib.contextmanager
def one_sentence(address: str) -> Iterator[None]:
    """Raises UserError if queue_service does not answer, or refuses, within it."""
    try:
        yield
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.PERMISSION_DENIED:
            raise UserError(
                f"The waiting room at {address} refuses: set QUEUE_ADMIN_TOKEN to the admin token"
                " of queue_service."
            ) from error
        raise UserError(
            f"The waiting room does not answer at {address}: set QUEUE_LISTEN to where"
            " queue_service is."
        ) from error
