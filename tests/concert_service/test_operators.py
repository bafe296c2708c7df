"""Keys and the audit log, on the fake store and on MariaDB, and the command for keys."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from concert_service.operators.domain import NewEntry, Role, secret_hash
from concert_service.operators.errors import AuditEntryNotFound, InvalidKey, KeyNotFound
from concert_service.operators.ports import OperatorStore
from concert_service.operators.repository import OperatorRepository
from concert_service.operators.service import OperatorService
from servicekit.errors import InvalidRequest
from servicekit.mysql import Database
from tests.fakes.operators import FakeOperatorStore

ENTRY = NewEntry(7, "Ada", "putRoom", "room main", '{"capacity": 5}', "request-1")


class RealStore(OperatorRepository):
    """The repository, in empty tables."""

    async def clear(self) -> None:
        async with self._database.transaction() as t:
            await t.execute("DELETE FROM audit_entry")
            await t.execute("DELETE FROM api_key")

    async def age_last_uses(self) -> None:
        async with self._database.connection() as connection:
            await connection.execute(
                "UPDATE api_key SET last_used_at = last_used_at - INTERVAL 2 MINUTE"
            )


@pytest.fixture(params=["fake", "real"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[OperatorStore]:
    if request.param == "fake":
        yield FakeOperatorStore()
        return
    async with Database(request.getfixturevalue("mysql_urls")["concert"]) as database:
        real = RealStore(database)
        await real.clear()
        yield real
        await real.clear()


@pytest.fixture
def service(store: OperatorStore) -> OperatorService:
    return OperatorService(store)


async def test_a_key_works_until_it_is_revoked(service: OperatorService) -> None:
    key, secret = await service.create_key("Ada", Role.OPERATOR)
    other, _ = await service.create_key("Ada", Role.VIEWER)
    assert secret.startswith("frk_")
    assert len(secret) == 4 + 43
    assert (key.name, key.role, key.last_used_at) == ("Ada", Role.OPERATOR, None)
    assert (await service.authenticate(secret)).id == key.id
    for wrong in ("", secret[:-1], secret + "=", secret.upper(), "frk_", "\x00", "ü"):
        with pytest.raises(InvalidKey):
            await service.authenticate(wrong)
    revoked = await service.revoke_key(key.id)
    assert revoked.revoked_at is not None
    with pytest.raises(InvalidKey):
        await service.authenticate(secret)
    assert await service.revoke_key(key.id) == revoked
    assert [k.id for k in await service.list_keys()] == [key.id, other.id]
    with pytest.raises(KeyNotFound):
        await service.revoke_key(other.id + 1)


async def test_only_a_hash_is_stored() -> None:
    store = FakeOperatorStore()
    _, secret = await OperatorService(store).create_key("Ada", Role.ADMIN)
    assert list(store.by_hash) == [secret_hash(secret)]
    assert len(secret_hash(secret)) == 32
    assert secret not in repr(store.by_hash)


@pytest.mark.parametrize("name", ["", "  ", "x" * 65, "two\nlines", "\x1b[31m"])
async def test_bad_names_of_keys(name: str) -> None:
    with pytest.raises(InvalidRequest):
        await OperatorService(FakeOperatorStore()).create_key(name, Role.VIEWER)


async def test_the_last_use_is_noted_once_a_minute(
    service: OperatorService, store: OperatorStore
) -> None:
    _, secret = await service.create_key("Ada", Role.VIEWER)
    await service.authenticate(secret)
    first = (await service.list_keys())[0].last_used_at
    assert first is not None
    await service.authenticate(secret)
    assert (await service.list_keys())[0].last_used_at == first
    if isinstance(store, RealStore):
        await store.age_last_uses()
        await service.authenticate(secret)
        last = (await service.list_keys())[0].last_used_at
        assert last is not None
        assert last >= first


async def test_an_entry_precedes_its_outcome(service: OperatorService) -> None:
    id = await service.add_entry(ENTRY)
    entries, token = await service.list_entries(0, "")
    assert [(e.id, e.what, e.outcome, token) for e in entries] == [(id, ENTRY, "", "")]
    await service.complete_entry(id, "SUCCEEDED")
    await service.complete_entry(id, "UNAVAILABLE")  # late; the first stays
    assert (await service.list_entries(0, ""))[0][0].outcome == "SUCCEEDED"
    with pytest.raises(AuditEntryNotFound):
        await service.complete_entry(id + 1, "SUCCEEDED")


async def test_pages_of_entries_are_newest_first(service: OperatorService) -> None:
    ids = [await service.add_entry(ENTRY) for _ in range(5)]
    seen: list[int] = []
    token = ""
    for size in (2, 2, 2):
        entries, token = await service.list_entries(size, token)
        seen += [entry.id for entry in entries]
    assert (seen, token) == (ids[::-1], "")
    with pytest.raises(InvalidRequest):
        await service.list_entries(-1, "")
    with pytest.raises(InvalidRequest):
        await service.list_entries(0, "x")


@pytest.mark.parametrize(
    "entry",
    [
        replace(ENTRY, key_name="x" * 65),
        replace(ENTRY, action="x" * 65),
        replace(ENTRY, subject="x" * 201),
        replace(ENTRY, request_id="x" * 65),
        replace(ENTRY, detail="ü" * (32 * 1024 + 1)),
    ],
)
async def test_entries_that_are_too_long(entry: NewEntry) -> None:
    store = FakeOperatorStore()
    with pytest.raises(InvalidRequest):
        await OperatorService(store).add_entry(entry)
    assert store.entries == []


async def test_the_longest_entry_fits(service: OperatorService) -> None:
    longest = NewEntry(2**63 - 1, "🎟" * 64, "x" * 64, "🎟" * 200, "ü" * 32 * 1024, "r" * 64)
    await service.complete_entry(await service.add_entry(longest), "X" * 64)
    entries, _ = await service.list_entries(1, "")
    assert entries[0].what == longest


def test_the_command(mysql_urls: dict[str, str]) -> None:
    def keys(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "concert_service.keys", *arguments],
            env={**os.environ, "CONCERT_MYSQL_URL": mysql_urls["concert"], "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=30,
        )

    created = keys("create", "--name", "Box office", "--role", "admin")
    assert created.returncode == 0, created.stderr
    secret = created.stdout.strip()
    assert secret.startswith("frk_")
    id = created.stderr.split()[1]
    listed = keys("list")
    assert "Box office" in listed.stdout
    assert secret not in listed.stdout
    assert "is revoked" in keys("revoke", id).stdout
    unknown = keys("revoke", "999999999")
    assert (unknown.returncode, unknown.stderr) == (
        2,
        "concert_service.keys: There is no such key.\n",
    )
