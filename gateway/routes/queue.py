"""Entering the waiting room, polling the order, leaving."""

import math
from collections.abc import Sequence
from os import urandom
from typing import Annotated

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from gateway import schemas, tokens
from gateway.access_guard import AccessGuard
from gateway.admissions import retry_after
from gateway.challenges.entry import HEADER, MAX_SOLUTION_LENGTH, EntryChallenge
from gateway.clients import Clients
from gateway.errors import ChallengeRequired, NotYours, QueueClosed, QueueNotOpen, TooManyRequests
from gateway.identity import Identity
from gateway.requests import read_body
from gateway.responses import JsonResponse, instant_of_ms, no_content
from gateway.room.room import Entry, Room
from gateway.routes.shared import ALWAYS, BODY_ERRORS, TOKEN, TOKEN_ERRORS
from gateway.routing import Header, Parameter, Returns, Route
from gateway.settings import Settings
from gateway.sources import Sources
from protos.frontrow.queue.v1 import queue_pb2
from protos.frontrow.reservation.v1 import reservation_pb2
from servicekit.client import call
from servicekit.errors import ServiceError, Unavailable, is_transient

_RETRY_AFTER = Header(
    "Retry-After",
    schemas.Seconds,
    "While waiting: seconds until the next poll, more at the end of the line.",
)
_AGE = Header(
    "Age",
    int,
    "Only if the poll came before half of the advised pause: this is the last answer again, so many"
    " seconds old, with the pause that remains.",
)
_ACCESS_TOKEN = Header(
    tokens.HEADER, str, "The token of the place; send it with every later request."
)


_TOKEN_OF_LIVE_PLACE = Parameter(
    tokens.HEADER,
    "header",
    str,
    "The token of the user's live place, if the user has one: only with it, the place is returned.",
)


_SOLUTION = Parameter(
    HEADER,
    "header",
    Annotated[str, Field(max_length=MAX_SOLUTION_LENGTH)],
    "The solution of the challenge that CHALLENGE_REQUIRED asked for; good for one place.",
)


