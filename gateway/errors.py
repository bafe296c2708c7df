"""Every error that a client can get: the one table from code to HTTP status.

Anything below raises a ServiceError (or a RemoteError that came over gRPC); `edge` and `app`
turn it into application/problem+json (RFC 9457) here and nowhere else.
"""

from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

from servicekit import call_context
from servicekit.errors import Exhausted, Forbidden, Gone, InvalidRequest, NotFound, ServiceError

PROBLEM_JSON = "application/problem+json"


@dataclass(frozen=True)
class Row:
    """One kind of error: its HTTP status, its title, and seconds for Retry-After (0: none)."""

    status: int
    title: str
    retry_after: int = 0


TABLE: dict[str, Row] = {
    "INVALID_REQUEST": Row(422, "The request is not valid."),
    "IDEMPOTENCY_KEY_REUSED": Row(422, "The idempotency key was used for another request."),
    "BODY_TOO_LARGE": Row(413, "The body is too large."),
    "UNSUPPORTED_MEDIA_TYPE": Row(415, "The body must be JSON."),
    "NOT_FOUND": Row(404, "There is nothing at this path."),
    "METHOD_NOT_ALLOWED": Row(405, "This path does not take this method."),
    "INVALID_TOKEN": Row(401, "The access token is missing or not genuine."),
    "TOKEN_EXPIRED": Row(401, "The place or admission of this token has ended."),
    "STILL_WAITING": Row(403, "This token still waits in line."),
    "NOT_YOURS": Row(403, "This belongs to another user."),
    "CONCERT_NOT_FOUND": Row(404, "There is no such concert."),
    "SCHEDULE_NOT_FOUND": Row(404, "There is no such schedule."),
    "SEAT_NOT_FOUND": Row(404, "There is no such seat."),
    "RESERVATION_NOT_FOUND": Row(404, "There is no such reservation."),
    "SEAT_HELD": Row(409, "Somebody holds this seat."),
    "SEAT_SOLD": Row(409, "This seat is sold."),
    "IN_PROGRESS": Row(409, "The first request with this idempotency key is under way.", 1),
    "PAYMENT_IN_PROGRESS": Row(409, "A payment of this reservation is under way.", 1),
    "ALREADY_PAID": Row(409, "This reservation is paid."),
    "RESERVATION_EXPIRED": Row(410, "The hold has ended."),
    "PAYMENT_DECLINED": Row(402, "The payment was declined."),
    "QUEUE_FULL": Row(429, "The waiting room is full.", 10),
    "TOO_MANY_REQUESTS": Row(429, "Too many requests.", 1),
    "QUEUE_PAUSED": Row(503, "The waiting room is paused.", 10),
    "UNAVAILABLE": Row(503, "A part of the shop is away.", 1),
    "TIMEOUT": Row(504, "A part of the shop did not answer in time.", 1),
    "INTERNAL": Row(500, "Something went wrong on our side."),
}


class BodyTooLarge(ServiceError):
    code = "BODY_TOO_LARGE"


class UnsupportedMediaType(ServiceError):
    code = "UNSUPPORTED_MEDIA_TYPE"


class PathNotFound(NotFound):
    code = "NOT_FOUND"


class MethodNotAllowed(ServiceError):
    code = "METHOD_NOT_ALLOWED"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"This path takes {allowed}.")
        self.allowed = allowed


class InvalidToken(ServiceError):
    code = "INVALID_TOKEN"


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


class NotYours(Forbidden):
    code = "NOT_YOURS"


class ReservationExpired(Gone):
    code = "RESERVATION_EXPIRED"


class QueueClosed(Exhausted):
    """The waiting room takes nobody new; `code` is QUEUE_FULL or QUEUE_PAUSED."""

    code: str  # type: ignore[misc]  # one of two

    def __init__(self, code: str) -> None:
        super().__init__("The waiting room takes nobody new at the moment; try again later.")
        self.code = code


class TooManyRequests(Exhausted):
    code = "TOO_MANY_REQUESTS"


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field, named as in the request."""

    field: str
    message: str


class InvalidFields(InvalidRequest):
    """The request has bad fields; each is told."""

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__("The request has fields that are missing or not valid.")
        self.errors = errors


def problem(error: ServiceError) -> Response:
    """The reply that tells a client of this error.

    A code that is not in the table is a defect of ours and reads INTERNAL; the detail of an
    INTERNAL error is never told.
    """
    code = error.code if error.code in TABLE else "INTERNAL"
    row = TABLE[code]
    body: dict[str, Any] = {
        "type": f"urn:frontrow:error:{code}",
        "title": row.title,
        "status": row.status,
        "detail": error.detail if code != "INTERNAL" else "The error was logged.",
        "code": code,
        "requestId": call_context.request_id.get(),
    }
    headers = {}
    retry_after = row.retry_after
    if isinstance(error, InvalidFields):
        body["errors"] = [{"field": e.field, "message": e.message} for e in error.errors]
    if isinstance(error, StillWaiting):
        body["order"] = error.order
        retry_after = error.retry_after
    if retry_after:
        headers["Retry-After"] = str(retry_after)
    if row.status == 401:
        # RFC 9110 wants a challenge with every 401.
        headers["WWW-Authenticate"] = "X-Access-Token"
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = error.allowed
    return Response(to_json(body), row.status, headers, media_type=PROBLEM_JSON)
