"""The SQL of keys and of the audit log."""

from collections.abc import Sequence
from datetime import UTC, datetime

from concert_service.operators.domain import AuditEntry, Key, NewEntry, Role
from servicekit.mysql import Database, Row

_KEY = "SELECT id, name, role, created_at, last_used_at, revoked_at FROM api_key"

ADD_KEY = """
INSERT INTO api_key (name, role, secret_sha256, created_at) VALUES (%s, %s, %s, UTC_TIMESTAMP(3))
"""

KEY = f"{_KEY} WHERE id = %s"

KEYS = f"{_KEY} ORDER BY id"

REVOKE = "UPDATE api_key SET revoked_at = UTC_TIMESTAMP(3) WHERE id = %s AND revoked_at IS NULL"

# Once a minute: each use would be a write.
_IS_OLD = "(last_used_at IS NULL OR last_used_at < UTC_TIMESTAMP(3) - INTERVAL 1 MINUTE)"

VALID_KEY = f"""
SELECT id, name, role, created_at, last_used_at, revoked_at, {_IS_OLD} AS use_is_old
FROM api_key WHERE secret_sha256 = %s AND revoked_at IS NULL
"""

NOTE_USE = f"UPDATE api_key SET last_used_at = UTC_TIMESTAMP(3) WHERE id = %s AND {_IS_OLD}"

ADD_ENTRY = """
INSERT INTO audit_entry (at, key_id, key_name, action, subject, detail, request_id)
VALUES (UTC_TIMESTAMP(3), %s, %s, %s, %s, %s, %s)
"""

COMPLETE_ENTRY = "UPDATE audit_entry SET outcome = IF(outcome = '', %s, outcome) WHERE id = %s"

ENTRIES = """
SELECT id, at, key_id, key_name, action, subject, detail, outcome, request_id
FROM audit_entry WHERE (%s = 0 OR id < %s) ORDER BY id DESC LIMIT %s
"""


class OperatorRepository:
    """Implements `ports.OperatorStore` in MariaDB."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_key(self, name: str, role: Role, secret_hash: bytes) -> Key:
        async with self._database.transaction() as transaction:
            id = await transaction.insert(ADD_KEY, name, role.value, secret_hash)
            row = await transaction.fetch_one(KEY, id)
        assert row is not None
        return _key(row)

    async def keys(self) -> Sequence[Key]:
        async with self._database.connection() as connection:
            return [_key(row) for row in await connection.fetch_all(KEYS)]

    async def revoke_key(self, id: int) -> Key | None:
        async with self._database.connection() as connection:
            await connection.execute(REVOKE, id)
            row = await connection.fetch_one(KEY, id)
        return None if row is None else _key(row)

    async def use_key(self, secret_hash: bytes) -> Key | None:
        async with self._database.connection() as connection:
            row = await connection.fetch_one(VALID_KEY, secret_hash)
            if row is None:
                return None
            if row.use_is_old:
                await connection.execute(NOTE_USE, row.id)
        return _key(row)

    async def add_entry(self, entry: NewEntry) -> int:
        async with self._database.connection() as connection:
            return await connection.insert(
                ADD_ENTRY,
                *(entry.key_id, entry.key_name, entry.action, entry.subject, entry.detail),
                entry.request_id,
            )

    async def complete_entry(self, id: int, outcome: str) -> bool:
        async with self._database.connection() as connection:
            return await connection.execute(COMPLETE_ENTRY, outcome, id) > 0

    async def entries_before(self, id: int, limit: int) -> Sequence[AuditEntry]:
        async with self._database.connection() as connection:
            rows = await connection.fetch_all(ENTRIES, id, id, limit)
        return [_entry(row) for row in rows]


def _key(row: Row) -> Key:
    return Key(
        id=row.id,
        name=row.name,
        role=Role(row.role),
        created_at=row.created_at.replace(tzinfo=UTC),
        last_used_at=_in_utc(row.last_used_at),
        revoked_at=_in_utc(row.revoked_at),
    )


def _entry(row: Row) -> AuditEntry:
    what = NewEntry(row.key_id, row.key_name, row.action, row.subject, row.detail, row.request_id)
    return AuditEntry(row.id, row.at.replace(tzinfo=UTC), what, row.outcome)


def _in_utc(at: datetime | None) -> datetime | None:
    return None if at is None else at.replace(tzinfo=UTC)
