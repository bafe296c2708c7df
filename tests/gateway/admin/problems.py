"""What problems look like."""

from typing import Any

import httpx


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Returns the body of a problem after checking its form."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    body: dict[str, Any] = response.json()
    assert body["code"] == code
    assert body["type"] == f"urn:frontrow:error:{code}"
    assert body["status"] == status
    assert body["requestId"] == response.headers["x-request-id"]
    return body


def fields(response: httpx.Response) -> list[str]:
    """Returns the invalid fields of a 422."""
    return [error["field"] for error in problem(response, 422, "INVALID_REQUEST")["errors"]]
