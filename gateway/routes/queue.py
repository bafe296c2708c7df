"""Entering the waiting room, asking where one stands, leaving."""

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from gateway import schemas, tokens
from gateway.admissions import retry_after
from gateway.clients import Clients
from gateway.door import Door
from gateway.errors import QueueClosed
from gateway.replies import instant_of_ms, json_reply
from gateway.requests import read_body
from gateway.routes.documentation import BODY, GENUINE, document
from gateway.schemas import EnterQueueBody
from gateway.settings import GatewaySettings
from protos.frontrow.queue.v1 import queue_pb2
from servicekit.client import call

_RETRY_AFTER_HEADER = {
    "Retry-After": {
        "description": "While waiting: seconds until the next poll, growing with the distance.",
        "schema": {"type": "integer", "minimum": 1},
    }
}
_TOKEN_HEADER = {
    tokens.HEADER: {
        "description": "The token of the place; sent with every later request.",
        "schema": {"type": "string"},
    }
}


class QueueRoutes:
    """POST /queues/enqueue, GET and DELETE /queues/order."""

    def __init__(
        self,
        clients: Clients,
        door: Door,
        settings: GatewaySettings,
    ) -> None:
        self._clients = clients
        self._door = door
        self._write_budget = settings.write_budget_seconds

    def add_to(self, app: FastAPI) -> None:
        """Adds the routes, with what the OpenAPI page says of them."""
        app.add_api_route(
            "/queues/enqueue",
            self.enter,
            methods=["POST"],
            tags=["queue"],
            status_code=201,
            response_model=schemas.QueueOrder,
            **document(
                body=EnterQueueBody,
                token=False,
                errors=(*BODY, "QUEUE_FULL", "QUEUE_PAUSED", "TOO_MANY_REQUESTS"),
                headers=_TOKEN_HEADER | _RETRY_AFTER_HEADER,
            ),
        )
        app.add_api_route(
            "/queues/order",
            self.order,
            methods=["GET"],
            tags=["queue"],
            response_model=schemas.QueueOrder,
            **document(errors=GENUINE, headers=_RETRY_AFTER_HEADER),
        )
        app.add_api_route(
            "/queues/order",
            self.leave,
            methods=["DELETE"],
            tags=["queue"],
            status_code=204,
            response_class=Response,
            **document(errors=GENUINE),
        )

    async def enter(self, request: Request) -> Response:
        """Gives the user a place in line, or the place that the user already has.

        If there is room, the user is admitted at once and the order is 0."""
        body = await read_body(request, EnterQueueBody)
        self._door.count(f"user {body.user_id}")
        result = await self._clients.entries.submit(body.user_id)
        if result.error_code:
            raise QueueClosed(result.error_code)
        reply = _order_reply(result.position, 201)
        reply.headers[tokens.HEADER] = result.access_token
        return reply

    async def order(self, request: Request) -> Response:
        """Where the token's place stands: 1 = next in line, 0 = admitted."""
        place = self._door.genuine(request)
        return _order_reply(await self._door.position(place), 200)

    async def leave(self, request: Request) -> Response:
        """Gives up the place or the admission; the next in line is admitted. Leaving again
        changes nothing."""
        place = self._door.genuine(request)
        self._door.forget(place)
        await call(
            self._clients.queue.LeaveQueue,
            queue_pb2.LeaveQueueRequest(place=place),
            budget=self._write_budget,
        )
        return Response(status_code=204)


def _order_reply(position: queue_pb2.Position, status: int) -> Response:
    recovering = b"true" if position.recovering else b"false"
    if position.state == queue_pb2.PLACE_STATE_ADMITTED:
        body = (
            b'{"order":0,"pollAfterSeconds":0,"estimatedWaitSeconds":0,"admittedUntil":"%b",'
            b'"recovering":%b}' % (instant_of_ms(position.admitted_until_ms).encode(), recovering)
        )
        return json_reply(body, status)
    body = (
        b'{"order":%d,"pollAfterSeconds":%.3f,"estimatedWaitSeconds":%.3f,"admittedUntil":null,'
        b'"recovering":%b}'
        % (
            position.order,
            position.poll_after_ms / 1000,
            position.estimated_wait_ms / 1000,
            recovering,
        )
    )
    return json_reply(body, status, {"Retry-After": str(retry_after(position))})
