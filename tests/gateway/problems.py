"""Checks problem bodies."""

from typing import Any

import httpx

from gateway.errors import PROBLEM_JSON, TABLE

# Members that the called service may add.
_FACTS = {
    "SEAT_HELD": {"conflicts"},
    "SEAT_SOLD": {"conflicts"},
    "SINGLE_SEAT_LEFT": {"conflicts"},
    "SEAT_NOT_FOUND": {"conflicts"},
    "TOO_MANY_SEATS": {"limit"},
    "QUEUE_NOT_OPEN": {"opensAt"},
}


def assert_problem(
    response: httpx.Response, status: int, code: str, retry_after: int | None = None
) -> dict[str, Any]:
    """Fails unless the response is this problem; returns its body. `retry_after` is in seconds;
    None means that the header must be absent."""
    assert (response.status_code, response.headers["content-type"]) == (status, PROBLEM_JSON)
    body: dict[str, Any] = response.json()
    assert body["code"] == code
    assert body["status"] == status
    assert body["type"] == f"urn:frontrow:error:{code}"
    assert body["title"] == TABLE[code].title
    assert body["detail"]
    assert body["requestId"] == response.headers["x-request-id"]
    allowed = {"type", "title", "status", "detail", "code", "requestId"}
    if code == "INVALID_REQUEST":
        allowed.add("errors")
    if code == "STILL_WAITING":
        allowed.add("order")
    if code == "CHALLENGE_REQUIRED":
        allowed.add("challenge")
    # Where the service names them; a test that expects them asserts it.
    allowed |= _FACTS.get(code, set()) & set(body)
    assert set(body) == allowed
    expected = None if retry_after is None else str(retry_after)
    assert response.headers.get("Retry-After") == expected
    assert ("WWW-Authenticate" in response.headers) == (status == 401)
    assert ("Allow" in response.headers) == (status == 405)
    return body
