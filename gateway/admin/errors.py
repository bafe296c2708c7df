"""The errors of the admin API: its table from code to HTTP status."""

from collections.abc import Mapping, Sequence

from pydantic.alias_generators import to_camel
from starlette.responses import Response

from gateway.errors import INVALID_KEY, TABLE, FieldError, InvalidFields, Row, problem
from servicekit.errors import Forbidden, NotFound, ServiceError
from servicekit.rpc_errors import RemoteError

# Those of the public API that the admin API has too.
_SHARED = (
    "MALFORMED_REQUEST",
    "HEADERS_TOO_LARGE",
    "INVALID_REQUEST",
    "BODY_TOO_LARGE",
    "UNSUPPORTED_MEDIA_TYPE",
    "NOT_FOUND",
    "METHOD_NOT_ALLOWED",
    "TOO_MANY_REQUESTS",
    "UNAVAILABLE",
    "TIMEOUT",
    "INTERNAL",
)

ADMIN_TABLE: Mapping[str, Row] = {
    **{code: TABLE[code] for code in _SHARED},
    INVALID_KEY: Row(401, "The API key is missing, unknown or revoked."),
    "ROLE_REQUIRED": Row(403, "The API key does not allow this."),
    "EVENT_NOT_FOUND": Row(404, "There is no such event, or no such version of it is kept."),
    "ROOM_NOT_FOUND": Row(404, "There is no such room."),
    "KEY_NOT_FOUND": Row(404, "There is no such key."),
    "EVENT_CHANGED": Row(409, "The event has another version."),
    "WRONG_EVENT_STATUS": Row(409, "The state of the event does not allow this."),
    "SEATS_TAKEN": Row(409, "Seats are held or sold."),
    "ROOM_CHANGED": Row(409, "The room has another version."),
    "ROOM_HAS_BEGUN": Row(409, "This does not change once people are in the line."),
    "ROOM_IN_USE": Row(409, "Published concerts need this room."),
    "TOO_MANY_ROOMS": Row(409, "There are as many rooms as there may be."),
    "DRAW_NOT_CLOSED": Row(409, "The gathering of the draw has not closed."),
    "PUBLIC_VALUE_SET": Row(409, "The draw has another public value."),
}

# Lists of ids cross gRPC as text.
_LISTS = frozenset({"seats", "concerts"})
_NUMBERS = frozenset({"version", "limit"})


class KeyRequired(ServiceError):
    code = INVALID_KEY

    def __init__(self) -> None:
        super().__init__("Send Authorization: Bearer with an API key that is not revoked.")


class RoleRequired(Forbidden):
    code = "ROLE_REQUIRED"

    def __init__(self, role: str) -> None:
        super().__init__(f"This needs a key with the role {role}.")


class RoomNotFound(NotFound):
    code = "ROOM_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("There is no such room.")


class ChangedMeanwhile(ServiceError):
    """Somebody else was first: `code` is EVENT_CHANGED or ROOM_CHANGED, `version` the present one,
    and `changes` what differs."""

    code: str  # type: ignore[misc]  # one of two

    def __init__(self, code: str, version: int, changes: Sequence[Mapping[str, object]], /) -> None:
        super().__init__(f"Version {version} is the present one; look at the changes.")
        self.code = code
        self.version = version
        self.changes = changes


def admin_problem(error: ServiceError) -> Response:
    """Returns the response for this error, with what it says for programs: `version`, `changes`,
    `seats`, `concerts`, `limit`, `field`."""
    if isinstance(error, RemoteError) and error.code == "INVALID_REQUEST":
        # A service names one field, in the spelling of its messages.
        field = to_camel(error.metadata.get("field", "")) or "body"
        error = InvalidFields([FieldError(field, error.detail)])
    return problem(error, ADMIN_TABLE, _members(error))


def _members(error: ServiceError) -> dict[str, object]:
    if isinstance(error, ChangedMeanwhile):
        return {"version": error.version, "changes": error.changes}
    members: dict[str, object] = {}
    for name, value in error.metadata.items():
        if name in _LISTS:
            members[name] = [int(part) for part in value.split(",") if part]
        elif name in _NUMBERS:
            members[name] = int(value)
        elif name == "field":
            members[name] = to_camel(value)
    return members
