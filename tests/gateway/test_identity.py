"""GATEWAY_IDENTITY=jwt: only proof of the operator's login system enters the queue."""

import base64
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from jwt.types import JWKDict
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import ValidationError
from structlog.testing import CapturingLogger

from gateway import identity, identity_keys
from gateway.identity_keys import BadKeys, read_jwks, read_pem, read_secret
from gateway.settings import Settings
from tests.gateway.conftest import OpenGateway
from tests.gateway.fakes import KEYS, Services
from tests.gateway.problems import assert_problem

SECRET = "a secret of the login system, 32 bytes or more"
PRIVATE: dict[str, Any] = {
    "HS256": SECRET,
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
ALGORITHMS = list(PRIVATE)
CLAIMS: dict[str, Any] = {
    "iss": "https://login.example",
    "aud": "frontrow",
    "sub": "42",
    "exp": int(time.time()) + 3_600,
}


def pem(private: Any) -> bytes:
    public: bytes = private.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    return public


def key_file(algorithm: str) -> bytes:
    """What the operator puts into GATEWAY_IDENTITY_KEY_FILE."""
    return SECRET.encode() + b"\n" if algorithm == "HS256" else pem(PRIVATE[algorithm])


def jwk(algorithm: str, **changes: Any) -> JWKDict:
    """The public key as an entry of a JWKS; None removes a field."""
    if algorithm == "HS256":
        secret = base64.urlsafe_b64encode(SECRET.encode()).rstrip(b"=").decode()
        entry: JWKDict = {"kty": "oct", "k": secret}
    else:
        key = PRIVATE[algorithm].public_key()
        entry = jwt.get_algorithm_by_name(algorithm).to_jwk(key, as_dict=True)
        entry.pop("key_ops", None)
    fields = entry | {"kid": f"login-{algorithm}", "alg": algorithm} | changes
    return {name: value for name, value in fields.items() if value is not None}


def jwks(*entries: JWKDict) -> bytes:
    return json.dumps({"keys": entries}).encode()


def proof(
    algorithm: str = "ES256",
    key: Any = None,
    headers: dict[str, Any] | None = None,
    **changes: Any,
) -> str:
    """A token of the login system. `changes` replace claims; None removes one."""
    claims = {name: value for name, value in (CLAIMS | changes).items() if value is not None}
    return jwt.encode(
        claims, PRIVATE[algorithm] if key is None else key, algorithm=algorithm, headers=headers
    )


def part(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def raw(header: dict[str, Any], key: bytes = b"") -> str:
    """A token that PyJWT would not write; its signature is an HMAC with `key`."""
    signed = f"{part(json.dumps(header).encode())}.{part(json.dumps(CLAIMS).encode())}"
    algorithm = jwt.get_algorithm_by_name("HS256")
    return f"{signed}.{part(algorithm.sign(signed.encode(), key)) if key else ''}"


def write(file: Path, content: bytes | None) -> None:
    """Replaces the content of a file; None deletes it."""
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def jwt_mode(**changes: Any) -> dict[str, Any]:
    return {
        "identity": "jwt",
        "identity_issuer": CLAIMS["iss"],
        "identity_audience": CLAIMS["aud"],
    } | changes


@pytest.fixture
def es256(tmp_path: Path) -> dict[str, Any]:
    """Settings with one key for ES256."""
    file = tmp_path / "login.pem"
    file.write_bytes(key_file("ES256"))
    return jwt_mode(identity_key_file=file, identity_algorithm="ES256")


@pytest.fixture
def all_keys(tmp_path: Path) -> dict[str, Any]:
    """Settings with a JWKS of one key for each algorithm."""
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(*map(jwk, ALGORITHMS)))
    return jwt_mode(identity_jwks_file=file)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_key_file_of_each_algorithm(
    open_gateway: OpenGateway, services: Services, tmp_path: Path, algorithm: str
) -> None:
    file = tmp_path / "key"
    file.write_bytes(key_file(algorithm))
    gateway = await open_gateway(**jwt_mode(identity_key_file=file, identity_algorithm=algorithm))
    entered = await gateway.post("/queues/enqueue", json={}, headers=bearer(proof(algorithm)))
    assert entered.status_code == 201
    assert services.faults.of("EnterQueue")[0].request.user_ids == [42]
    for other in set(ALGORITHMS) - {algorithm}:
        refused = await gateway.post("/queues/enqueue", json={}, headers=bearer(proof(other)))
        assert_problem(refused, 401, "IDENTITY_REQUIRED")


async def test_a_jwks_of_every_algorithm(
    open_gateway: OpenGateway, all_keys: dict[str, Any]
) -> None:
    gateway = await open_gateway(**all_keys)
    for algorithm in ALGORITHMS:
        for headers in (None, {"kid": f"login-{algorithm}"}):
            token = proof(algorithm, headers=headers)
            entered = await gateway.post("/queues/enqueue", json={}, headers=bearer(token))
            assert entered.status_code == 201
        unknown = proof(algorithm, headers={"kid": "another"})
        refused = await gateway.post("/queues/enqueue", json={}, headers=bearer(unknown))
        assert_problem(refused, 401, "IDENTITY_REQUIRED")


async def test_the_proof_alone_hands_a_place_out_again(
    open_gateway: OpenGateway, es256: dict[str, Any]
) -> None:
    gateway = await open_gateway(**es256, reentry_without_token=False)
    first, again = [
        await gateway.post("/queues/enqueue", json={}, headers=bearer(proof())) for _ in range(2)
    ]
    assert first.headers["X-Access-Token"] == again.headers["X-Access-Token"]


@pytest.mark.parametrize("subject", [42, "42", 2**63 - 1, str(2**63 - 1)])
async def test_the_body_may_name_the_user_only(
    open_gateway: OpenGateway, services: Services, es256: dict[str, Any], subject: int | str
) -> None:
    gateway = await open_gateway(**es256)
    headers = bearer(proof(sub=subject))
    for body in ({}, {"userId": None}, {"userId": int(subject)}):
        entered = await gateway.post("/queues/enqueue", json=body, headers=headers)
        assert entered.status_code == 201
    calls = len(services.faults.calls)
    other = await gateway.post("/queues/enqueue", json={"userId": 43}, headers=headers)
    assert_problem(other, 403, "NOT_YOURS")
    text = await gateway.post("/queues/enqueue", json={"userId": "42"}, headers=headers)
    assert_problem(text, 422, "INVALID_REQUEST")
    assert len(services.faults.calls) == calls


async def test_the_claim_is_a_setting(
    open_gateway: OpenGateway, services: Services, es256: dict[str, Any]
) -> None:
    gateway = await open_gateway(**es256, identity_claim="https://shop.example/id")
    claims: dict[str, Any] = {"https://shop.example/id": 7}
    token = proof(sub="an opaque name", **claims)
    entered = await gateway.post("/queues/enqueue", json={}, headers=bearer(token))
    assert entered.status_code == 201
    assert services.faults.of("EnterQueue")[0].request.user_ids == [7]


REFUSED: dict[str, list[tuple[str, str]]] = {
    "nothing": [],
    "no scheme": [("Authorization", proof())],
    "another scheme": [("Authorization", f"Basic {proof()}")],
    "no token": [("Authorization", "Bearer ")],
    "two headers": [("Authorization", f"Bearer {proof()}")] * 2,
    **{
        what: [("Authorization", f"Bearer {token}")]
        for what, token in {
            "a word": "token",
            "dots": "..",
            "very long": "x" * 15_000,
            "nested header": f"{part(b'[' * 5_000)}.{part(b'{}')}.{part(b'x')}",
            "a cut signature": proof()[:-5],
            "another key": proof(key=ec.generate_private_key(ec.SECP256R1())),
            # Algorithm confusion: only the key's own algorithm counts.
            "none": raw({"alg": "none"}),
            "None, with the key's id": raw({"alg": "None", "kid": "login-ES256"}),
            **{
                f"the public key of {algorithm} as a secret": raw(
                    {"alg": "HS256", "kid": f"login-{algorithm}"}, pem(PRIVATE[algorithm])
                )
                for algorithm in ("RS256", "ES256", "EdDSA")
            },
            "the JWK as a secret": raw({"alg": "HS256"}, json.dumps(jwk("ES256")).encode()),
            "the key of another algorithm": proof("HS256", headers={"kid": "login-RS256"}),
            "an unknown critical header": proof(headers={"crit": ["x"], "x": 1}),
            "a longer hash": jwt.encode(CLAIMS, SECRET * 2, algorithm="HS512"),
            "RS512": jwt.encode(CLAIMS, PRIVATE["RS256"], algorithm="RS512"),
            "PS256": jwt.encode(CLAIMS, PRIVATE["RS256"], algorithm="PS256"),
            # Claims.
            "expired": proof(exp=int(time.time()) - 120),
            "no exp": proof(exp=None),
            "an endless exp": proof(exp=10**400),
            "an infinite exp": proof(exp=math.inf),
            "a text as exp": proof(exp=str(CLAIMS["exp"])),
            "true as exp": proof(exp=True),
            "not yet valid": proof(nbf=int(time.time()) + 600),
            "issued in the future": proof(iat=int(time.time()) + 600),
            "an infinite iat": proof(iat=math.inf),
            "another issuer": proof(iss="https://evil.example"),
            "no issuer": proof(iss=None),
            "another audience": proof(aud="another shop"),
            "no audience": proof(aud=None),
            "no subject": proof(sub=None),
            **{
                f"subject {subject!r}"[:40]: proof(sub=subject)
                for subject in (
                    "", "abc", "0", 0, -1, "-1", "+1", " 42", "42 ", "42\n", "042", "4_2", "4.0",
                    42.0, True, [42], {"id": 42}, "0x2a", "٤٢", 2**63, str(2**63), 10**400,
                    "9" * 20, math.inf,
                )
            },
        }.items()
    },
}  # fmt: skip


async def test_without_valid_proof_nobody_enters(
    open_gateway: OpenGateway, services: Services, all_keys: dict[str, Any]
) -> None:
    gateway = await open_gateway(**all_keys)
    for what, headers in REFUSED.items():
        response = await gateway.post("/queues/enqueue", json={"userId": 42}, headers=headers)
        assert response.status_code == 401, what
        body = assert_problem(response, 401, "IDENTITY_REQUIRED")
        assert response.headers["WWW-Authenticate"] == "Bearer"
        for _, value in headers:
            assert value.removeprefix("Bearer ") not in body["detail"] or len(value) < 20
    assert services.faults.calls == []


async def test_the_operator_can_log_which_check_failed(
    open_gateway: OpenGateway, es256: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = CapturingLogger()
    gateway = await open_gateway(**es256)
    monkeypatch.setattr(identity, "log", log)
    tokens = {
        "malformed": "a.b.c",
        "key": proof("EdDSA"),
        "signature": proof(key=ec.generate_private_key(ec.SECP256R1())),
        "issuer": proof(iss="https://evil.example"),
        "audience": proof(aud="another shop"),
        "expired": proof(exp=int(time.time()) - 60),
        "claim": proof(sub="abc"),
    }
    for token in tokens.values():
        refused = await gateway.post("/queues/enqueue", json={}, headers=bearer(token))
        assert_problem(refused, 401, "IDENTITY_REQUIRED")
    assert [(call.method_name, call.args, call.kwargs) for call in log.calls] == [
        ("debug", ("login_refused",), {"reason": reason}) for reason in tokens
    ]


async def test_clocks_may_differ_a_little(open_gateway: OpenGateway, es256: dict[str, Any]) -> None:
    gateway = await open_gateway(**es256)
    now = int(time.time())
    for token in (proof(exp=now - 10), proof(nbf=now + 10), proof(iat=now + 10)):
        entered = await gateway.post("/queues/enqueue", json={}, headers=bearer(token))
        assert entered.status_code == 201


class TestRotation:
    @pytest.fixture
    def log(self, monkeypatch: pytest.MonkeyPatch) -> CapturingLogger:
        log = CapturingLogger()
        monkeypatch.setattr(identity_keys, "log", log)
        monkeypatch.setattr(identity_keys, "_CHECK_SECONDS", 0.0)
        return log

    async def test_a_changed_file_is_read_again(
        self, open_gateway: OpenGateway, all_keys: dict[str, Any], log: CapturingLogger
    ) -> None:
        file: Path = all_keys["identity_jwks_file"]
        gateway = await open_gateway(**all_keys)

        async def status(algorithm: str) -> int:
            token = bearer(proof(algorithm))
            return (await gateway.post("/queues/enqueue", json={}, headers=token)).status_code

        write(file, jwks(jwk("RS256")))
        assert (await status("RS256"), await status("EdDSA")) == (201, 401)
        # As a secret of Kubernetes is replaced: another file takes the name.
        other = file.with_name("new")
        write(other, jwks(jwk("EdDSA")))
        os.replace(other, file)
        assert (await status("RS256"), await status("EdDSA")) == (401, 201)
        loaded = [(call.method_name, call.args, call.kwargs["keys"]) for call in log.calls]
        assert loaded == [("info", ("identity_keys_loaded",), 1)] * 2

    @pytest.mark.parametrize("content", [b"", b"{", jwks(), jwks(jwk("RS256", n=None)), None])
    async def test_a_broken_file_keeps_the_old_keys(
        self,
        open_gateway: OpenGateway,
        all_keys: dict[str, Any],
        log: CapturingLogger,
        content: bytes | None,
    ) -> None:
        file: Path = all_keys["identity_jwks_file"]
        gateway = await open_gateway(**all_keys)
        write(file, content)
        for _ in range(3):
            entered = await gateway.post("/queues/enqueue", json={}, headers=bearer(proof()))
            assert entered.status_code == 201
        (failed,) = log.calls
        assert (failed.method_name, failed.args) == ("error", ("identity_keys_not_loaded",))
        write(file, jwks(jwk("RS256")))
        refused = await gateway.post("/queues/enqueue", json={}, headers=bearer(proof()))
        assert_problem(refused, 401, "IDENTITY_REQUIRED")

    async def test_it_checks_once_per_second(
        self, open_gateway: OpenGateway, es256: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gateway = await open_gateway(**es256)
        checks = []
        monkeypatch.setattr(identity_keys.KeyFile, "_reload_if_changed", lambda _: checks.append(1))
        for _ in range(20):
            await gateway.post("/queues/enqueue", json={}, headers=bearer(proof()))
        assert len(checks) <= 1


PRIVATE_PEM = PRIVATE["RS256"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
SSH = PRIVATE["EdDSA"].public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
# An X25519 key may be any 32 bytes, such as those that end like a line of text.
DER_OF_A_LINE_BREAK = X25519PublicKey.from_public_bytes(b"k" * 30 + b"\r\n").public_bytes(
    Encoding.DER, PublicFormat.SubjectPublicKeyInfo
)
DER = PRIVATE["ES256"].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class TestKeys:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"31 bytes of secret, not 32 bytes",
            # What everybody can have is no secret.
            pem(PRIVATE["RS256"]),
            b"\n" + pem(PRIVATE["ES256"]),
            b" " + jwks(jwk("RS256")),
            SSH,
            SSH + b" operator@example\n",
            DER,
            DER_OF_A_LINE_BREAK,
            DER_OF_A_LINE_BREAK + b"\n",
        ],
    )
    def test_what_is_no_secret(self, content: bytes) -> None:
        with pytest.raises(BadKeys):
            read_secret(content[:31] if content.startswith(b"31") else content)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            SECRET.encode(),
            PRIVATE_PEM,
            pem(PRIVATE["ES256"]),
            pem(rsa.generate_private_key(65537, 1024)),
            pem(ec.generate_private_key(ec.SECP384R1())),
            pem(PRIVATE["RS256"])[:-60],
            jwks(jwk("RS256")),
        ],
    )
    def test_what_is_no_public_key_for_rs256(self, content: bytes) -> None:
        with pytest.raises(BadKeys):
            read_pem(content, "RS256")

    @pytest.mark.parametrize(
        "entry",
        [
            jwk("RS256", alg="RS512"),
            jwk("RS256", alg="HS256"),
            jwk("RS256", use="enc"),
            jwk("HS256", alg="RS256"),
            jwk("HS256", k="c2hvcnQ"),
            jwk("HS256", k=part(SSH)),
            jwk("HS256", k=part(DER)),
            jwk("ES256", crv="P-384"),
            jwk("EdDSA", x=None),
            jwt.get_algorithm_by_name("RS256").to_jwk(PRIVATE["RS256"], as_dict=True),
            {},
            {"kty": ["RSA"]},
        ],
    )
    def test_keys_of_a_jwks_that_are_ignored(self, entry: JWKDict) -> None:
        with pytest.raises(BadKeys):
            read_jwks(jwks(entry))
        (usable,) = read_jwks(jwks(entry, jwk("EdDSA")))
        assert usable.algorithm == "EdDSA"

    def test_the_problem_says_why_a_jwks_has_no_usable_key(self) -> None:
        private = jwt.get_algorithm_by_name("RS256").to_jwk(PRIVATE["RS256"], as_dict=True)
        for content, problem in (
            (b"{", "holds no valid JSON"),
            (jwks(private), "it holds a key that is not a public one"),
            (
                jwks(jwk("RS256", use="enc"), jwk("RS256", alg="RS512")),
                "it holds a key that is not for signatures, holds a key for RS512",
            ),
        ):
            with pytest.raises(BadKeys, match=problem):
                read_jwks(content)

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_a_jwk_needs_no_algorithm(self, algorithm: str) -> None:
        (key,) = read_jwks(jwks(jwk(algorithm, alg=None, kid=None, use="sig")))
        assert (key.algorithm, key.key_id) == (algorithm, None)
        assert SECRET not in repr(key)

    @pytest.mark.parametrize(
        "content",
        [
            b"\xff",
            b"[]",
            b"null",
            b"{}",
            b'{"keys": 1}',
            b"[" * 9_999,
            jwks(jwk("RS256", alg=["RS256"])),
        ],
    )
    def test_what_is_no_jwks(self, content: bytes) -> None:
        with pytest.raises(BadKeys):
            read_jwks(content)


