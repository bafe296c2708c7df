"""The check at entry: a new place costs a solved challenge."""

from collections import Counter as Counts

from prometheus_client import Counter
from starlette.requests import Request

from gateway.access_guard import AccessGuard
from gateway.challenges.altcha import AltchaChallenge
from gateway.challenges.http import HttpChallenge
from gateway.challenges.port import Challenge, Solved
from gateway.clients import Clients
from gateway.errors import ChallengeRequired, TooManyRequests
from gateway.settings import Settings
from gateway.sources import Sources
from protos.frontrow.queue.v1 import queue_pb2

HEADER = "X-Challenge-Solution"
MAX_SOLUTION_LENGTH = 4_096
CHALLENGES = Counter(
    "entry_challenges", "Requests to enter by what became of their challenge.", ["outcome"]
)
# The room keeps a spent solution this much longer, because its clock may be ahead of ours.
_CLOCK_LEEWAY_MS = 60_000
# Solutions of one source that a gateway process verifies at once. Otherwise one source with junk
# could take all connections to the provider.
_VERIFYING_PER_SOURCE = 8


class EntryChallenge:
    """Requires a solved challenge for a new place.

    Getting back a live place needs none, if the request proves who asks: by a login, or by a
    genuine token of this user."""

    def __init__(self, challenge: Challenge, guard: AccessGuard, sources: Sources) -> None:
        self._challenge = challenge
        self._guard = guard
        self._sources = sources
        self._verifying: Counts[str] = Counts()

    async def check(
        self,
        request: Request,
        user_id: int,
        room: str,
        entrant: queue_pb2.EnterQueueRequest.Entrant,
        *,
        has_login: bool,
    ) -> None:
        """Verifies the solution and notes it in `entrant`. Raises ChallengeRequired,
        TooManyRequests, or Unavailable if it cannot be verified."""
        solution = request.headers.get(HEADER)
        if solution:
            solved = await self._verify(request, user_id, room, solution)
            if solved is not None:
                CHALLENGES.labels("solved").inc()
                entrant.solution_id = solved.id
                entrant.solution_expires_ms = solved.expires_ms + _CLOCK_LEEWAY_MS
                return
            CHALLENGES.labels("wrong").inc()
        # A wrong solution may be a spent one: a retry of the request that got the place.
        if not has_login and not self._has_token(request, user_id, room):
            raise self.required(user_id, room)
        entrant.only_live_place = True

    def required(self, user_id: int, room: str) -> ChallengeRequired:
        """Returns the error with a new challenge: none was solved, or the solution is wrong,
        expired or spent."""
        CHALLENGES.labels("required").inc()
        return ChallengeRequired(HEADER, self._challenge.new(user_id, room))

    async def _verify(
        self, request: Request, user_id: int, room: str, solution: str
    ) -> Solved | None:
        if len(solution) > MAX_SOLUTION_LENGTH:
            return None
        source = self._sources.of(request.scope)
        if self._verifying[source] >= _VERIFYING_PER_SOURCE:
            CHALLENGES.labels("too_many").inc()
            raise TooManyRequests
        address = self._sources.address_of(request.scope)
        self._verifying[source] += 1
        try:
            return await self._challenge.verify(
                solution, user_id, room, None if address is None else str(address)
            )
        finally:
            self._verifying[source] -= 1
            if not self._verifying[source]:
                del self._verifying[source]

    def _has_token(self, request: Request, user_id: int, room: str) -> bool:
        place = self._guard.proven_place(request)
        return place is not None and place.user_id == user_id and place.room == room


def open_challenge(
    settings: Settings, clients: Clients, guard: AccessGuard, sources: Sources
) -> EntryChallenge | None:
    """Returns the check that the settings ask for, or None."""
    challenge: Challenge
    if settings.challenge == "altcha":
        challenge = AltchaChallenge(
            settings.challenge_altcha_key.get_secret_value(),
            settings.challenge_altcha_difficulty,
            settings.challenge_altcha_seconds,
        )
    elif clients.challenge_provider is not None:
        challenge = HttpChallenge(
            clients.challenge_provider,
            settings.challenge_http_url,
            settings.challenge_http_secret.get_secret_value(),
            settings.challenge_http_site_key,
            settings.challenge_http_timeout_seconds,
        )
    else:
        return None
    return EntryChallenge(challenge, guard, sources)
