"""What the OpenAPI page says of a route: its replies, errors, headers and body."""

import re
from typing import Any

from pydantic import BaseModel

from gateway import schemas, tokens
from gateway.errors import PROBLEM_JSON, TABLE

# Any route can end like this.
_ALWAYS = ("UNAVAILABLE", "TIMEOUT", "INTERNAL")
# Any route that reads a JSON body can end like this.
BODY = ("INVALID_REQUEST", "BODY_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE")
GENUINE = ("INVALID_TOKEN", "TOKEN_EXPIRED", "TOO_MANY_REQUESTS")
# Any route behind the door can end like this.
ADMITTED = (*GENUINE, "STILL_WAITING")

RETRY_AFTER = {
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
}
_TOKEN_PARAMETER = {
    "name": tokens.HEADER,
    "in": "header",
    "required": True,
    "description": "The token that entering the queue gave.",
    "schema": {"type": "string"},
}
_IDEMPOTENCY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key with the same body gets the first final answer again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}


def path_parameter(name: str) -> dict[str, Any]:
    """An id in the path."""
    schema = {"type": "integer", "format": "int64", "minimum": 1}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def query_parameter(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    """An optional value behind the question mark."""
    return {
        "name": name,
        "in": "query",
        "required": False,
        "description": description,
        "schema": schema,
    }


def document(
    *,
    errors: tuple[str, ...] = (),
    body: type[BaseModel] | None = None,
    token: bool = True,
    idempotency_key: bool = False,
    parameters: tuple[dict[str, Any], ...] = (),
    also: dict[int | str, dict[str, Any]] | None = None,
    headers: dict[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Keyword arguments for a FastAPI route whose function reads the request by itself.

    `errors` are codes of the error table; `also` are further replies by status; `headers` are
    those of the reply of success.
    """
    responses: dict[int | str, dict[str, Any]] = dict(also or {})
    by_status: dict[int, list[str]] = {}
    for code in (*errors, *_ALWAYS):
        by_status.setdefault(TABLE[code].status, []).append(code)
    for status, codes in sorted(by_status.items()):
        titles = " ".join(f"`{code}`: {TABLE[code].title}" for code in codes)
        response: dict[str, Any] = {
            "model": schemas.Problem,
            "description": titles,
            "content": {
                PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}},
            },
        }
        if any(TABLE[code].retry_after or code == "STILL_WAITING" for code in codes):
            response["headers"] = RETRY_AFTER
        responses[status] = response
    extra: dict[str, Any] = {"parameters": [*parameters]}
    if token:
        extra["parameters"].append(_TOKEN_PARAMETER)
    if idempotency_key:
        extra["parameters"].append(_IDEMPOTENCY_PARAMETER)
    if body is not None:
        extra["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": body.model_json_schema()}},
        }
    if headers:
        extra["x-success-headers"] = headers
    return {"responses": responses, "openapi_extra": extra}


def finish(spec: dict[str, Any]) -> dict[str, Any]:
    """Mends what FastAPI cannot be told route by route: problems are problem+json alone,
    replies of success have headers too, and a summary is the first sentence of the rest."""
    for operations in spec["paths"].values():
        for operation in operations.values():
            operation["summary"] = re.split(r"\.\s", operation["description"])[0].rstrip(".")
            headers = operation.pop("x-success-headers", None)
            for status, response in operation["responses"].items():
                if PROBLEM_JSON in response.get("content", {}):
                    response["content"].pop("application/json", None)
                elif headers and status.startswith("2"):
                    response.setdefault("headers", {}).update(headers)
    return spec
