"""Checks responses against the OpenAPI document: every response must be declared."""

import re
from functools import cache
from typing import Any

import httpx
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from gateway.errors import PROBLEM_JSON

# Errors without a route.
_WITHOUT_ROUTE = {"NOT_FOUND", "METHOD_NOT_ALLOWED", "TOO_MANY_REQUESTS"}
_HEADERS_TO_DECLARE = ("Retry-After", "X-Access-Token")


class Declared:
    """The gateway's OpenAPI document."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self._patterns = [
            (re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), path) for path in spec["paths"]
        ]

    def operation(self, method: str, path: str) -> tuple[str, dict[str, Any]] | None:
        """Returns the path template and the operation of a request, or None if none is declared."""
        for pattern, template in self._patterns:
            if pattern.fullmatch(path):
                operation = self.spec["paths"][template].get(method.lower())
                if operation is not None:
                    return template, operation
        return None

    async def check(self, response: httpx.Response) -> None:
        """Fails unless status, content type, headers and body match the document."""
        await response.aread()
        found = self.operation(response.request.method, response.request.url.path)
        if found is None:
            if response.content and response.headers["content-type"] == PROBLEM_JSON:
                # A browser's OPTIONS request asks for another request, which may be refused.
                asked = {"INVALID_REQUEST"} if response.request.method == "OPTIONS" else set()
                assert response.json()["code"] in _WITHOUT_ROUTE | asked
            return
        template, operation = found
        declared = operation["responses"].get(str(response.status_code))
        what = f"{response.request.method} {template} -> {response.status_code}"
        assert declared is not None, f"{what} is not declared"
        for header in _HEADERS_TO_DECLARE:
            if header in response.headers:
                assert header in declared.get("headers", {}), f"{what}: {header} is not declared"
        content = declared.get("content")
        if content is None:
            assert response.content == b"", f"{what}: no body is declared"
            return
        media_type = response.headers["content-type"].partition(";")[0]
        assert media_type in content, f"{what}: {media_type} is not declared"
        if media_type != "text/plain":
            self._validator(content[media_type]["schema"]["$ref"]).validate(response.json())

    @cache  # noqa: B019  # one object for all tests
    def _validator(self, reference: str) -> Draft202012Validator:
        return Draft202012Validator(
            {"$ref": reference, "components": self.spec["components"]},
            format_checker=Draft202012Validator.FORMAT_CHECKER,
        )
