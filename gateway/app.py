"""The HTTP application: routes, their documentation, and the edge around them."""

from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp

from gateway.admissions import Admissions
from gateway.clients import Clients
from gateway.door import Door
from gateway.drain import Drain
from gateway.edge import Edge, ShortCut
from gateway.errors import FieldError, InvalidFields, MethodNotAllowed, PathNotFound, problem
from gateway.rate_limit import RateLimit
from gateway.routes.concerts import ConcertRoutes
from gateway.routes.documentation import finish
from gateway.routes.health import HealthRoutes
from gateway.routes.queue import QueueRoutes
from gateway.routes.reservations import ReservationRoutes
from gateway.settings import GatewaySettings
from gateway.tokens import TokenVerifier
from servicekit.errors import ServiceError

DESCRIPTION = """Sells seats under a flash crowd. Enter the queue, poll until the order is 0, look
around, hold a seat, pay. Every error is `application/problem+json` with a stable `code`."""


def create_app(settings: GatewaySettings, clients: Clients, drain: Drain) -> ASGIApp:
    """Wires the application. Call it inside the event loop that will serve it."""
    keys = {key_id: secret.get_secret_value() for key_id, secret in settings.token_keys.items()}
    verifier = TokenVerifier(keys, settings.room, settings.token_max_age_seconds)
    admissions = Admissions(clients.positions, settings.admission_ttl_seconds)
    door = Door(verifier, RateLimit(settings.requests_per_second), admissions)
    queue = QueueRoutes(clients, door, settings)
    concerts = ConcertRoutes(clients, door, settings)
    reservations = ReservationRoutes(clients, door, settings)
    health = HealthRoutes(clients, drain)

    # Its documentation page brings its own scripts: FastAPI's loads them from a network.
    app = FastAPIOffline(
        title="Frontrow",
        version="1",
        description=DESCRIPTION,
        redirect_slashes=False,
        redoc_url=None,
    )
    for routes in (queue, concerts, reservations, health):
        routes.add_to(app)
    app.add_exception_handler(ServiceError, _tell_service_error)
    app.add_exception_handler(HTTPException, _tell_http_exception)
    app.add_exception_handler(RequestValidationError, _tell_validation_error)
    app.add_exception_handler(Exception, _tell_defect)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]

    hottest = ShortCut(
        app,
        [
            ("GET", "/queues/order", queue.order),
            ("POST", "/queues/enqueue", queue.enter),
            ("GET", "/concerts", concerts.concerts),
            ("GET", "/concerts/{concertId}/schedules", concerts.schedules),
            ("GET", "/concerts/schedules/{scheduleId}/seats", concerts.seats),
            ("POST", "/concerts/reservation", reservations.reserve),
            ("POST", "/concerts/reservations/{reservationId}/pay", reservations.pay),
        ],
    )
    return Edge(hottest, drain)


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        app.openapi_schema = finish(
            get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
        )
    return app.openapi_schema


async def _tell_service_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return problem(error)


async def _tell_defect(_: Request, __: Exception) -> Response:
    """Starlette raises the exception on after this answer; `Edge` logs it."""
    return problem(ServiceError(""))


async def _tell_http_exception(request: Request, error: Exception) -> Response:
    """FastAPI's own errors: no such path, wrong method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return problem(MethodNotAllowed(", ".join(_allowed_methods(request))))
    if error.status_code == 404:
        return problem(PathNotFound("See /docs for the paths there are."))
    raise error


def _allowed_methods(request: Request) -> list[str]:
    """What the path takes over all its routes; Starlette tells of the first route only."""
    methods: set[str] = set()
    for route in request.app.routes:
        match, _ = route.matches(request.scope)
        if match != Match.NONE:
            methods |= getattr(route, "methods", None) or set()
    # No route is left of a path in the folder of the documentation's scripts.
    return sorted(methods) or ["GET", "HEAD"]


async def _tell_validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem(
        InvalidFields([FieldError(".".join(map(str, e["loc"])), e["msg"]) for e in error.errors()])
    )
