"""The routes of API keys and of the audit log."""

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic_core import from_json

from gateway.admin import schemas
from gateway.admin.access import Admin, Viewer
from gateway.admin.audit import Audit
from gateway.admin.bodies import JsonRoute
from gateway.admin.clients import READ_SECONDS, AdminClients
from gateway.admin.params import PageSize, PageToken, listing
from gateway.admin.schemas import RoleName, moment
from protos.frontrow.concert.v1 import operators_pb2
from servicekit.client import call

KeyId = Annotated[int, Path(alias="keyId", ge=1, le=2**63 - 1)]


class OperatorRoutes:
    """/admin/keys and /admin/audit."""

    def __init__(self, clients: AdminClients, audit: Audit) -> None:
        self._operators = clients.operators
        self._audit = audit

    def router(self) -> APIRouter:
        """Returns the routes."""
        router = APIRouter(tags=["operators"], route_class=JsonRoute)
        router.get("/admin/keys")(self.list_keys)
        router.post("/admin/keys", status_code=201)(self.create_key)
        router.post("/admin/keys/{keyId}/revoke")(self.revoke_key)
        router.get("/admin/audit")(self.list_audit_entries)
        return router

    async def list_keys(self, _: Admin) -> schemas.Keys:
        """Lists all keys, also those that are revoked."""
        request = operators_pb2.ListKeysRequest()
        response = await call(self._operators.ListKeys, request, budget=READ_SECONDS)
        return schemas.Keys(keys=[_key(key) for key in response.keys])

    async def create_key(self, asked: schemas.NewKey, operator: Admin) -> schemas.CreatedKey:
        """Creates a key. Its secret is in this answer and nowhere else."""
        role = operators_pb2.Role.Value(f"ROLE_{asked.role}")
        detail = asked.model_dump(mode="json")
        async with self._audit.change(operator, "createKey", f"key of {asked.name}", detail):
            request = operators_pb2.CreateKeyRequest(name=asked.name, role=role)
            created = await call(self._operators.CreateKey, request, budget=READ_SECONDS)
        return schemas.CreatedKey(key=_key(created.key), secret=created.secret)

    async def revoke_key(self, key_id: KeyId, operator: Admin) -> schemas.Key:
        """Revokes a key for ever; it is refused within 10 seconds."""
        async with self._audit.change(operator, "revokeKey", f"key {key_id}", {}):
            request = operators_pb2.RevokeKeyRequest(id=key_id)
            revoked = await call(self._operators.RevokeKey, request, budget=READ_SECONDS)
        return _key(revoked.key)

    async def list_audit_entries(
        self, _: Viewer, page_size: PageSize = 100, page_token: PageToken = ""
    ) -> schemas.AuditLog:
        """Lists who has changed what, the newest first."""
        request = operators_pb2.ListAuditEntriesRequest(page_size=page_size, page_token=page_token)
        with listing():
            page = await call(self._operators.ListAuditEntries, request, budget=READ_SECONDS)
        return schemas.AuditLog(
            entries=[_entry(entry) for entry in page.entries],
            next_page_token=page.next_page_token or None,
        )


def _key(key: operators_pb2.Key) -> schemas.Key:
    return schemas.Key(
        id=key.id,
        name=key.name,
        role=RoleName(operators_pb2.Role.Name(key.role).removeprefix("ROLE_")),
        created_at=moment(key.created_at),
        last_used_at=moment(key.last_used_at) if key.HasField("last_used_at") else None,
        revoked_at=moment(key.revoked_at) if key.HasField("revoked_at") else None,
    )


def _entry(entry: operators_pb2.AuditEntry) -> schemas.AuditEntry:
    return schemas.AuditEntry(
        id=entry.id,
        at=moment(entry.at),
        key_id=entry.key_id,
        key_name=entry.key_name,
        action=entry.action,
        subject=entry.subject,
        detail=from_json(entry.detail),
        outcome=entry.outcome or None,
        request_id=entry.request_id,
    )
