"""The checks that every route makes before its own work."""

from starlette.requests import Request

from gateway.errors import InvalidToken
from gateway.pace import EarlyAnswer
from gateway.rate_limit import RateLimit
from gateway.room.room import Room
from gateway.rooms import Rooms
from gateway.tokens import TokenVerifier, keep_fresh_token
from protos.frontrow.queue.v1 import queue_pb2

# Where a request keeps the place that it was counted for.
_IDENTIFIED = "frontrow.identified"


class AccessGuard:
    """Checks the token, the request rate and the admission, in this order: cheapest first."""

    def __init__(self, verifier: TokenVerifier, rate_limit: RateLimit, rooms: Rooms) -> None:
        self._verifier = verifier
        self._rate_limit = rate_limit
        self._rooms = rooms

    def limit_entry(self, source: str, user_id: int) -> None:
        """Counts one request to enter. Raises TooManyRequests.

        Counts the pair, because anybody can send anybody's user id: a flood from elsewhere must not
        use up the user's own allowance."""
        self._rate_limit.check((source, user_id))

    async def authenticate(self, request: Request) -> queue_pb2.Place:
        """Returns the place of the request's token, admitted or not.

        queue_service is asked about a token beyond its greatest age, unless it said less than a
        second ago that the place waits. Raises InvalidToken, TooManyRequests, or TokenExpired if
        the token is over-aged and its place has ended.
        """
        place = self.identify(request)
        if self._verifier.is_over_aged(place) and not self._waited_just_now(place):
            await self.position(request, place)
        return place

    def identify(self, request: Request) -> queue_pb2.Place:
        """Returns the place of the request's token, whatever its age, without a call, and counts
        the request once. Raises InvalidToken or TooManyRequests."""
        place: queue_pb2.Place | None = request.scope.get(_IDENTIFIED)
        if place is None:
            place = self._verifier.place(request)
            # The hash: to keep the two themselves takes 2 µs more.
            self._rate_limit.check(hash((place.room, place.number)))
            request.scope[_IDENTIFIED] = place
        return place

    def proven_place(self, request: Request) -> queue_pb2.Place | None:
        """Returns the place whose genuine token the request has, whatever its age; None without
        one."""
        try:
            return self._verifier.place(request)
        except InvalidToken:
            return None

    def is_admitted_now(self, request: Request) -> bool:
        """Returns whether the place of the request's token is admitted for certain; if not, only
        `require_admission` knows. Raises InvalidToken or TooManyRequests."""
        place = self.identify(request)
        admissions = self._rooms.of(place).admissions
        return not self._verifier.is_over_aged(place) and admissions.is_admitted_now(place)

    async def require_admission(self, request: Request) -> queue_pb2.Place:
        """Returns the place of the request's token, which is admitted.

        Raises what `authenticate` and `check_admission` raise.
        """
        place = await self.authenticate(request)
        await self.check_admission(place)
        return place

    async def check_admission(self, place: queue_pb2.Place) -> None:
        """Returns if the place is admitted. Raises StillWaiting, or TokenExpired if the place has
        ended."""
        await self._rooms.of(place).admissions.check(place)

    async def check_unpaid_admission(self, place: queue_pb2.Place) -> None:
        """Does what `check_admission` does; also raises TokenExpired if this gateway knows that a
        payment has ended the admission."""
        await self._rooms.of(place).admissions.check_unpaid(place)

    def position_now(self, room: Room, place: queue_pb2.Place) -> queue_pb2.Position | None:
        """Returns the current position of a place of this room from the copy of the room, without a
        call; None if queue_service must be asked, because only it knows, or because the token is
        beyond its greatest age."""
        if self._verifier.is_over_aged(place):
            return None
        return room.admissions.position_now(place)

    def early_answer(self, place: queue_pb2.Place) -> EarlyAnswer | None:
        """Returns the last answer to a waiting place that polls far earlier than advised; None if
        the copy of the room is fresh and yet could not answer, as for an admission to be
        claimed."""
        admissions = self._rooms.of(place).admissions
        if admissions.has_fresh_view() and not self._verifier.is_over_aged(place):
            return None
        return admissions.early_answer(place)

    async def position(self, request: Request, place: queue_pb2.Place) -> queue_pb2.Position:
        """Returns the current position of the place, never a cached one. If its token is beyond its
        greatest age, the response carries a fresh one. Raises TokenExpired if the place has
        ended."""
        admissions = self._rooms.of(place).admissions
        if self._verifier.is_over_aged(place):
            position = await admissions.ask(place)
        else:
            position = await admissions.position(place)
        # Empty for a token that is young enough.
        if position.access_token:
            keep_fresh_token(request, position.access_token)
        return position

    def forget_admission(self, place: queue_pb2.Place) -> None:
        """Drops what is cached about the place: it may be about to end."""
        if (room := self._rooms.get(place.room)) is not None:
            room.admissions.forget(place)

    def note_left(self, place: queue_pb2.Place) -> None:
        """Notes that the place has ended."""
        if (room := self._rooms.get(place.room)) is not None:
            room.admissions.left(place)

    def end_admission(self, place: queue_pb2.Place) -> None:
        """Notes that a payment has ended the admission."""
        if (room := self._rooms.get(place.room)) is not None:
            room.admissions.end(place)

    def _waited_just_now(self, place: queue_pb2.Place) -> bool:
        return self._rooms.of(place).admissions.waited_just_now(place)
