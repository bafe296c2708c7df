"""The wiring of the admin API: routes inside what every request passes."""

import re
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from pydantic.alias_generators import to_camel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.admin.access import AccessMiddleware, Keys
from gateway.admin.audit import Audit
from gateway.admin.bodies import BodyRules
from gateway.admin.clients import AdminClients
from gateway.admin.errors import ADMIN_TABLE, admin_problem
from gateway.admin.events import EventRoutes
from gateway.admin.operators import OperatorRoutes
from gateway.admin.rooms import RoomRoutes
from gateway.admin.schemas import AdminProblem
from gateway.errors import PROBLEM_JSON, FieldError, InvalidFields, MethodNotAllowed, PathNotFound
from gateway.middleware.drain import DrainMiddleware
from gateway.middleware.request_guard import RequestGuard
from gateway.server import Drain
from gateway.settings import Settings
from gateway.sources import Sources
from servicekit import logs
from servicekit.errors import ServiceError

log = logs.get(__name__)

_DESCRIPTION = """Describes events and waiting rooms and changes them while they sell.

Every request needs an API key in `Authorization: Bearer`. Every error is
`application/problem+json` with a stable `code`. Every change is in the audit log."""
_TAGS = [
    {"name": "events", "description": "Concerts with their seats and dates, as documents."},
    {"name": "rooms", "description": "Waiting rooms: limits, openings, draws."},
    {"name": "operators", "description": "API keys and the audit log."},
]
_REFERENCE = "#/components/schemas/{model}"


class AdminApplication:
    """The admin API as an application of GranianWorker. It answers nothing at once."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def answer(self, scope: Scope) -> Response | None:
        """Returns None: every request takes the ordinary way."""
        return None


def create_admin_app(settings: Settings, clients: AdminClients, drain: Drain) -> AdminApplication:
    """Returns the application. Call it inside the event loop that will serve it."""
    audit = Audit(clients)
    api = FastAPIOffline(
        redoc_url=None,
        title="Frontrow: admin API",
        version="1",
        description=_DESCRIPTION,
        openapi_tags=_TAGS,
        license_info={"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        generate_unique_id_function=_operation_id,
        responses=_problems(),
        exception_handlers={
            ServiceError: _answer_service_error,
            RequestValidationError: _answer_invalid,
            HTTPException: _answer_http_error,
            Exception: _answer_defect,
        },
    )
    for routes in (EventRoutes, RoomRoutes, OperatorRoutes):
        api.include_router(routes(clients, audit).router())
    api.openapi = lambda: _document(api)  # type: ignore[method-assign]  # FastAPI's own way
    app: ASGIApp = BodyRules(api)
    app = AccessMiddleware(app, Keys(clients, Sources(settings.trusted_proxies)))
    app = DrainMiddleware(app, drain)
    app = RequestGuard(app)
    return AdminApplication(app)


def _operation_id(route: APIRoute) -> str:
    return to_camel(route.name)


def _document(api: FastAPI) -> dict[str, object]:
    """Returns the OpenAPI document; it is made once."""
    if not api.openapi_schema:
        document = get_openapi(
            title=api.title,
            version=api.version,
            description=api.description,
            tags=api.openapi_tags,
            license_info=api.license_info,
            routes=api.routes,
        )
        _, definitions = models_json_schema([(AdminProblem, "validation")], ref_template=_REFERENCE)
        document["components"]["schemas"] |= definitions["$defs"]
        api.openapi_schema = document
    return api.openapi_schema


def _problems() -> dict[int | str, dict[str, object]]:
    """One response for each status, naming its codes."""
    by_status: dict[int, list[str]] = {}
    for code, row in ADMIN_TABLE.items():
        by_status.setdefault(row.status, []).append(code)
    schema = {"$ref": _REFERENCE.format(model="AdminProblem")}
    return {
        status: {
            "description": " ".join(f"`{code}`: {ADMIN_TABLE[code].title}" for code in codes),
            "content": {PROBLEM_JSON: {"schema": schema}},
        }
        for status, codes in sorted(by_status.items())
    }


async def _answer_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    if error.code not in ADMIN_TABLE or error.code == ServiceError.code:
        log.error("admin_request_failed", path=request.url.path, code=error.code)
    return admin_problem(error)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [
        FieldError(_field(tuple(problem["loc"]), problem["type"]), problem["msg"])
        for problem in error.errors()
    ]
    return admin_problem(InvalidFields(problems))


def _field(location: tuple[int | str, ...], kind: str) -> str:
    """Names a field as in the request: ("body", "seats", 3, "label") is seats[3].label."""
    if len(location) < 2 or kind == "json_invalid":
        return "body"
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location[1:])
    return re.sub(r"^\.", "", name)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors, and those that FastAPI makes of ours while it reads a body."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, ServiceError):
        return await _answer_service_error(request, error.__cause__)
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return admin_problem(MethodNotAllowed((error.headers or {}).get("Allow", "")))
    if error.status_code == HTTPStatus.NOT_FOUND:
        return admin_problem(PathNotFound("Check the spelling of the path."))
    return admin_problem(InvalidFields([FieldError("body", str(error.detail))]))


async def _answer_defect(request: Request, error: Exception) -> Response:
    log.error("admin_request_failed", path=request.url.path, exc_info=error)
    return admin_problem(ServiceError(""))
