"""Keys and audit entries in memory."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from concert_service.operators.domain import AuditEntry, Key, NewEntry, Role


class FakeOperatorStore:
    """Implements concert_service.operators.ports.OperatorStore."""

    def __init__(self) -> None:
        self.by_hash: dict[bytes, Key] = {}
        self.entries: list[AuditEntry] = []
        self.uses = 0

    async def add_key(self, name: str, role: Role, secret_hash: bytes) -> Key:
        key = Key(len(self.by_hash) + 1, name, role, datetime.now(UTC))
        self.by_hash[secret_hash] = key
        return key

    async def keys(self) -> Sequence[Key]:
        return list(self.by_hash.values())

    async def revoke_key(self, id: int) -> Key | None:
        for secret_hash, key in self.by_hash.items():
            if key.id == id:
                revoked = replace(key, revoked_at=key.revoked_at or datetime.now(UTC))
                self.by_hash[secret_hash] = revoked
                return revoked
        return None

    async def use_key(self, secret_hash: bytes) -> Key | None:
        self.uses += 1
        key = self.by_hash.get(secret_hash)
        if key is None or key.revoked_at is not None:
            return None
        now = datetime.now(UTC)
        if key.last_used_at is None or key.last_used_at < now - timedelta(minutes=1):
            self.by_hash[secret_hash] = replace(key, last_used_at=now)
        return key

    async def add_entry(self, entry: NewEntry) -> int:
        self.entries.append(AuditEntry(len(self.entries) + 1, datetime.now(UTC), entry, ""))
        return len(self.entries)

    async def complete_entry(self, id: int, outcome: str) -> bool:
        if not 1 <= id <= len(self.entries):
            return False
        entry = self.entries[id - 1]
        self.entries[id - 1] = replace(entry, outcome=entry.outcome or outcome)
        return True

    async def entries_before(self, id: int, limit: int) -> Sequence[AuditEntry]:
        return [e for e in reversed(self.entries) if not id or e.id < id][:limit]
