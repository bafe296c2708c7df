"""The route table: which handler gets which request."""

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from gateway.routing import Returns, Route, Router, route_template


class Recorder:
    """A route table of two routes, and which of them was called, with which path parameters."""

    def __init__(self) -> None:
        self.called = ""
        self.parameters: dict[str, str] = {}
        self.router = Router([self.route("/a"), self.route("/a/{id}/b")], self.fallback)

    def route(self, path: str) -> Route:
        return Route(
            method="GET",
            path=path,
            handler=self.handle,
            operation_id="get",
            tag="test",
            returns=(Returns(200, None, ""),),
        )

    async def handle(self, request: Request) -> Response:
        self.called, self.parameters = route_template(request.scope), request.path_params
        return Response()

    async def fallback(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.called = "fallback"

    async def ask(self, method: str, path: str) -> tuple[str, dict[str, str]]:
        async def receive() -> Message:
            raise AssertionError

        async def send(_: Message) -> None: ...

        scope = {"type": "http", "method": method, "path": path, "headers": []}
        await self.router(scope, receive, send)
        return self.called, self.parameters


@pytest.mark.parametrize(
    ("path", "template", "parameters"),
    [("/a", "/a", {}), ("/a/7/b", "/a/{id}/b", {"id": "7"})],
)
async def test_the_route_of_method_and_path_is_called(
    path: str, template: str, parameters: dict[str, str]
) -> None:
    assert await Recorder().ask("GET", path) == (template, parameters)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/a"),
        ("HEAD", "/a"),
        ("GET", "/a/"),
        ("GET", "/aa"),
        ("GET", "/x/a"),
        ("GET", "/a//b"),
        ("GET", "/a/7/8/b"),
        ("GET", "/a/7/b/"),
    ],
)
async def test_all_else_goes_to_the_fallback(method: str, path: str) -> None:
    assert await Recorder().ask(method, path) == ("fallback", {})
