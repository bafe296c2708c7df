"""What anybody may know of the draw of a room, to check it."""

from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gateway import schemas
from gateway.draws import Draws
from gateway.responses import JsonResponse, has_etag, instant
from gateway.routes.shared import ALWAYS, IF_NONE_MATCH
from gateway.routing import Header, Parameter, Returns, Route

_ROOM = Parameter("room", "path", str, "The name of a waiting room.", required=True)
_ETAG = Header("ETag", str, "The SHA-256 of the list, in quotes.")
_TEXT = "text/plain; charset=utf-8"
# The list of a draw does not change any more, but the name of a room that was removed may be used
# again.
_CACHE_CONTROL = "public, max-age=300"


class DrawRoutes:
    """GET /queues/draws/{room} and /queues/draws/{room}/numbers."""

    def __init__(self, draws: Draws) -> None:
        self._draws = draws

    def routes(self) -> Sequence[Route]:
        """Returns the declarations."""
        return (
            Route(
                method="GET",
                path="/queues/draws/{room}",
                handler=self.draw,
                operation_id="getDraw",
                tag="queue",
                parameters=(_ROOM,),
                returns=(Returns(200, schemas.Draw, "What is public now."),),
                errors=("DRAW_NOT_FOUND", *ALWAYS),
            ),
            Route(
                method="GET",
                path="/queues/draws/{room}/numbers",
                handler=self.numbers,
                operation_id="getDrawNumbers",
                tag="queue",
                parameters=(_ROOM, IF_NONE_MATCH),
                returns=(
                    Returns(
                        200,
                        None,
                        "The place numbers, ascending, one on each line.",
                        media_type="text/plain",
                        headers=(_ETAG,),
                    ),
                    Returns(304, None, "The same as last time.", headers=(_ETAG,)),
                ),
                errors=("DRAW_NOT_FOUND", "DRAW_NOT_PUBLISHED", "TOO_MANY_REQUESTS", *ALWAYS),
            ),
        )

    async def draw(self, request: Request) -> Response:
        """Returns the commitments of a draw, and from the opening on its seed. Needs no token.

        With these and the list of numbers, anybody can recompute the order."""
        name = request.path_params["room"]
        draw = await self._draws.draw(name)
        cohort = None
        if draw.HasField("cohort"):
            cohort = {"size": draw.cohort.size, "sha256": draw.cohort.sha256.hex()}
        return JsonResponse(
            {
                "room": name,
                "seedSha256": draw.seed_sha256.hex(),
                "publicValueSource": draw.public_value_source or None,
                "gatherFrom": _instant(draw.gather_from),
                "gatherUntil": _instant(draw.gather_until),
                "opensAt": _instant(draw.opens_at),
                "cohort": cohort,
                "seed": draw.seed.hex() or None,
                "publicValue": draw.public_value or None,
            }
        )

    async def numbers(self, request: Request) -> Response:
        """Lists the numbers of the places that took part in a draw, once it is public. Needs no
        token."""
        name = request.path_params["room"]
        cohort = await self._draws.published(name)
        etag = f'"{cohort.sha256.hex()}"'
        headers = {"ETag": etag, "Cache-Control": _CACHE_CONTROL}
        if has_etag(request, etag):
            return Response(status_code=304, headers=headers)
        if request.method == "HEAD":
            return Response(headers=headers, media_type=_TEXT)
        parts = await self._draws.numbers(name, cohort)
        return StreamingResponse(parts, headers=headers, media_type=_TEXT)


def _instant(timestamp: Timestamp) -> str | None:
    """Formats a timestamp; None if it is absent."""
    return instant(timestamp) if timestamp.seconds else None
