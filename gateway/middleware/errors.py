"""Turns exceptions into problem responses."""

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import problem
from gateway.tokens import add_fresh_token
from servicekit import logs
from servicekit.errors import ServiceError

log = logs.get(__name__)


class ErrorMiddleware:
    """Answers a ServiceError with its problem; any other exception is INTERNAL. Logs every
    INTERNAL, with the request id that the client gets."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_and_note_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note_start)
        except Exception as error:
            response = answer_to(error, scope)
            # After the response has started it is too late: the server closes the connection.
            if not started:
                await response(scope, receive, send)


def answer_to(error: Exception, scope: Scope) -> Response:
    """Returns the problem that answers a request which ended with this error. Call it where the
    error was caught."""
    if not isinstance(error, ServiceError):
        log.exception("request_failed", path=scope["path"])
        error = ServiceError("")
    elif error.code == ServiceError.code:  # a service failed, and logged why
        log.error("request_failed", path=scope["path"])
    response = problem(error)
    add_fresh_token(scope, response)
    return response
