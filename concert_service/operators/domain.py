"""Keys and audit entries. No I/O."""

import base64
import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from os import urandom

from concert_service.texts import fault_of_text
from servicekit.errors import InvalidRequest

MAX_NAME = 64
MAX_DETAIL_BYTES = 64 * 1024
MAX_ENTRIES_PER_PAGE = 100

PREFIX = "frk_"
"""The beginning of each secret, so that scanners find one that was published by mistake."""

_SECRET_BYTES = 32
# The text of the entry → its greatest length.
_MAX_TEXTS = {"key_name": MAX_NAME, "action": 64, "subject": 200, "request_id": 64}
MAX_OUTCOME = 64


class Role(StrEnum):
    """What a key allows. Each role may do what the roles before it may."""

    VIEWER = "VIEWER"
    OPERATOR = "OPERATOR"
    ADMIN = "ADMIN"


@dataclass(frozen=True, slots=True)
class Key:
    """A key, without its secret. Times are in UTC."""

    id: int
    name: str
    role: Role
    created_at: datetime
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NewEntry:
    """What is about to be changed. `detail` is JSON without secrets."""

    key_id: int
    key_name: str
    action: str
    subject: str
    detail: str
    request_id: str


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """An entry of the audit log. `outcome` is empty while the change runs."""

    id: int
    at: datetime
    what: NewEntry
    outcome: str


def new_secret() -> str:
    """Returns a new secret, 256 random bits."""
    return PREFIX + base64.urlsafe_b64encode(urandom(_SECRET_BYTES)).decode().rstrip("=")


def secret_hash(secret: str) -> bytes:
    """Returns what is stored of a secret. Without salt and slow rounds: nobody can guess 256 random
    bits."""
    return hashlib.sha256(secret.encode()).digest()


def check_key_name(name: str) -> None:
    """Raises InvalidRequest for a name that is empty, too long or not printable."""
    fault = fault_of_text(name, MAX_NAME) if name.strip() else "must not be empty"
    if fault:
        raise InvalidRequest(f"name: {fault}.", field="name")


def check_entry(entry: NewEntry) -> None:
    """Raises InvalidRequest for a field that is too long."""
    for field, most in _MAX_TEXTS.items():
        if len(getattr(entry, field)) > most:
            raise InvalidRequest(f"{field} has at most {most} characters.", field=field)
    if len(entry.detail.encode()) > MAX_DETAIL_BYTES:
        raise InvalidRequest(f"detail has at most {MAX_DETAIL_BYTES} bytes.", field="detail")


def check_outcome(outcome: str) -> None:
    """Raises InvalidRequest for an outcome that is empty or too long."""
    if not 0 < len(outcome) <= MAX_OUTCOME:
        raise InvalidRequest(f"outcome has 1 to {MAX_OUTCOME} characters.", field="outcome")
