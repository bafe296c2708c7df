"""Who enters the queue, proved by a token of the operator's login system (GATEWAY_IDENTITY=jwt)."""

import re

import jwt
from jwt.types import Options
from starlette.requests import Request

from gateway.errors import IdentityRequired
from gateway.identity_keys import KeyFile
from gateway.settings import Settings
from servicekit import logs

log = logs.get(__name__)

LEEWAY_SECONDS = 30
"""How far the clocks of the login system and of the gateway may differ, in seconds."""

# The head of a request has at most 16 KiB.
_MAX_LENGTH = 8_192
_MAX_INT64 = 2**63 - 1
# Leading zeros would make one user of two subjects.
_POSITIVE = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)


class Identity:
    """Verifies tokens of the login system: signature, issuer, audience, expiry and user id."""

    def __init__(self, keys: KeyFile, issuer: str, audience: str, claim: str) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._claim = claim
        self._options: Options = {
            "require": ["exp", "iss", "aud", claim],
            # PyJWT wants a text; a user id may be a number.
            "verify_sub": False,
        }

    def user_id(self, request: Request) -> int:
        """Returns the user that the request proves to come from. Raises IdentityRequired."""
        headers = request.headers.getlist("Authorization")
        scheme, _, token = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
        if scheme.lower() != "bearer":
            raise IdentityRequired(
                "Send exactly one Authorization header: Bearer <token of your login>."
            )
        return self._verify(token.strip(" "))

    def _verify(self, token: str) -> int:
        if len(token) > _MAX_LENGTH:
            raise _refusal("malformed")
        reason = "key"
        try:
            header = jwt.get_unverified_header(token)
            for key in self._keys.current():
                if key.algorithm != header.get("alg"):
                    continue
                if key.key_id is not None and header.get("kid") not in (None, key.key_id):
                    continue
                try:
                    claims = jwt.decode(
                        token,
                        key.secret_or_public,
                        algorithms=[key.algorithm],
                        issuer=self._issuer,
                        audience=self._audience,
                        leeway=LEEWAY_SECONDS,
                        options=self._options,
                    )
                except jwt.InvalidSignatureError:
                    reason = "signature"
                    continue
                _check_expiry(claims["exp"])
                return _user_id(claims[self._claim])
        except jwt.ExpiredSignatureError:
            log.debug("login_refused", reason="expired")
            raise IdentityRequired("The token of your login has expired; log in again.") from None
        # RecursionError: deeply nested JSON. OverflowError: an infinite number in a claim.
        except (jwt.PyJWTError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise _refusal(_reason(error)) from None
        raise _refusal(reason)


def _refusal(reason: str) -> IdentityRequired:
    """Logs for the operator which check failed; the client gets one text for all of them, so that
    nobody learns from it how far a forged token came."""
    log.debug("login_refused", reason=reason)
    return IdentityRequired(
        "The token of your login is malformed, not genuine, or not meant for this shop."
    )


def _reason(error: Exception) -> str:
    """Returns the check that failed, without anything of the token."""
    match error:
        case jwt.InvalidIssuerError():
            return "issuer"
        case jwt.InvalidAudienceError():
            return "audience"
        case jwt.DecodeError() | RecursionError():
            return "malformed"
        case _:
            return "claim"


def _check_expiry(claim: object) -> None:
    """Raises ValueError unless the expiry is a number that a clock can reach."""
    if isinstance(claim, bool) or not isinstance(claim, int | float):
        raise ValueError("exp is not a number")
    if not 0 <= claim <= _MAX_INT64:
        raise ValueError("exp is out of range")


def _user_id(claim: object) -> int:
    """Returns the claim as a number. Raises ValueError unless it is a positive decimal 64-bit
    number, as a number or a text of JSON."""
    if isinstance(claim, str) and _POSITIVE.fullmatch(claim):
        claim = int(claim)
    # Not isinstance: True is an int.
    if type(claim) is not int or not 1 <= claim <= _MAX_INT64:
        raise ValueError("the subject is no user id")
    return claim


def open_identity(settings: Settings) -> Identity | None:
    """Returns what verifies users, or None if GATEWAY_IDENTITY is `open`, which logs a warning.

    Raises BadKeys if the key file changed since the settings were checked and is unusable.
    """
    if settings.identity == "open":
        log.warning("identity_open")
        return None
    return Identity(
        settings.open_identity_keys(),
        settings.identity_issuer,
        settings.identity_audience,
        settings.identity_claim,
    )
