"""Keys of the operator's login system, read from a file and again when it changes."""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import HMACAlgorithm

from servicekit import logs

log = logs.get(__name__)

Algorithm = Literal["HS256", "RS256", "ES256", "EdDSA"]
PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

# The length of a signature of HS256; a shorter secret can be guessed (RFC 7518, 3.2).
_MIN_SECRET_BYTES = 32
_MIN_RSA_BITS = 2_048
_MAX_FILE_BYTES = 1_000_000
_HS256 = HMACAlgorithm(HMACAlgorithm.SHA256)
_CHECK_SECONDS = 1.0


class BadKeys(ValueError):
    """The file has no usable key. The message repeats nothing of the file."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key with the one algorithm that it may verify, so that no token can choose another one.

    `key_id` is None if the file names none: the key then serves tokens with any key id.
    """

    algorithm: Algorithm
    key_id: str | None
    secret_or_public: bytes | PublicKey = field(repr=False)


def read_secret(content: bytes) -> list[Key]:
    """Returns the HS256 key of a file whose bytes, without the line break at the end, are the
    secret. Raises BadKeys."""
    secret = content.rstrip(b"\r\n")
    if b"-----BEGIN" in content or content.lstrip().startswith(b"{"):
        raise BadKeys("holds a PEM or a JWKS, not a secret")
    # The last bytes of a key in DER can be those of a line break.
    for end in range(len(secret) + 1, len(content) + 1):
        _usable(content[:end])
    return [Key("HS256", None, _usable(secret))]


def read_pem(content: bytes, algorithm: Algorithm) -> list[Key]:
    """Returns the public key of a PEM file. Raises BadKeys unless it is one of this algorithm."""
    try:
        key = load_pem_public_key(content)
    except Exception:  # cryptography promises no certain classes for a damaged key
        raise BadKeys("holds no public key in PEM (-----BEGIN PUBLIC KEY-----)") from None
    found = _public(key)
    if found.algorithm != algorithm:
        raise BadKeys(f"holds a key of {found.algorithm}, not of {algorithm}")
    return [found]


def read_jwks(content: bytes) -> list[Key]:
    """Returns the keys of a JWKS that can verify tokens; others are ignored, as RFC 7517 (5) asks
    for. Raises BadKeys if there is none."""
    try:
        entries = jwt.PyJWKSet.from_json(content.decode()).keys
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise BadKeys("holds no valid JSON") from None
    except Exception:  # PyJWT promises no certain classes for a damaged file
        raise BadKeys("holds no JWKS with a usable key") from None
    keys: list[Key] = []
    ignored: list[str] = []
    for entry in entries:
        try:
            keys.append(_of_jwk(entry))
        except BadKeys as error:
            ignored.append(str(error))
    if not keys:
        raise BadKeys(f"holds no JWKS with a usable key: it {', '.join(dict.fromkeys(ignored))}")
    return keys


def _of_jwk(entry: jwt.PyJWK) -> Key:
    """Raises BadKeys for a key that cannot verify tokens."""
    if entry.public_key_use not in (None, "sig"):
        raise BadKeys("holds a key that is not for signatures")
    if isinstance(entry.key, bytes):
        key = Key("HS256", entry.key_id, _usable(entry.key))
    else:
        key = _public(entry.key, entry.key_id)
    if key.algorithm != entry.algorithm_name:
        raise BadKeys(f"holds a key for {entry.algorithm_name}")
    return key


def _public(key: object, key_id: str | None = None) -> Key:
    """The type of a key decides its algorithm."""
    if isinstance(key, RSAPublicKey):
        if key.key_size < _MIN_RSA_BITS:
            raise BadKeys(f"holds an RSA key shorter than {_MIN_RSA_BITS} bits")
        return Key("RS256", key_id, key)
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return Key("ES256", key_id, key)
    if isinstance(key, Ed25519PublicKey):
        return Key("EdDSA", key_id, key)
    raise BadKeys("holds a key that is not a public one for RS256, ES256 or EdDSA (Ed25519)")


def _usable(secret: bytes) -> bytes:
    """Returns the secret. Raises BadKeys if it is too short, or a public key or a certificate in
    any format: as a secret, it would let everybody sign."""
    if len(secret) < _MIN_SECRET_BYTES:
        raise BadKeys(f"holds a secret shorter than {_MIN_SECRET_BYTES} bytes")
    try:
        return _HS256.prepare_key(secret)
    except jwt.PyJWTError:
        raise BadKeys("holds a public key or a certificate, not a secret") from None


class KeyFile:
    """The keys of a file. A change is noticed at the next use, at most once a second. A file that
    became unreadable or has no usable key is logged once, and the last good keys stay in use."""

    def __init__(self, path: Path, parse: Callable[[bytes], list[Key]]) -> None:
        """Raises BadKeys if the file cannot be read or has no usable key."""
        self._path = path
        self._parse = parse
        self._version = self._version_now()
        self._keys = self._read()
        self._check_at = time.monotonic() + _CHECK_SECONDS

    def current(self) -> Sequence[Key]:
        """Returns the keys; checks at most once per second whether the file changed."""
        now = time.monotonic()
        if now >= self._check_at:
            self._check_at = now + _CHECK_SECONDS
            self._reload_if_changed()
        return self._keys

    def _reload_if_changed(self) -> None:
        version = self._version_now()
        if version == self._version:
            return
        # Taken before the file is read: a change in between is then noticed by the next check.
        self._version = version
        try:
            self._keys = self._read()
        except BadKeys as error:
            log.error("identity_keys_not_loaded", file=str(self._path), problem=str(error))
        else:
            log.info("identity_keys_loaded", file=str(self._path), keys=len(self._keys))

    def _version_now(self) -> tuple[int, int, int] | None:
        """What changes whenever the file is written or replaced; None while there is none."""
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> list[Key]:
        if not self._path.is_file():  # a pipe or a folder would block or fail
            raise BadKeys("is missing or not a regular file")
        try:
            with self._path.open("rb") as file:
                content = file.read(_MAX_FILE_BYTES + 1)
        except OSError as error:
            raise BadKeys(f"cannot be read ({error.strerror})") from None
        if len(content) > _MAX_FILE_BYTES:
            raise BadKeys(f"is larger than {_MAX_FILE_BYTES} bytes")
        return self._parse(content)
