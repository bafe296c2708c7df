"""The audit log: an entry before each change, its outcome after it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from pydantic_core import to_json

from gateway.admin.access import Operator
from gateway.admin.clients import READ_SECONDS, AdminClients
from protos.frontrow.concert.v1 import operators_pb2
from servicekit import call_context, logs
from servicekit.client import call
from servicekit.errors import ServiceError

log = logs.get(__name__)

SUCCEEDED = "SUCCEEDED"
_MAX_SUBJECT = 200
# What the log of concert_service takes.
_MAX_DETAIL_BYTES = 64 * 1024


class Audit:
    """Writes the audit log of concert_service."""

    def __init__(self, clients: AdminClients) -> None:
        self._operators = clients.operators

    @asynccontextmanager
    async def change(
        self, operator: Operator, action: str, subject: str, detail: Mapping[str, object]
    ) -> AsyncIterator[None]:
        """Surrounds a change with its entry. Without the entry there is no change: raises
        RemoteError then. `detail` is what was asked for, without secrets.

        An entry without outcome tells that the gateway was stopped, or that concert_service did not
        answer, before the change ended.
        """
        entry = operators_pb2.AuditEntry(
            key_id=operator.key_id,
            key_name=operator.name,
            action=action,
            subject=subject[:_MAX_SUBJECT],
            detail=detail_of(detail),
            request_id=call_context.request_id.get(),
        )
        added = await call(
            self._operators.AddAuditEntry,
            operators_pb2.AddAuditEntryRequest(entry=entry),
            budget=READ_SECONDS,
        )
        try:
            yield
        except ServiceError as error:
            await self._complete(added.id, error.code)
            raise
        except Exception:
            await self._complete(added.id, ServiceError.code)
            raise
        await self._complete(added.id, SUCCEEDED)

    async def _complete(self, id: int, outcome: str) -> None:
        request = operators_pb2.CompleteAuditEntryRequest(id=id, outcome=outcome)
        try:
            await call(self._operators.CompleteAuditEntry, request, budget=READ_SECONDS)
        except ServiceError as error:
            # The change is made or refused already: its answer must say so.
            log.warning("audit_outcome_not_stored", entry=id, outcome=outcome, error=error.code)


def detail_of(asked: Mapping[str, object]) -> str:
    """Returns the detail of an entry as JSON. Of a list that is too long for an entry, it has the
    beginning, and the number of all."""
    detail = to_json(asked)
    if len(detail) <= _MAX_DETAIL_BYTES:
        return detail.decode()
    shortened: dict[str, object] = {}
    for name, value in asked.items():
        size = len(to_json(value))
        if size <= _MAX_DETAIL_BYTES // (2 * len(asked)):
            shortened[name] = value
        elif isinstance(value, list):
            shortened[name] = _beginning(value, _MAX_DETAIL_BYTES // (2 * len(asked)))
            shortened[f"{name}Count"] = len(value)
        else:
            shortened[f"{name}Bytes"] = size
    return to_json(shortened).decode()


def _beginning(items: list[object], most_bytes: int) -> list[object]:
    beginning: list[object] = []
    for item in items:
        most_bytes -= len(to_json(item)) + 1
        if most_bytes < 0:
            break
        beginning.append(item)
    return beginning