class QueueRoutes:
    """POST /queues/enqueue, GET and DELETE /queues/order."""

    def __init__(
        self,
        clients: Clients,
        guard: AccessGuard,
        sources: Sources,
        identity: Identity | None,
        challenge: EntryChallenge | None,
        settings: Settings,
    ) -> None:
        """`identity` verifies who enters; None trusts the userId. `challenge`: None asks for
        none."""
        self._clients = clients
        self._guard = guard
        self._sources = sources
        self._identity = identity
        self._challenge = challenge
        # The token of a login is proof enough.
        self._needs_token = identity is None and not settings.reentry_without_token
        self._write_budget = settings.write_budget_seconds
        self._leaving_ends_holds = settings.leaving_ends_holds

    def routes(self) -> Sequence[Route]:
        """Returns the declarations."""
        return (
            Route(
                method="GET",
                path="/queues/order",
                handler=self.order,
                immediate=self.order_now,
                operation_id="getOrder",
                tag="queue",
                parameters=(TOKEN,),
                returns=(
                    Returns(
                        200, schemas.QueueOrder, "The order now.", headers=(_RETRY_AFTER, _AGE)
                    ),
                ),
                errors=(*TOKEN_ERRORS, *ALWAYS),
            ),
            Route(
                method="POST",
                path="/queues/enqueue",
                handler=self.enter,
                operation_id="enterQueue",
                tag="queue",
                body=(
                    schemas.EnterQueueRequest
                    if self._identity is None
                    else schemas.EnterQueueWithLoginRequest
                ),
                parameters=(
                    *((_TOKEN_OF_LIVE_PLACE,) if self._needs_token else ()),
                    _SOLUTION,
                ),
                login=self._identity is not None,
                returns=(
                    Returns(
                        201,
                        schemas.QueueOrder,
                        "The place in the queue.",
                        headers=(_ACCESS_TOKEN, _RETRY_AFTER),
                    ),
                ),
                errors=(
                    *BODY_ERRORS,
                    "IDENTITY_REQUIRED",
                    "NOT_YOURS",
                    "CHALLENGE_REQUIRED",
                    "CONCERT_NOT_FOUND",
                    "QUEUE_FULL",
                    "QUEUE_NOT_OPEN",
                    "QUEUE_PAUSED",
                    "TOO_MANY_REQUESTS",
                    *ALWAYS,
                ),
            ),
            Route(
                method="DELETE",
                path="/queues/order",
                handler=self.leave,
                operation_id="leaveQueue",
                tag="queue",
                parameters=(TOKEN,),
                returns=(Returns(204, None, "The place has ended."),),
                errors=(*TOKEN_ERRORS, *ALWAYS),
            ),
        )

    async def order(self, request: Request) -> Response:
        """Returns the order of the token's place: 1 is next in line, 0 is admitted.

        Before the opening, the order is the number of people who wait, and may grow. From then on
        it never grows for polls that keep the advised pause or are at least 0.3 s apart,
        whichever gateways answer; at one gateway process it never grows at all. Exempt are answers
        marked `recovering`, and those with an `Age`: a poll before half of the advised pause may
        get an answer of this process again, which is up to half a pause old."""
        place = self._guard.identify(request)
        position = await self._guard.position(request, place)
        return _order_response(self._clients.rooms.of(place), position, 200)

    def order_now(self, request: Request) -> Response | None:
        """Answers from the copy of the room; if that does not do, a poll that comes far too early
        gets its last answer again."""
        place = self._guard.identify(request)
        room = self._clients.rooms.of(place)
        position = self._guard.position_now(room, place)
        if position is not None:
            return _order_response(room, position, 200)
        early = self._guard.early_answer(place)
        if early is None:
            return None
        response = _order_response(room, early.position, 200)
        response.headers["Age"] = str(early.age)
        return response

    async def enter(self, request: Request) -> Response:
        """Gives the user a place in the queue, or returns the place that the user already has.

        If there is room, the user is admitted at once and the order is 0. The token admits to the
        concerts of the room that leads to `concertId`. One user may wait in several rooms."""
        user_id, concert_id = await self._entering_user(request)
        source = self._sources.of(request.scope)
        self._guard.limit_entry(source, user_id)
        room = self._clients.catalogue.entrance(concert_id)
        entrant = queue_pb2.EnterQueueRequest.Entrant(source=source)
        if self._needs_token:
            entrant.needs_proof = True
            proven = self._guard.proven_place(request)
            if proven is not None and proven.room == room.name:
                entrant.proven_place = proven.number
            entrant.attempt_id = urandom(16).hex()
        if self._challenge is not None:
            has_login = self._identity is not None
            await self._challenge.check(request, user_id, room.name, entrant, has_login=has_login)
        try:
            result = await room.entries.submit(Entry(user_id, entrant))
        except ServiceError as error:
            await room.admissions.call_failed(error)
            raise
        if result.error_code == NotYours.code:
            raise NotYours("This user has a place. Send its token in X-Access-Token.")
        if self._challenge is not None and result.error_code == ChallengeRequired.code:
            raise self._challenge.required(user_id, room.name)
        if result.error_code == TooManyRequests.code:
            raise TooManyRequests(math.ceil(result.retry_after_ms / 1000))
        if result.error_code == QueueNotOpen.code:
            raise QueueNotOpen(
                max(1, math.ceil(result.retry_after_ms / 1000)), room.notice.opens_at
            )
        if result.error_code:
            raise QueueClosed(result.error_code)
        room.admissions.entered(result.place, result.position)
        response = _order_response(room, result.position, 201)
        response.headers[tokens.HEADER] = result.access_token
        return response

    async def _entering_user(self, request: Request) -> tuple[int, int | None]:
        """Returns who enters, and for which concert. Raises IdentityRequired, or NotYours if the
        body names another user."""
        if self._identity is None:
            entry = await read_body(request, schemas.EnterQueueRequest)
            return entry.user_id, entry.concert_id
        user_id = self._identity.user_id(request)
        body = await read_body(request, schemas.EnterQueueWithLoginRequest)
        if body.user_id not in (None, user_id):
            raise NotYours("The token of your login belongs to another user than userId.")
        return user_id, body.concert_id

    async def leave(self, request: Request) -> Response:
        """Ends the place or the admission, and first its holds; the next in line is admitted.
        Idempotent."""
        place = await self._guard.authenticate(request)
        if self._leaving_ends_holds:
            await self._cancel_holds(place)
        self._guard.forget_admission(place)
        await self._clients.rooms.of(place).leave(place)
        self._guard.note_left(place)
        return no_content()

    async def _cancel_holds(self, place: queue_pb2.Place) -> None:
        """Cancels the holds of the place. Raises Unavailable if that is not certain: the place has
        not changed then."""
        try:
            await call(
                self._clients.reservation.CancelHolds,
                reservation_pb2.CancelHoldsRequest(
                    user_id=place.user_id,
                    admission=reservation_pb2.Admission(room=place.room, place_number=place.number),
                ),
                budget=self._write_budget,
            )
        except ServiceError as error:
            if not is_transient(error):
                raise
            raise Unavailable("The holds of this place could not be ended; try again.") from error


def _order_response(room: Room, position: queue_pb2.Position, status: int) -> Response:
    members = room.notice.members(position.phase)
    recovering = b"true" if position.recovering else b"false"
    if position.state == queue_pb2.PLACE_STATE_ADMITTED:
        body = (
            b'{"order":0,"pollAfterSeconds":0,"estimatedWaitSeconds":0,"admittedUntil":"%b",'
            b'"recovering":%b%b}'
            % (instant_of_ms(position.admitted_until_ms).encode(), recovering, members)
        )
        return JsonResponse(body, status)
    body = (
        b'{"order":%d,"pollAfterSeconds":%.3f,"estimatedWaitSeconds":%.3f,"admittedUntil":null,'
        b'"recovering":%b%b}'
        % (
            position.order,
            position.poll_after_ms / 1000,
            position.estimated_wait_ms / 1000,
            recovering,
            members,
        )
    )
    response = JsonResponse(body, status)
    response.raw_headers.append((b"retry-after", b"%d" % retry_after(position)))
    return response
