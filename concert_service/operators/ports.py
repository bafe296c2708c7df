"""What keys and the audit log need from their store."""

from collections.abc import Sequence
from typing import Protocol

from concert_service.operators.domain import AuditEntry, Key, NewEntry, Role


class OperatorStore(Protocol):
    """The store of keys and audit entries."""

    async def add_key(self, name: str, role: Role, secret_hash: bytes) -> Key:
        """Adds a key."""

    async def keys(self) -> Sequence[Key]:
        """Lists all keys by id."""

    async def revoke_key(self, id: int) -> Key | None:
        """Revokes a key unless it is revoked; None if there is no such key."""

    async def use_key(self, secret_hash: bytes) -> Key | None:
        """Returns the key that has this hash and is not revoked, and notes its use unless one was
        noted within the last minute."""

    async def add_entry(self, entry: NewEntry) -> int:
        """Adds an entry without outcome; returns its id."""

    async def complete_entry(self, id: int, outcome: str) -> bool:
        """Sets the outcome of an entry that has none; returns whether the entry exists."""

    async def entries_before(self, id: int, limit: int) -> Sequence[AuditEntry]:
        """Lists the newest `limit` entries with a smaller id, the newest first. 0: of all."""
