"""Reads the body, path ids and headers of a request."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Annotated, ClassVar, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from gateway.errors import BodyTooLarge, FieldError, InvalidFields, UnsupportedMediaType

MAX_BODY_BYTES = 16 * 1024
MAX_KEY_LENGTH = 255
# A client that sends more slowly than this would keep a connection, and a drain, open for ever.
BODY_SECONDS = 10.0
MAX_ID = 2**63 - 1

# Up to here each integer has a floating-point number of its own.
_MAX_EXACT_FLOAT = 2**53 - 1


def _as_integer(value: object) -> object:
    """42.0 and 4.2e1 are integers to JSON Schema. pydantic's strict mode takes 42 only, and its
    other mode also takes "42" and true."""
    if type(value) is float and value.is_integer() and abs(value) <= _MAX_EXACT_FLOAT:
        return int(value)
    return value


WHOLE = BeforeValidator(_as_integer)
Id = Annotated[
    int,
    Field(strict=True, ge=1, le=MAX_ID, json_schema_extra={"format": "int64"}, examples=[42]),
    WHOLE,
]


class RequestBody(BaseModel):
    """A JSON request body with camelCase keys; unknown keys are ignored.

    `one_of` names members of which a body has exactly one. Each is None by default, and null is as
    good as absent.
    """

    model_config = ConfigDict(alias_generator=to_camel, frozen=True)

    one_of: ClassVar[tuple[str, ...]] = ()


Body = TypeVar("Body", bound=RequestBody)


class FieldErrors:
    """Reads several parts of a request, each in a `with` block, and reports all invalid fields
    together:

    errors = FieldErrors()
    with errors:
        seat_id = path_id(request, "seatId")
    with errors:
        body = await read_body(request, SomeRequest)
    errors.raise_if_any()
    """

    def __init__(self) -> None:
        self._errors: list[FieldError] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if isinstance(error, InvalidFields):
            self._errors += error.errors
            return True
        return False

    def raise_if_any(self) -> None:
        """Raises InvalidFields if a field was invalid."""
        if self._errors:
            raise InvalidFields(self._errors)


async def read_body(request: Request, model: type[Body]) -> Body:
    """Returns the body as `model`. Raises BodyTooLarge, UnsupportedMediaType or InvalidFields."""
    media_type, coding, length = b"application/json", b"identity", b"0"
    for name, value in request.headers.raw:  # one pass, and no decoding
        if name == b"content-type":
            media_type = value
        elif name == b"content-encoding":
            coding = value
        elif name == b"content-length":
            length = value
    if media_type.partition(b";")[0].strip().lower() != b"application/json":
        raise UnsupportedMediaType("Send Content-Type: application/json.")
    if coding.strip().lower() != b"identity":
        raise UnsupportedMediaType("Send the body without a Content-Encoding.")
    if length.isdigit() and int(length[:20]) > MAX_BODY_BYTES:
        raise _too_large()
    content = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                content += chunk
                if len(content) > MAX_BODY_BYTES:
                    raise _too_large()
    except (ClientDisconnect, TimeoutError):
        raise InvalidFields([FieldError("body", "ended early or arrived too slowly")]) from None
    if not content:
        raise InvalidFields([FieldError("body", "The body is empty; send a JSON object.")])
    try:
        body = model.model_validate_json(content)
    except ValidationError as invalid:
        errors = [
            FieldError(".".join(map(str, error["loc"])) or "body", error["msg"])
            for error in invalid.errors(include_url=False, include_input=False)
        ]
        raise InvalidFields(errors + _errors_of_choice(model, content, errors)) from None
    if model.one_of:
        given = [name for name in model.one_of if getattr(body, name) is not None]
        if len(given) != 1:
            raise InvalidFields(_one_of_errors(model, given))
    return body


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"A body has at most {MAX_BODY_BYTES} bytes.")


def _errors_of_choice(
    model: type[RequestBody], content: bytes, errors: Sequence[FieldError]
) -> list[FieldError]:
    """Returns the errors of `one_of` in a body that has other errors, too."""
    if not model.one_of or any(error.field == "body" for error in errors):
        return []
    members = from_json(content)
    given = [name for name in model.one_of if members.get(to_camel(name)) is not None]
    known = {error.field.partition(".")[0] for error in errors}
    return [error for error in _one_of_errors(model, given) if error.field not in known]


def _one_of_errors(model: type[RequestBody], given: Sequence[str]) -> list[FieldError]:
    """Returns one error for each member that is given beside another one; if none is given, one
    for the first."""
    if len(given) == 1:
        return []
    message = f"send exactly one of {', '.join(map(to_camel, model.one_of))}"
    return [FieldError(to_camel(name), message) for name in given or model.one_of[:1]]


def path_id(request: Request, name: str) -> int:
    """Returns an id from the path. Raises InvalidFields unless it is a positive 64-bit integer."""
    text: str = request.path_params[name]
    if text.isascii() and text.isdecimal() and len(text) <= 19 and 1 <= int(text) <= MAX_ID:
        return int(text)
    raise InvalidFields([FieldError(name, "must be a positive 64-bit integer")])


def idempotency_key(request: Request) -> str:
    """Returns the Idempotency-Key header, or "". Raises InvalidFields if it is empty, too long or
    unprintable."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return ""
    if 1 <= len(key) <= MAX_KEY_LENGTH and key.isascii() and key.isprintable():
        return key
    raise InvalidFields(
        [FieldError("Idempotency-Key", f"must be 1 to {MAX_KEY_LENGTH} printable characters")]
    )
