"""Passwords and token keys of one system: made at its first start, readable by their owner only.

`make run` keeps them in a JSON file, `make up` among the variables of deploy/compose.yml.
Standard library only, and Python 3.9.
"""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from harness.errors import UserError
from harness.files import REPOSITORY, replaced
from harness.topology import SCHEMAS

_PASSWORDS = {f"MYSQL_{schema.upper()}_PASSWORD": schema for schema in SCHEMAS}
#: The variables of compose.yml that are secret.
NAMES = (*_PASSWORDS, "REDIS_PASSWORD", "TOKEN_SIGNING_KEY_ID", "TOKEN_KEYS", "ADMIN_TOKEN")


@dataclasses.dataclass(frozen=True)
class Secrets:
    #: Schema (and user) → password.
    mysql: dict[str, str]
    #: Key id → secret, in hex; signs access tokens.
    token_keys: dict[str, str]
    token_signing_key_id: str
    #: Used in containers only.
    redis: str = ""
    #: The credential of operators for QueueAdminService.
    admin_token: str = ""

    @classmethod
    def new(cls) -> Secrets:
        return cls(
            mysql={schema: secrets.token_hex(24) for schema in SCHEMAS},
            token_keys={"k1": secrets.token_hex(32)},
            token_signing_key_id="k1",
            redis=secrets.token_hex(24),
            admin_token=new_admin_token(),
        )

    @classmethod
    def load_or_create(cls, path: Path) -> Secrets:
        """Reads a JSON file, and makes it first if there is none. Raises UserError if damaged."""
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            cls.new()._write(path)
        try:
            found = cls(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path} is damaged ({error}): delete it, and the next start makes new secrets"
                " (access tokens issued before then stop working)."
            ) from error

        if not found.admin_token:  # made by a version that had none
            found = dataclasses.replace(found, admin_token=new_admin_token())
            found._write(path)
        return found

    def _write(self, path: Path) -> None:
        with replaced(path) as file:
            file.write(json.dumps(dataclasses.asdict(self), indent=2).encode())

    def variables(self) -> dict[str, str]:
        """As variables of compose.yml."""
        return {
            **{name: self.mysql[schema] for name, schema in _PASSWORDS.items()},
            "REDIS_PASSWORD": self.redis,
            "TOKEN_SIGNING_KEY_ID": self.token_signing_key_id,
            "TOKEN_KEYS": json.dumps(self.token_keys),
            "ADMIN_TOKEN": self.admin_token,
        }


def new_admin_token() -> str:
    return secrets.token_hex(32)


def require_usable(values: Mapping[str, str], path: Path) -> None:
    """Raises UserError if one of the variables in `path` is missing or unusable."""
    for name in NAMES:
        if not values.get(name):
            raise UserError(f"{path} lacks {name}: write it there.")
    for name in (*_PASSWORDS, "REDIS_PASSWORD"):
        # They become part of a URL and of an SQL statement.
        if not re.fullmatch(r"[A-Za-z0-9_.~-]+", values[name]):
            raise UserError(f"{name} in {path} must be letters and digits.")
    try:
        keys = json.loads(values["TOKEN_KEYS"])
    except ValueError:
        keys = None
    if not isinstance(keys, dict) or values["TOKEN_SIGNING_KEY_ID"] not in keys:
        raise UserError(
            f"TOKEN_KEYS in {path} must be a JSON object that has the key named by"
            " TOKEN_SIGNING_KEY_ID."
        )


if __name__ == "__main__":
    # For `export QUEUE_ADMIN_TOKEN=$(python -m harness.secrets)`.
    print(Secrets.load_or_create(REPOSITORY / ".local" / "secrets.json").admin_token)
