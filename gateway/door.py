"""What every route asks first: whose request is it, is it one too many, is the place let in?"""

from starlette.requests import Request

from gateway.admissions import Admissions
from gateway.rate_limit import RateLimit
from gateway.tokens import TokenVerifier
from protos.frontrow.queue.v1 import queue_pb2


class Door:
    """The checks that the routes share, in their order; the cheapest first."""

    def __init__(
        self, verifier: TokenVerifier, rate_limit: RateLimit, admissions: Admissions
    ) -> None:
        self._verifier = verifier
        self._rate_limit = rate_limit
        self._admissions = admissions

    def count(self, client: int | str) -> None:
        """Counts one request of `client`. Raises TooManyRequests."""
        self._rate_limit.check(client)

    def genuine(self, request: Request) -> queue_pb2.Place:
        """The place of the request's token, whether let in or not. Raises InvalidToken,
        TokenExpired (the token itself is too old), TooManyRequests."""
        place = self._verifier.place(request)
        self._rate_limit.check(place.number)
        return place

    async def admitted(self, request: Request) -> queue_pb2.Place:
        """The place of the request's token, which is let in. Raises what `genuine` and `check`
        raise."""
        place = self.genuine(request)
        await self.check(place)
        return place

    async def check(self, place: queue_pb2.Place) -> None:
        """Returns if the place is let in. Raises StillWaiting, or TokenExpired because the place
        has ended."""
        await self._admissions.check(place)

    async def position(self, place: queue_pb2.Place) -> queue_pb2.Position:
        """Where the place stands in line now. Raises TokenExpired if it has ended."""
        return await self._admissions.position(place)

    def forget(self, place: queue_pb2.Place) -> None:
        """Asks the waiting room the next time: the admission has ended or is about to."""
        self._admissions.forget(place)
