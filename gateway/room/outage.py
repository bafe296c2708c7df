"""While queue_service or its store does not answer: how long the last view speaks for them."""

import time

from protos.frontrow.queue.v1 import queue_pb2
from servicekit import logs

log = logs.get(__name__)


class QueueOutage:
    """Begins with a call that failed, and ends with a heartbeat or a call that succeeds, or when
    the last view is too old.

    Meanwhile that view answers, and no request waits for another call that fails: heartbeats try in
    the background.
    """

    def __init__(self, seconds: float, room: str) -> None:
        """`seconds`: see GATEWAY_ROOM_OUTAGE_SECONDS."""
        self._room = room
        self._configured = seconds
        self.seconds = seconds
        """For how long the last view may speak."""
        self._until = 0.0
        self._began = self._too_old = False  # as logged since the last end

    @property
    def is_on(self) -> bool:
        """Whether the last view speaks."""
        return self._until > 0 and time.monotonic() < self._until

    def use(self, rules: queue_pb2.RoomRules) -> None:
        """Takes the windows of the room: what a person could not claim has lapsed after the claim
        window, and a person whose polls nobody heard is skipped after the absence window."""
        longest = min(rules.claim_window_ms, rules.absent_after_ms / 2) / 1_000
        if longest < self._configured and longest != self.seconds:
            log.warning(
                "room_outage_seconds_reduced",
                room=self._room,
                configured=self._configured,
                used=longest,
            )
        self.seconds = min(self._configured, longest)

    def begin(self, followed_until: float) -> bool:
        """Notes that a call has failed; returns whether the view, which followed the room until
        `followed_until`, is young enough to speak."""
        self._until = followed_until + self.seconds
        if self.is_on and not self._began:
            self._began = True
            log.warning("room_outage_began", room=self._room, seconds=self.seconds)
        elif not self.is_on and not self._too_old:
            self._too_old = True
            log.warning("room_view_too_old", room=self._room, seconds=self.seconds)
        return self.is_on

    def end(self) -> None:
        """Notes that queue_service answers."""
        if self._began:
            log.info("room_outage_ended", room=self._room)
        self._until = 0.0
        self._began = self._too_old = False