class TestSettings:
    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"identity": "jwt"}, "needs GATEWAY_IDENTITY_KEY_FILE or"),
            ({"identity": "JWT"}, "Input should be 'open' or 'jwt'"),
            ({"identity": "open"}, "have no effect"),
            (jwt_mode(identity_jwks_file="keys"), "and not both"),
            (jwt_mode(identity_key_file=None), "set both or none"),
            (jwt_mode(identity_algorithm=None), "set both or none"),
            (jwt_mode(identity_algorithm="none"), "Input should be 'HS256'"),
            (jwt_mode(identity_algorithm="RS256"), "holds a key of ES256, not of RS256"),
            (jwt_mode(identity_algorithm="HS256"), "not a secret"),
            (jwt_mode(identity_key_file="/nowhere"), "is missing or not a regular file"),
            (jwt_mode(identity_key_file="/"), "is missing or not a regular file"),
            (jwt_mode(identity_issuer=""), "needs GATEWAY_IDENTITY_ISSUER"),
            (jwt_mode(identity_audience=""), "needs GATEWAY_IDENTITY_AUDIENCE"),
            (jwt_mode(identity_claim=""), "at least 1 character"),
        ],
    )
    def test_what_cannot_work_is_refused(
        self, es256: dict[str, Any], changes: dict[str, Any], problem: str
    ) -> None:
        given = {} if changes == {"identity": "jwt"} else es256
        if changes.get("identity_key_file", "") is None:
            changes = changes | {"identity_jwks_file": es256["identity_key_file"]}
        with pytest.raises(ValidationError, match=problem) as refusal:
            Settings(token_keys=KEYS, **(given | changes))
        assert "BEGIN PUBLIC KEY" not in str(refusal.value)

    def test_an_empty_variable_is_not_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GATEWAY_TOKEN_KEYS", json.dumps(KEYS))
        for name in ("KEY_FILE", "JWKS_FILE", "ALGORITHM"):
            monkeypatch.setenv(f"GATEWAY_IDENTITY_{name}", "")
        assert Settings().identity_key_file is None

    def test_open_warns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        log = CapturingLogger()
        monkeypatch.setattr(identity, "log", log)
        assert identity.open_identity(Settings(token_keys=KEYS)) is None
        (warning,) = log.calls
        assert (warning.method_name, warning.args) == ("warning", ("identity_open",))


async def test_the_openapi_document_asks_for_it(
    open_gateway: OpenGateway, client: httpx.AsyncClient, es256: dict[str, Any]
) -> None:
    gateway = await open_gateway(**es256)
    spec = (await gateway.get("/openapi.json")).json()
    OpenAPIV31SpecValidator(spec).validate()
    assert spec["paths"]["/queues/enqueue"]["post"]["security"] == [{"login": []}]
    assert spec["components"]["securitySchemes"]["login"]["scheme"] == "bearer"
    usual = (await client.get("/openapi.json")).json()
    assert "security" not in usual["paths"]["/queues/enqueue"]["post"]
