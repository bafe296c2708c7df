"""The OpenAPI document of the route table. FastAPI writes it; `Router` serves the routes."""

import re
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema
from pydantic_core import to_json
from starlette.responses import JSONResponse, Response

from gateway import schemas
from gateway.errors import PROBLEM_JSON, TABLE
from gateway.routes.shared import FRESH_TOKEN, RETRY_AFTER, TOKEN
from gateway.routing import Header, Parameter, Returns, Route

_DESCRIPTION = """Sells seats under a flash crowd. Enter the queue, poll until the order is 0, list
the seats, hold some, pay. Every error is `application/problem+json` with a stable `code`.

HEAD works wherever GET does; OPTIONS returns the methods of a path in `Allow`. A request that is
not valid HTTP/1.1 gets 400 (`MALFORMED_REQUEST`), and one whose head exceeds 16 KiB or 100 fields
gets 431 (`HEADERS_TOO_LARGE`), if the HTTP server does not refuse it with a response of its own."""
_TAGS = [
    {"name": "queue", "description": "The waiting room: enter, poll the order, leave."},
    {"name": "concerts", "description": "Concerts, their dates and their seats."},
    {"name": "reservations", "description": "Hold seats, pay for them, cancel the hold."},
    {"name": "health", "description": "Probes for load balancers and supervisors."},
]
_LOGIN = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "JWT",
    "description": "The token of the operator's login system, whose subject is the user id.",
}
_REFERENCE = "#/components/schemas/{model}"


def openapi_document(routes: Sequence[Route]) -> bytes:
    """Returns the document as JSON."""
    app = FastAPI(
        title="Frontrow",
        version="1",
        description=_DESCRIPTION,
        contact={"name": "The operator of this gateway"},
        license_info={"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        openapi_tags=_TAGS,
        servers=[{"url": "/", "description": "This gateway."}],
        openapi_url=None,
    )
    for route in routes:
        _document(app, route)
    document = app.openapi()
    # FastAPI knows no schema of what it does not parse or write itself.
    models: list[type[BaseModel]] = [schemas.Problem]
    models += [route.body for route in routes if route.body is not None]
    _, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=_REFERENCE
    )
    document["components"]["schemas"] |= definitions["$defs"]
    if any(route.login for route in routes):
        document["components"]["securitySchemes"] = {"login": _LOGIN}
    return to_json(document)


def _document(app: FastAPI, route: Route) -> None:
    description = route.handler.__doc__ or ""
    success = route.returns[0]
    extra: dict[str, Any] = {"parameters": [_parameter(p) for p in route.parameters]}
    if route.body is not None:
        schema = {"$ref": _REFERENCE.format(model=route.body.__name__)}
        extra["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    if route.login:
        extra["security"] = [{"login": []}]
    app.add_api_route(
        route.path,
        route.handler,
        methods=[route.method],
        operation_id=route.operation_id,
        tags=[route.tag],
        summary=re.split(r"\.\s", description)[0].rstrip("."),
        status_code=success.status,
        response_model=success.model,
        # Without a model the response has no body.
        response_class=Response if success.model is None else JSONResponse,
        responses=_responses(route),
        openapi_extra=extra,
    )


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.location,
        "required": parameter.required,
        "description": parameter.description,
        "schema": TypeAdapter(parameter.type).json_schema(),
    }


def _headers(headers: Sequence[Header]) -> dict[str, Any]:
    return {
        header.name: {
            "description": header.description,
            "schema": TypeAdapter(header.type).json_schema(),
        }
        for header in headers
    }


def _responses(route: Route) -> dict[int | str, dict[str, Any]]:
    responses = _problems(route.errors)
    for returns in route.returns:
        responses[returns.status] = _response(returns)
    if TOKEN in route.parameters:
        for response in responses.values():
            response.setdefault("headers", {}).update(_headers([FRESH_TOKEN]))
    return responses


def _response(returns: Returns) -> dict[str, Any]:
    response: dict[str, Any] = {"description": returns.description}
    if returns.model is not None:
        response["model"] = returns.model
    if returns.media_type:
        response["content"] = {returns.media_type: {"schema": {"type": "string"}}}
    if returns.headers:
        response["headers"] = _headers(returns.headers)
    return response


def _problems(codes: Sequence[str]) -> dict[int | str, dict[str, Any]]:
    """One response for each status, naming its codes."""
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(TABLE[code].status, []).append(code)
    responses: dict[int | str, dict[str, Any]] = {}
    for status, group in sorted(by_status.items()):
        responses[status] = {
            "description": " ".join(f"`{code}`: {TABLE[code].title}" for code in group),
            "content": {PROBLEM_JSON: {"schema": {"$ref": _REFERENCE.format(model="Problem")}}},
        }
        if any(TABLE[code].retry_after or code == "STILL_WAITING" for code in group):
            responses[status]["headers"] = _headers([RETRY_AFTER])
    return responses
