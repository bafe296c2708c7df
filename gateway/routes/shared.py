"""What the declarations of several routes share: parameters, headers and groups of errors."""

from typing import Annotated

from pydantic import Field

from gateway import schemas, tokens
from gateway.requests import MAX_KEY_LENGTH
from gateway.routing import Header, Parameter

# Any route that calls a service.
ALWAYS = ("UNAVAILABLE", "TIMEOUT", "INTERNAL")
# Any route that reads a JSON body.
BODY_ERRORS = ("INVALID_REQUEST", "BODY_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE")
# Any route that needs a token, and any route that needs an admitted one.
TOKEN_ERRORS = ("INVALID_TOKEN", "TOKEN_EXPIRED", "TOO_MANY_REQUESTS")
ADMISSION_ERRORS = (*TOKEN_ERRORS, "STILL_WAITING")
# Any route that takes an idempotency key.
KEY_ERRORS = ("IDEMPOTENCY_KEY_REUSED", "IN_PROGRESS")

RETRY_AFTER = Header("Retry-After", schemas.Seconds, "Seconds to wait.")
TOKEN = Parameter(
    tokens.HEADER,
    "header",
    str,
    "The token that entering the queue returned.",
    required=True,
)
FRESH_TOKEN = Header(
    tokens.HEADER,
    str,
    "A fresh token of the same place, if the token of the request is beyond its greatest age. Send "
    "it from now on.",
)
IF_NONE_MATCH = Parameter(
    "If-None-Match", "header", str, "The ETag of the last answer: 304 if nothing has changed."
)
IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    "header",
    Annotated[str, Field(min_length=1, max_length=MAX_KEY_LENGTH)],
    "A repeated key with the same body returns the first final response again.",
)
