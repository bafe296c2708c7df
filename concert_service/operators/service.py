"""The use cases of keys and of the audit log."""

from collections.abc import Sequence

from concert_service.domain import from_page_token, page_size, to_page_token
from concert_service.operators.domain import (
    MAX_ENTRIES_PER_PAGE,
    AuditEntry,
    Key,
    NewEntry,
    Role,
    check_entry,
    check_key_name,
    check_outcome,
    new_secret,
    secret_hash,
)
from concert_service.operators.errors import AuditEntryNotFound, InvalidKey, KeyNotFound
from concert_service.operators.ports import OperatorStore


class OperatorService:
    """Keeps keys and audit entries in the store."""

    def __init__(self, store: OperatorStore) -> None:
        self._store = store

    async def create_key(self, name: str, role: Role) -> tuple[Key, str]:
        """Creates a key; returns it and its secret, which is stored nowhere. Raises
        InvalidRequest."""
        check_key_name(name)
        secret = new_secret()
        return await self._store.add_key(name, role, secret_hash(secret)), secret

    async def list_keys(self) -> Sequence[Key]:
        """Lists all keys by id, also those that are revoked."""
        return await self._store.keys()

    async def revoke_key(self, id: int) -> Key:
        """Revokes a key, for ever. Raises KeyNotFound."""
        key = await self._store.revoke_key(id)
        if key is None:
            raise KeyNotFound
        return key

    async def authenticate(self, secret: str) -> Key:
        """Returns the key with this secret and notes its use. Raises InvalidKey."""
        key = await self._store.use_key(secret_hash(secret))
        if key is None:
            raise InvalidKey
        return key

    async def add_entry(self, entry: NewEntry) -> int:
        """Adds an entry to the audit log; returns its id. Raises InvalidRequest."""
        check_entry(entry)
        return await self._store.add_entry(entry)

    async def complete_entry(self, id: int, outcome: str) -> None:
        """Notes how the change of an entry ended; the first outcome stays. Raises InvalidRequest
        and AuditEntryNotFound."""
        check_outcome(outcome)
        if not await self._store.complete_entry(id, outcome):
            raise AuditEntryNotFound

    async def list_entries(self, size: int, page_token: str) -> tuple[Sequence[AuditEntry], str]:
        """Lists a page of entries, the newest first. Returns them and the token of the next page,
        empty after the last. Raises InvalidRequest."""
        limit = page_size(size, MAX_ENTRIES_PER_PAGE)
        entries = await self._store.entries_before(from_page_token(page_token), limit + 1)
        if len(entries) <= limit:
            return entries, ""
        return entries[:limit], to_page_token(entries[limit - 1].id)
