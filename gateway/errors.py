"""Every error that a client can get: the one table from code to HTTP status.

Routes raise a ServiceError, or a RemoteError that arrived over gRPC; `problem` alone turns it into
application/problem+json (RFC 9457).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

from servicekit import call_context, logs
from servicekit.errors import Exhausted, Forbidden, Gone, InvalidRequest, NotFound, ServiceError

log = logs.get(__name__)

PROBLEM_JSON = "application/problem+json"


@dataclass(frozen=True)
class Row:
    """One kind of error: its HTTP status, its title, and seconds for Retry-After (0: none)."""

    status: int
    title: str
    retry_after: int = 0


TABLE: dict[str, Row] = {
    "MALFORMED_REQUEST": Row(400, "The request is not valid HTTP/1.1."),
    "HEADERS_TOO_LARGE": Row(431, "The head of the request is too large."),
    "INVALID_REQUEST": Row(422, "The request is not valid."),
    "IDEMPOTENCY_KEY_REUSED": Row(422, "The idempotency key was used for another request."),
    "BODY_TOO_LARGE": Row(413, "The body is too large."),
    "UNSUPPORTED_MEDIA_TYPE": Row(415, "The body must be JSON, without a content coding."),
    "NOT_FOUND": Row(404, "No route has this path."),
    "METHOD_NOT_ALLOWED": Row(405, "This path does not support this method."),
    "INVALID_TOKEN": Row(401, "The access token is missing or not genuine."),
    "TOKEN_EXPIRED": Row(401, "The place or admission of this token has ended."),
    "IDENTITY_REQUIRED": Row(401, "Entering the queue needs proof of identity."),
    "STILL_WAITING": Row(403, "This token is still waiting."),
    "NOT_YOURS": Row(403, "This belongs to another user."),
    "WRONG_ROOM": Row(403, "This admission is for other concerts."),
    "CHALLENGE_REQUIRED": Row(403, "Entering the queue needs a solved challenge."),
    "CONCERT_NOT_FOUND": Row(404, "There is no such concert."),
    "DRAW_NOT_FOUND": Row(404, "There is no such draw."),
    "DRAW_NOT_PUBLISHED": Row(404, "The list of this draw is not public yet."),
    "SCHEDULE_NOT_FOUND": Row(404, "There is no such schedule."),
    "SEAT_NOT_FOUND": Row(404, "There is no such seat."),
    "RESERVATION_NOT_FOUND": Row(404, "There is no such reservation."),
    "SEAT_HELD": Row(409, "A seat is held."),
    "SEAT_SOLD": Row(409, "A seat is sold."),
    "SINGLE_SEAT_LEFT": Row(409, "This choice would leave a single seat alone."),
    "NOT_ENOUGH_SEATS": Row(409, "There are not so many adjacent seats."),
    "TOO_MANY_SEATS": Row(409, "These are more seats than one user may have."),
    "SALES_CLOSED": Row(409, "The seats of this date are not on sale at the moment."),
    "IN_PROGRESS": Row(409, "The first request with this idempotency key is in progress.", 1),
    "PAYMENT_IN_PROGRESS": Row(409, "A payment is in progress.", 1),
    "ALREADY_PAID": Row(409, "This reservation is paid."),
    "RESERVATION_EXPIRED": Row(410, "The hold has ended."),
    "PAYMENT_DECLINED": Row(402, "The payment was declined."),
    "CHARGE_AMOUNT_DIFFERS": Row(402, "The payment provider charged another amount."),
    "QUEUE_FULL": Row(429, "The waiting room is full.", 10),
    "TOO_MANY_REQUESTS": Row(429, "Too many requests.", 1),
    "QUEUE_NOT_OPEN": Row(503, "The waiting room is not open yet.", 10),
    "QUEUE_PAUSED": Row(503, "The waiting room is paused.", 10),
    "UNAVAILABLE": Row(503, "A service is unavailable.", 1),
    "TIMEOUT": Row(504, "A service did not answer in time.", 1),
    "INTERNAL": Row(500, "Internal error."),
}
INVALID_KEY = "INVALID_KEY"
"""Of the admin API, as gateway/admin/errors.py has it."""

# The codes whose errors name seats.
_NAMING_SEATS = frozenset({"SEAT_HELD", "SEAT_SOLD", "SINGLE_SEAT_LEFT", "SEAT_NOT_FOUND"})


class MalformedRequest(InvalidRequest):
    code = "MALFORMED_REQUEST"


class HeadersTooLarge(ServiceError):
    code = "HEADERS_TOO_LARGE"


class BodyTooLarge(ServiceError):
    code = "BODY_TOO_LARGE"


class UnsupportedMediaType(ServiceError):
    code = "UNSUPPORTED_MEDIA_TYPE"


class PathNotFound(NotFound):
    code = "NOT_FOUND"


class ConcertNotFound(NotFound):
    code = "CONCERT_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("There is no such concert on sale.")


class DrawNotFound(NotFound):
    code = "DRAW_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("There is no room with this name whose order a draw decides.")


class DrawNotPublished(NotFound):
    code = "DRAW_NOT_PUBLISHED"

    def __init__(self) -> None:
        super().__init__("The seed and the list are published at the opening of the room.")


class ScheduleNotFound(NotFound):
    code = "SCHEDULE_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("There is no such schedule.")


class MethodNotAllowed(ServiceError):
    code = "METHOD_NOT_ALLOWED"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"This path supports {allowed}.")
        self.allowed = allowed


class InvalidToken(ServiceError):
    code = "INVALID_TOKEN"


class IdentityRequired(ServiceError):
    code = "IDENTITY_REQUIRED"


class TokenExpired(Gone):
    code = "TOKEN_EXPIRED"

    def __init__(self) -> None:
        super().__init__("The admission or the place has ended; enter the queue again.")


class StillWaiting(Forbidden):
    code = "STILL_WAITING"

    def __init__(self, order: int, retry_after: int) -> None:
        super().__init__("Wait until the order is 0.")
        self.order = order
        self.retry_after = retry_after


class WrongRoom(Forbidden):
    code = "WRONG_ROOM"

    def __init__(self) -> None:
        super().__init__("Enter the queue with the concertId of this concert.")


class NotYours(Forbidden):
    code = "NOT_YOURS"


class ChallengeRequired(Forbidden):
    """`challenge` is what to solve."""

    code = "CHALLENGE_REQUIRED"

    def __init__(self, header: str, challenge: Mapping[str, object]) -> None:
        super().__init__(f"Solve this challenge and send the solution in {header}.")
        self.challenge = challenge


class ReservationExpired(Gone):
    code = "RESERVATION_EXPIRED"


class QueueClosed(Exhausted):
    """The waiting room accepts no new users; `code` is QUEUE_FULL or QUEUE_PAUSED."""

    code: str  # type: ignore[misc]  # one of two

    def __init__(self, code: str) -> None:
        super().__init__("The waiting room is closed to new users at the moment; try again later.")
        self.code = code


class QueueNotOpen(Exhausted):
    """Gathering begins in `retry_after` seconds; `opens_at`: the opening, if it is known."""

    code = "QUEUE_NOT_OPEN"

    def __init__(self, retry_after: int, opens_at: str) -> None:
        super().__init__("Enter once gathering has begun, after the time in Retry-After.")
        self.retry_after = retry_after
        self.opens_at = opens_at


class TooManyRequests(Exhausted):
    code = "TOO_MANY_REQUESTS"

    def __init__(self, retry_after: int = 1) -> None:
        super().__init__("Wait for the time in Retry-After before the next request.")
        self.retry_after = retry_after


@dataclass(frozen=True)
class FieldError:
    """An invalid field, named as in the request, and why it is invalid. `line` is where it stands
    in the file that was sent, from 1; 0 if that is unknown."""

    field: str
    message: str
    line: int = 0

    def as_json(self) -> dict[str, str | int]:
        """Returns the entry of `errors` in a problem."""
        entry: dict[str, str | int] = {"field": self.field, "message": self.message}
        return entry | {"line": self.line} if self.line else entry


class InvalidFields(InvalidRequest):
    """The request has invalid fields; `errors` lists each."""

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__("The request has missing or invalid fields.")
        self.errors = errors


def problem(
    error: ServiceError,
    table: Mapping[str, Row] = TABLE,
    members: Mapping[str, object] | None = None,
) -> Response:
    """Returns the response for this error, with these further members.

    A code that is not in the table is a defect and becomes INTERNAL. The detail of an INTERNAL
    error never reaches a client.
    """
    code = error.code
    if code not in table:
        log.error("unknown_error_code", code=code)
        code = "INTERNAL"
    row = table[code]
    body: dict[str, Any] = {
        "type": f"urn:frontrow:error:{code}",
        "title": row.title,
        "status": row.status,
        "detail": error.detail if code != "INTERNAL" else "The error was logged.",
        "code": code,
        "requestId": call_context.request_id.get(),
    }
    headers = {"Cache-Control": "no-store"}
    retry_after = row.retry_after
    if isinstance(error, InvalidFields):
        body["errors"] = [e.as_json() for e in error.errors]
    if isinstance(error, StillWaiting):
        body["order"] = error.order
        retry_after = error.retry_after
    if isinstance(error, ChallengeRequired):
        body["challenge"] = error.challenge
    if isinstance(error, TooManyRequests | QueueNotOpen):
        retry_after = error.retry_after
    if isinstance(error, QueueNotOpen) and error.opens_at:
        body["opensAt"] = error.opens_at
    if code == "SEAT_HELD":
        # Of a seat that only this user may not hold yet, reservation_service knows the time.
        retry_after = int(error.metadata.get("retry_after", 0))
    if code in _NAMING_SEATS and (conflicts := error.metadata.get("conflicts")):
        body["conflicts"] = list(map(int, conflicts.split(",")))
    if code == "TOO_MANY_SEATS" and (limit := error.metadata.get("limit")):
        body["limit"] = int(limit)
    if retry_after:
        headers["Retry-After"] = str(retry_after)
    if row.status == 401:
        # RFC 9110 requires a challenge with every 401.
        by_bearer = code in (IdentityRequired.code, INVALID_KEY)
        headers["WWW-Authenticate"] = "Bearer" if by_bearer else "X-Access-Token"
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = error.allowed
    body.update(members or {})
    return Response(to_json(body), row.status, headers, media_type=PROBLEM_JSON)
