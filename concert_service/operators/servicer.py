"""Converts between the messages of operators and the domain."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from concert_service.operators.domain import AuditEntry, Key, NewEntry, Role
from concert_service.operators.service import OperatorService
from protos.frontrow.concert.v1 import operators_pb2, operators_pb2_grpc
from servicekit.call_interceptor import Context
from servicekit.errors import InvalidRequest

_ROLES = {
    operators_pb2.ROLE_VIEWER: Role.VIEWER,
    operators_pb2.ROLE_OPERATOR: Role.OPERATOR,
    operators_pb2.ROLE_ADMIN: Role.ADMIN,
}
_NUMBERS = {role: number for number, role in _ROLES.items()}


class OperatorServicer(operators_pb2_grpc.OperatorServiceServicer):
    """Implements OperatorService of protos/frontrow/concert/v1/operators.proto."""

    def __init__(self, service: OperatorService) -> None:
        self._service = service

    async def CreateKey(
        self, request: operators_pb2.CreateKeyRequest, context: Context
    ) -> operators_pb2.CreateKeyResponse:
        role = _ROLES.get(request.role)
        if role is None:
            raise InvalidRequest("role: is missing or unknown.", field="role")
        key, secret = await self._service.create_key(request.name, role)
        return operators_pb2.CreateKeyResponse(key=_key(key), secret=secret)

    async def ListKeys(
        self, request: operators_pb2.ListKeysRequest, context: Context
    ) -> operators_pb2.ListKeysResponse:
        return operators_pb2.ListKeysResponse(keys=map(_key, await self._service.list_keys()))

    async def RevokeKey(
        self, request: operators_pb2.RevokeKeyRequest, context: Context
    ) -> operators_pb2.RevokeKeyResponse:
        return operators_pb2.RevokeKeyResponse(key=_key(await self._service.revoke_key(request.id)))

    async def Authenticate(
        self, request: operators_pb2.AuthenticateRequest, context: Context
    ) -> operators_pb2.AuthenticateResponse:
        key = await self._service.authenticate(request.secret)
        return operators_pb2.AuthenticateResponse(key=_key(key))

    async def AddAuditEntry(
        self, request: operators_pb2.AddAuditEntryRequest, context: Context
    ) -> operators_pb2.AddAuditEntryResponse:
        asked = request.entry
        entry = NewEntry(
            key_id=asked.key_id,
            key_name=asked.key_name,
            action=asked.action,
            subject=asked.subject,
            detail=asked.detail,
            request_id=asked.request_id,
        )
        return operators_pb2.AddAuditEntryResponse(id=await self._service.add_entry(entry))

    async def CompleteAuditEntry(
        self, request: operators_pb2.CompleteAuditEntryRequest, context: Context
    ) -> operators_pb2.CompleteAuditEntryResponse:
        await self._service.complete_entry(request.id, request.outcome)
        return operators_pb2.CompleteAuditEntryResponse()

    async def ListAuditEntries(
        self, request: operators_pb2.ListAuditEntriesRequest, context: Context
    ) -> operators_pb2.ListAuditEntriesResponse:
        entries, token = await self._service.list_entries(request.page_size, request.page_token)
        return operators_pb2.ListAuditEntriesResponse(
            entries=map(_entry, entries), next_page_token=token
        )


def _key(key: Key) -> operators_pb2.Key:
    return operators_pb2.Key(
        id=key.id,
        name=key.name,
        role=_NUMBERS[key.role],
        created_at=_timestamp(key.created_at),
        last_used_at=_timestamp(key.last_used_at),
        revoked_at=_timestamp(key.revoked_at),
    )


def _entry(entry: AuditEntry) -> operators_pb2.AuditEntry:
    what = entry.what
    return operators_pb2.AuditEntry(
        id=entry.id,
        at=_timestamp(entry.at),
        key_id=what.key_id,
        key_name=what.key_name,
        action=what.action,
        subject=what.subject,
        detail=what.detail,
        outcome=entry.outcome,
        request_id=what.request_id,
    )


def _timestamp(at: datetime | None) -> Timestamp | None:
    if at is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(at)
    return timestamp
