"""The secrets of one stack: made at its first start, kept in a file only its owner can read."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
from pathlib import Path

from harness.errors import UserError

DATABASES = ("concert", "reservation", "payment")


@dataclasses.dataclass(frozen=True)
class Credentials:
    #: Schema (and user) → password.
    mysql: dict[str, str]
    #: Key id → secret, in hex; what access tokens are signed with.
    token_keys: dict[str, str]
    token_signing_key_id: str

    @classmethod
    def new(cls) -> Credentials:
        return cls(
            mysql={name: secrets.token_urlsafe(24) for name in DATABASES},
            token_keys={"k1": secrets.token_hex(32)},
            token_signing_key_id="k1",
        )

    @classmethod
    def load(cls, path: Path) -> Credentials:
        """Reads the file, or makes new secrets and writes them if there is none (mode 600)."""
        try:
            return cls(**json.loads(path.read_text()))
        except FileNotFoundError:
            pass
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path} is damaged ({error}): delete it, and new secrets are made at the next"
                " start (access tokens given out before then stop working)."
            ) from error
        made = cls.new()
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        unfinished.unlink(missing_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(dataclasses.asdict(made), file, indent=2)
        unfinished.rename(path)
        return made
