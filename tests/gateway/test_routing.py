"""The route table: which handler gets which request."""

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from gateway.errors import MethodNotAllowed, PathNotFound
from gateway.routing import Returns, Route, Router, route_template


class Recorder:
    """A route table of two routes and a page, and which was called, with which parameters."""

    def __init__(self) -> None:
        self.called = ""
        self.parameters: dict[str, str] = {}
        self.router = Router([self.route("/a"), self.route("/a/{id}/b")], {"/page": self.page})

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

    async def page(self, request: Request) -> Response:
        self.called = f"page of {route_template(request.scope)}"
        return Response()

    async def ask(self, method: str, path: str) -> tuple[str, dict[str, str]]:
        async def receive() -> Message:
            raise AssertionError

        async def send(_: Message) -> None: ...

        scope = {"type": "http", "method": method, "path": path, "headers": []}
        await self.router(scope, receive, send)
        return self.called, self.parameters


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("path", "called", "parameters"),
    [
        ("/a", "/a", {}),
        ("/a/7/b", "/a/{id}/b", {"id": "7"}),
        ("/page", "page of other", {}),
    ],
)
async def test_the_route_of_method_and_path_is_called(
    method: str, path: str, called: str, parameters: dict[str, str]
) -> None:
    assert await Recorder().ask(method, path) == (called, parameters)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    "path", ["/a/", "/aa", "/x/a", "/a//b", "/a/7/8/b", "/a/7/b/", "/page/", "/pages", "", "*"]
)
async def test_an_unknown_path_is_not_found(method: str, path: str) -> None:
    recorder = Recorder()
    with pytest.raises(PathNotFound):
        await recorder.ask(method, path)
    assert recorder.called == ""


@pytest.mark.parametrize("method", ["POST", "DELETE", "get", ""])
@pytest.mark.parametrize("path", ["/a", "/a/7/b", "/page"])
async def test_a_wrong_method_is_not_allowed(method: str, path: str) -> None:
    recorder = Recorder()
    with pytest.raises(MethodNotAllowed) as refused:
        await recorder.ask(method, path)
    assert refused.value.allowed == "GET, HEAD, OPTIONS"
    assert recorder.called == ""
