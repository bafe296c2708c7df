"""The admin API as an operator of the running system uses it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from concert_service.operators.domain import Role
from concert_service.operators.repository import OperatorRepository
from concert_service.operators.service import OperatorService
from harness.local.stack import Stack
from servicekit.mysql import Database


class Admin:
    """The admin API, with a key."""

    def __init__(self, http: httpx.AsyncClient, key_id: int) -> None:
        self._http = http
        self.key_id = key_id

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        """Sends a request, which must succeed; returns the body."""
        reply = await self._http.request(method, path, json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def refused(self, code: str, method: str, path: str, body: object = None) -> Any:
        """Sends a request, which must be refused with this code; returns the body."""
        reply = await self._http.request(method, path, json=body)
        problem = reply.json()
        assert (problem.get("code"), problem.get("status")) == (code, reply.status_code), reply.text
        return problem


@asynccontextmanager
async def operator(stack: Stack, role: Role) -> AsyncIterator[Admin]:
    """Opens the admin API with a new key of this role, which is revoked afterwards."""
    async with Database(stack.mysql_url("concert")) as database:
        operators = OperatorService(OperatorRepository(database))
        key, secret = await operators.create_key("e2e", role)
        address = stack.environment("gateway")["GATEWAY_ADMIN_LISTEN"]
        headers = {"Authorization": f"Bearer {secret}"}
        async with httpx.AsyncClient(base_url=f"http://{address}", headers=headers) as http:
            yield Admin(http, key.id)
        await operators.revoke_key(key.id)
