"""Who may call QueueAdminService."""

import hmac

from servicekit import logs
from servicekit.call_interceptor import Context
from servicekit.errors import Forbidden
from servicekit.settings import is_loopback

log = logs.get(__name__)

METADATA = "authorization"


class AdminTokenRequired(Forbidden):
    """The call has no credential for the RPCs of operators, or not the right one."""

    code = "ADMIN_TOKEN_REQUIRED"


def credentials(token: str) -> tuple[tuple[str, str], ...]:
    """Returns the metadata of a call with this admin token."""
    return ((METADATA, f"Bearer {token}"),)


class AdminGuard:
    """Lets calls pass that carry the admin token as `authorization: Bearer <token>`.

    Without a token, calls pass if the service listens on a loopback address, where only this
    machine can reach it; otherwise none passes, and a warning says so.
    """

    def __init__(self, token: str | None, listen: str) -> None:
        self._expected = None if token is None else credentials(token)[0][1].encode()
        self._open = token is None and is_loopback(listen)
        if token is None and not self._open:
            log.warning("admin_token_missing", listen=listen)

    def check(self, context: Context) -> None:
        """Returns if the call may pass. Raises AdminTokenRequired."""
        if self._open:
            return
        given = dict(context.invocation_metadata() or ()).get(METADATA, "")
        given = given.encode() if isinstance(given, str) else given
        # In constant time, so that the time of an answer tells nothing about the token.
        if self._expected is None or not hmac.compare_digest(given, self._expected):
            raise AdminTokenRequired("This call needs the admin token of queue_service.")
