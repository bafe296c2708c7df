"""HS256 keys are examined once, and as strictly as by PyJWT alone."""

from collections.abc import Iterator

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import HMACAlgorithm

from servicekit import hmac_keys

KEY = "a secret that has 32 bytes or more"


@pytest.fixture(autouse=True)
def examined(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Yields the keys that PyJWT examines from now on."""
    keys: list[object] = []
    examine = HMACAlgorithm.prepare_key

    def counted(self: HMACAlgorithm, key: str | bytes) -> bytes:
        keys.append(key)
        return examine(self, key)

    monkeypatch.setattr(HMACAlgorithm, "prepare_key", counted)
    ordinary = jwt.get_algorithm_by_name("HS256")
    jwt.unregister_algorithm("HS256")
    jwt.register_algorithm("HS256", HMACAlgorithm(HMACAlgorithm.SHA256))
    hmac_keys.examine_once()
    yield keys
    jwt.unregister_algorithm("HS256")
    jwt.register_algorithm("HS256", ordinary)


def test_a_key_is_examined_once(examined: list[object]) -> None:
    hmac_keys.examine_once()  # idempotent
    for number in range(10):
        token = jwt.encode({"place": number}, KEY, algorithm="HS256")
        assert jwt.decode(token, KEY, algorithms=["HS256"]) == {"place": number}
    assert examined == [KEY]


def test_another_key_does_not_verify() -> None:
    token = jwt.encode({}, KEY, algorithm="HS256")
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(token, KEY + "!", algorithms=["HS256"])


def test_a_public_key_is_refused_each_time() -> None:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for _ in range(2):
        with pytest.raises(jwt.InvalidKeyError):
            jwt.encode({}, pem, algorithm="HS256")
