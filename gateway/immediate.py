"""Answers what everybody polls before the middleware and the routing.

Below, a request meets the same checks as on the ordinary way, in the same order: the head, the
route, the limit of the source, then what the route checks. What needs more than that, or has to
wait for something, takes the ordinary way (docs/adr/0042-immediate-answers.md).
"""

import time

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.granian_worker import PART_BYTES
from gateway.middleware.cors import CorsMiddleware
from gateway.middleware.errors import answer_to
from gateway.middleware.metrics import count
from gateway.middleware.request_guard import identifying, read_head
from gateway.middleware.source_limit import SourceLimit
from gateway.routing import TRIED, Router, route_template
from gateway.server import Drain
from servicekit import call_context


class ImmediateAnswers:
    """Answers what the `immediate` handler of a route can answer; `ordinary` answers the rest."""

    def __init__(
        self,
        ordinary: ASGIApp,
        router: Router,
        drain: Drain,
        source_limit: SourceLimit | None,
        cors: CorsMiddleware | None,
    ) -> None:
        self.ordinary = ordinary
        self._router = router
        self._drain = drain
        self._source_limit = source_limit
        self._cors = cors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = self.answer(scope)
        if response is None:
            await self.ordinary(scope, receive, send)
        else:
            await response(scope, receive, send)

    def answer(self, scope: Scope) -> Response | None:
        """Returns the response, or None if `ordinary` must answer. Never waits."""
        started = time.perf_counter()
        # While the process drains, responses close their connections.
        if scope["method"] not in ("GET", "HEAD") or self._drain.begun:
            return None
        route, parameters = self._router.find(scope)
        if route is None or route.immediate is None:
            return None
        head = read_head(scope)
        if head.refusal is not None or head.has_body:
            return None
        call_context.request_id.set(head.request_id.decode())
        try:
            if self._source_limit is not None:
                self._source_limit.check(scope)
            scope["route"], scope["path_params"] = route, parameters
            scope[TRIED] = True
            response = route.immediate(Request(scope))
        except Exception as error:
            response = answer_to(error, scope)
        # A larger body waits, in parts, until the client reads.
        if response is None or len(response.body) > PART_BYTES:
            return None
        if self._cors is not None:
            self._cors.add_fields(scope, response)
        response.raw_headers.append(identifying(head.request_id))
        count(route_template(scope), response.status_code, started)
        return response
