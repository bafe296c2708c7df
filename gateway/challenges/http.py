"""A challenge whose solutions a provider verifies over HTTP, in the manner of Cloudflare Turnstile.

POST <url> with the form fields `secret`, `response` and `remoteip`; the answer is JSON with
`success` and `error-codes`. hCaptcha and reCAPTCHA have the same API.
"""

import asyncio
import hashlib
import time
from collections.abc import Mapping

import httpx
from pydantic import BaseModel, Field, ValidationError

from gateway.challenges.port import Solved
from servicekit import logs
from servicekit.errors import Unavailable
from servicekit.retries import Outage

log = logs.get(__name__)

# A provider accepts a solution for a few minutes (Turnstile: 300 s), and accepts it once.
_VALID_MS = 900_000
# Not the client's fault. A `bad-request` may be: a provider that finds the solution malformed may
# call the whole request so.
_OUR_ERRORS = {"missing-input-secret", "invalid-input-secret", "internal-error"}
# A verdict ends an outage only so many seconds after the last failure. Otherwise a provider that
# fails now and then would cause two lines in the log each time.
_SETTLED_SECONDS = 10.0


class _Verdict(BaseModel):
    success: bool
    error_codes: list[str] = Field(default=[], alias="error-codes")


class ProviderRefused(Exception):
    """The provider did not judge the solution: it fails, or our secret is wrong."""


class HttpChallenge:
    """Implements Challenge. `seconds` is the deadline of one verification."""

    def __init__(
        self, client: httpx.AsyncClient, url: str, secret: str, site_key: str, seconds: float
    ) -> None:
        self._client = client
        self._url = url
        self._secret = secret
        self._site_key = site_key
        self._seconds = seconds
        self._outage = Outage(log, "challenge_provider_unavailable", "challenge_provider_available")
        self._failed_at = 0.0

    def new(self, user_id: int, room: str) -> Mapping[str, object]:
        """The page needs only the site key; the provider makes the challenge itself."""
        return {"siteKey": self._site_key}

    async def verify(
        self, solution: str, user_id: int, room: str, address: str | None
    ) -> Solved | None:
        """Asks the provider."""
        form = {"secret": self._secret, "response": solution}
        if address is not None:
            form["remoteip"] = address
        try:
            async with asyncio.timeout(self._seconds):
                response = await self._client.post(self._url, data=form)
            verdict = _Verdict.model_validate_json(response.content)
            if _OUR_ERRORS.intersection(verdict.error_codes) or response.status_code >= 500:
                raise ProviderRefused
        except (httpx.HTTPError, TimeoutError, ValidationError, ProviderRefused) as error:
            self._outage.failed(error)
            self._failed_at = time.monotonic()
            raise Unavailable("Solutions cannot be verified at the moment.") from error
        if time.monotonic() - self._failed_at >= _SETTLED_SECONDS:
            self._outage.succeeded()
        if not verdict.success:
            return None
        # The room stores it, and a solution may be long.
        identity = hashlib.sha256(solution.encode()).hexdigest()[:32]
        return Solved(identity, int(time.time() * 1000) + _VALID_MS)
