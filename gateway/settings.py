"""Settings of the gateway, from GATEWAY_* environment variables."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    IPvAnyNetwork,
    SecretStr,
    model_validator,
)
from pydantic_settings import BaseSettings

from gateway.identity_keys import Algorithm, BadKeys, Key, KeyFile, read_jwks, read_pem, read_secret
from servicekit.settings import ListenAddress, LogLevel, config


def _long_enough(keys: dict[str, SecretStr]) -> dict[str, SecretStr]:
    secrets = [key.get_secret_value() for key in keys.values()]
    if not keys or any(len(secret.encode()) < 32 for secret in secrets):
        raise ValueError("must hold at least one key, each of 32 bytes or more (RFC 7518, 3.2)")
    return keys


def _origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    for origin in origins:
        # As browsers write it. Anything else, such as a slash at the end, would never match.
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[a-z0-9._:\[\]-]+", origin):
            raise ValueError("must be origins in lower case without a path: https://shop.example")
    return origins


def _unset_if_empty(value: object) -> object:
    """A variable that is empty counts as not set."""
    return None if value == "" else value


OptionalFile = Annotated[Path | None, BeforeValidator(_unset_if_empty)]


class Settings(BaseSettings):
    """Settings of the gateway."""

    model_config = config("GATEWAY_")

    listen: ListenAddress = "127.0.0.1:8080"
    """Address of the HTTP server, host:port."""

    metrics_listen: ListenAddress = "127.0.0.1:9200"
    """Address of the Prometheus metrics over HTTP, host:port."""

    admin_listen: Annotated[ListenAddress | None, BeforeValidator(_unset_if_empty)] = (
        "127.0.0.1:8081"
    )
    """Address of the admin API over HTTP, host:port; empty: there is none. It asks for API keys,
    but belongs into a network of operators all the same. Of several processes the first one serves
    it."""

    queue_admin_token: SecretStr = SecretStr("")
    """The value of QUEUE_ADMIN_TOKEN, with which the admin API asks how many people a room has."""

    workers: int = Field(default=1, ge=1, le=64)
    """Processes that share the address: one for each core that the gateway may use. More
    processes than cores are slower."""

    log_level: LogLevel = "INFO"
    """Lowest level of logged events: DEBUG, INFO, WARNING or ERROR."""

    queue_addr: str = "127.0.0.1:9101"
    """queue_service: host:port or a gRPC target such as dns:///queue:9101."""

    concert_addr: str = "127.0.0.1:9102"
    """concert_service: host:port or a gRPC target."""

    reservation_addr: str = "127.0.0.1:9103"
    """reservation_service: host:port or a gRPC target."""

    payment_addr: str = "127.0.0.1:9104"
    """payment_service: host:port or a gRPC target."""

    token_keys: Annotated[dict[str, SecretStr], AfterValidator(_long_enough)]
    """Keys that may sign access tokens, as JSON {"key id": "secret"}. A superset of the keys of
    queue_service: add a new key here first, remove an old one here last."""

    token_max_age_seconds: float = Field(default=86_400, gt=0)
    """Age at which a token is replaced, in seconds: queue_service is asked, and if the place lives,
    the response carries a fresh token for it; otherwise the token has expired. Should be below
    QUEUE_HEAL_WITHIN_SECONDS."""

    room: str = "main"
    """The waiting room of who enters without a concert. Others come from the catalogue, where each
    concert names its room: `main` unless an operator has chosen another one."""

    identity: Literal["open", "jwt"] = "open"
    """Who may enter the queue as a user. `open` trusts the userId of the request, so that anybody
    can act for anybody: for load tests, and behind a backend of your own that checks its users.
    `jwt` wants a token of your login system in Authorization: Bearer; see
    [Identity](operations.md#identity)."""

    identity_key_file: OptionalFile = None
    """With `jwt`: the key of your login system, either a PEM file with a public key or a file whose
    bytes are the secret of HS256. A changed file is read at the next request to enter, at most once
    a second."""

    identity_algorithm: Annotated[Algorithm | None, BeforeValidator(_unset_if_empty)] = None
    """The algorithm of GATEWAY_IDENTITY_KEY_FILE: HS256, RS256, ES256 or EdDSA. A token with
    another one is refused."""

    identity_jwks_file: OptionalFile = None
    """With `jwt`, instead of GATEWAY_IDENTITY_KEY_FILE: a JWKS with the keys of your login system.
    Each key verifies the algorithm of its type only. A changed file is read at the next request to
    enter, at most once a second."""

    identity_issuer: str = ""
    """The `iss` claim that a token of your login system must have; required with `jwt`."""

    identity_audience: str = ""
    """The `aud` claim that a token of your login system must have; required with `jwt`, because a
    token that another shop got must not open this one."""

    identity_claim: str = Field(default="sub", min_length=1)
    """The claim with the user id: a positive decimal 64-bit number, as a number or a text."""

    reentry_without_token: bool = True
    """With `open`: whether POST /queues/enqueue returns a live place to every request with its
    userId, as the contract says. `true` lets anybody take over the place of anybody. `false` asks
    for a genuine token of the place in X-Access-Token, of any age, and answers NOT_YOURS otherwise;
    a user who has lost the token waits until the place has ended."""

    leaving_ends_holds: bool = True
    """Whether leaving the queue first cancels the user's holds, so that their seats are on sale at
    once. Leaving then needs reservation_service: without it, nothing changes and the answer is
    503."""

    challenge: Literal["none", "altcha", "http"] = "none"
    """What must be solved for a new place. `none`: nothing. `altcha`: a proof of work, which the
    gateway makes and verifies itself. `http`: the challenge of a provider, which verifies solutions
    over HTTP in the manner of Cloudflare Turnstile. `http` needs
    GATEWAY_REQUESTS_PER_SECOND_PER_SOURCE, because each solution, also a wrong one, makes a request
    to the provider; a gateway process verifies at most 8 solutions of one source at once, and
    answers others with 429. The provider accepts a solution once, so a user who gets no place
    (QUEUE_FULL, QUEUE_PAUSED, 429 or 503) has to solve again."""

    challenge_altcha_key: SecretStr = SecretStr("")
    """With `altcha`: the key that signs challenges, 32 bytes or more, the same for all gateways."""

    challenge_altcha_difficulty: int = Field(default=2_000_000, ge=4_096, le=1_000_000_000)
    """With `altcha`: the iterations of PBKDF2 with SHA-256 that solving takes on average. The
    default takes a core about 0.6 s in native code, and a phone's browser some seconds. Solving one
    time in fifty takes four times as long."""

    challenge_altcha_seconds: float = Field(default=600.0, ge=30, le=86_400)
    """With `altcha`: how long a challenge may be solved and its solution used, in seconds."""

    challenge_http_url: str = ""
    """With `http`: where the provider verifies solutions, such as
    https://challenges.cloudflare.com/turnstile/v0/siteverify."""

    challenge_http_secret: SecretStr = SecretStr("")
    """With `http`: the secret that the provider gave for the site."""

    challenge_http_site_key: str = ""
    """With `http`: the public key of the site, which the page needs for the provider's widget."""

    challenge_http_timeout_seconds: float = Field(default=3.0, gt=0)
    """With `http`: deadline of one verification, in seconds; then 503 UNAVAILABLE."""

    read_budget_seconds: float = Field(default=2.0, gt=0)
    """Deadline of a read behind the gateway, in seconds; then 504."""

    write_budget_seconds: float = Field(default=5.0, gt=0)
    """Deadline of holding a seat, cancelling or leaving, in seconds; then 504."""

    pay_budget_seconds: float = Field(default=8.0, gt=0)
    """Deadline of paying, in seconds. Must exceed the payment provider's timeout, so that a
    slow provider leads to 202 and not to 504."""

    batch_pause_seconds: float = Field(default=0.006, ge=0, le=0.1)
    """Longest pause between two calls to queue_service, and between two that ask
    reservation_service for taken seats, in seconds; the next callers are collected
    meanwhile. The pause is 2 ms for each caller of the first call. A call costs both sides about
    1.2 ms of CPU whatever its size (see ADR 0003). 0 sends as soon as the previous call has
    returned."""

    room_view: bool = True
    """Whether each gateway process keeps a copy of the room (the room view) and answers polls of
    people who wait, and checks of people who are admitted, from it. If not, or while queue_service
    is of a version without it, each of them is a call, as far as the caches do not answer."""

    room_fresh_seconds: float = Field(default=0.3, gt=0, le=1)
    """How old an answer from the room view may be, in seconds; at most QUEUE_POLL_MIN_SECONDS,
    which the room states. For polls of one place at least this far apart, the order never grows,
    whichever gateways answer. Under load, a gateway process sends about five heartbeats per second
    to queue_service to prove it (at 0.3 s)."""

    room_outage_seconds: float = Field(default=60.0, ge=0, le=120)
    """While queue_service or its Redis does not answer, how long polls are answered from the last
    room view, marked `recovering`, and admitted people go on; in seconds. At most
    QUEUE_CLAIM_WINDOW_SECONDS and half of QUEUE_ABSENT_AFTER_SECONDS: a longer time is reduced,
    with the warning `room_outage_seconds_reduced`. 0 answers 503 at once."""

    admission_ttl_seconds: float = Field(default=1.0, ge=0, le=1)
    """How long a positive admission check is cached, in seconds, while the room view does not
    answer; with it, the end of an admission counts at once."""

    seats_ttl_seconds: float = Field(default=1.0, ge=0, le=1)
    """How long a seat map is cached, in seconds. The contract allows 1."""

    schedules_ttl_seconds: float = Field(default=5.0, ge=0, le=60)
    """How long a schedule's status (AVAILABLE or SOLD_OUT) is cached, in seconds. Concerts that
    people ask for are counted again before, with up to 1,000 dates in one call."""

    facts_ttl_seconds: float = Field(default=30.0, ge=0)
    """How long concerts, dates, seat numbers and prices are cached, in seconds; never beyond
    midnight UTC. What has changed in the catalogue is dropped within a second, as long as
    concert_service tells of it."""

    readiness_ttl_seconds: float = Field(default=1.0, ge=0, le=10)
    """How long /health/ready repeats its last answer, in seconds (a failure at most 0.1 s; a drain
    shows at once). The answer costs a call to each service, and anybody may ask."""

    idle_seconds: float = Field(default=65.0, ge=0.01)
    """How long a connection may take to send the complete head of a request, in seconds, from its
    start or from the end of the previous response; then it is closed. It covers waiting for a
    request, so it exceeds the usual 60 s after which load balancers close idle connections: if we
    closed first, they would send a request to a closed connection."""

    write_seconds: float = Field(default=20.0, ge=0.01)
    """How long a client may accept no byte of a response, in seconds; then its connection is
    reset."""

    open_files: int = Field(default=20_000, ge=512)
    """Most files that a gateway process may open; its hard limit (`ulimit -Hn`) may allow fewer.
    Each connection is one; 256 are kept for everything else. New connections wait while all are in
    use. A process takes 178 MB with full caches, and each connection 3 to 18 KB: 15,000 fit into
    448 MB."""

    requests_per_second: int = Field(default=20, ge=0)
    """Requests per second that one place in line may send to each gateway process; requests to
    enter count for their user id and source together. The same number may be sent at once. Further
    requests get 429. 0 switches the limit off."""

    enforce_pace: bool = True
    """Whether a poll that comes before half of the advised pause is answered from the memory of the
    gateway process, without a call to queue_service; for the first 100 places only within half a
    second. Load tests that measure the call switch it off."""

    requests_per_second_per_source: int = Field(default=0, ge=0)
    """Requests per second that one source (an IPv4 address or an IPv6 /64) may send to each gateway
    process, on all paths but /health. Malformed requests and the preflights of browsers (CORS) do
    not count: to refuse them would cost as much as to answer them. The same number may be sent at
    once. Further requests get 429. 0 switches the limit off, for load tests and for people on one
    machine. For an on-sale 50, or more for offices and mobile networks behind one address. How many
    places a source may take is QUEUE_ENTRIES_PER_SOURCE."""

    trusted_proxies: tuple[IPvAnyNetwork, ...] = ()
    """Networks of the proxies in front of the gateway, as JSON: ["10.0.0.0/8"]. Only these may name
    the source of a request in X-Forwarded-For. Empty: the source is the address that connects. List
    proxies only: a client in these networks can choose its source."""

    cors_origins: Annotated[tuple[str, ...], AfterValidator(_origins)] = ()
    """Origins whose pages may call the API from a browser, such as ["https://shop.example"], or
    ["*"] for all. Pages of other origins cannot read the responses."""

    documentation: bool = True
    """Whether the gateway serves /docs and /openapi.json; if not, they are 404."""

    drain_announce_seconds: float = Field(default=2.0, ge=0)
    """After SIGTERM, how long requests are still accepted while /health/ready answers 503 and
    every response closes its connection, in seconds: load balancers stop sending requests
    meanwhile."""

    drain_seconds: int = Field(default=15, ge=0)
    """After that, how long accepted requests may take to finish, in whole seconds."""

    @model_validator(mode="after")
    def _check_identity(self) -> Self:
        files = (self.identity_key_file, self.identity_jwks_file)
        if self.identity == "open":
            if any(files):
                raise ValueError(
                    "GATEWAY_IDENTITY_KEY_FILE and GATEWAY_IDENTITY_JWKS_FILE have no effect unless"
                    " GATEWAY_IDENTITY is jwt"
                )
            return self
        if sum(file is not None for file in files) != 1:
            raise ValueError(
                "GATEWAY_IDENTITY=jwt needs GATEWAY_IDENTITY_KEY_FILE or"
                " GATEWAY_IDENTITY_JWKS_FILE, and not both"
            )
        if (self.identity_key_file is None) != (self.identity_algorithm is None):
            raise ValueError(
                "GATEWAY_IDENTITY_ALGORITHM belongs to GATEWAY_IDENTITY_KEY_FILE: set both or none"
            )
        for name in ("issuer", "audience"):
            if not getattr(self, f"identity_{name}"):
                raise ValueError(f"GATEWAY_IDENTITY=jwt needs GATEWAY_IDENTITY_{name.upper()}")
        self.open_identity_keys()
        return self

    @model_validator(mode="after")
    def _check_challenge(self) -> Self:
        if self.challenge == "altcha":
            if len(self.challenge_altcha_key.get_secret_value().encode()) < 32:
                raise ValueError(
                    "GATEWAY_CHALLENGE=altcha needs GATEWAY_CHALLENGE_ALTCHA_KEY, 32 bytes or more"
                )
        elif self.challenge == "http":
            if not self.challenge_http_url.startswith(("https://", "http://")):
                raise ValueError("GATEWAY_CHALLENGE=http needs the URL GATEWAY_CHALLENGE_HTTP_URL")
            if not self.challenge_http_secret.get_secret_value():
                raise ValueError("GATEWAY_CHALLENGE=http needs GATEWAY_CHALLENGE_HTTP_SECRET")
            if not self.challenge_http_site_key:
                raise ValueError("GATEWAY_CHALLENGE=http needs GATEWAY_CHALLENGE_HTTP_SITE_KEY")
        return self

    def open_identity_keys(self) -> KeyFile:
        """Returns the keys of the login system, with `jwt`. Raises BadKeys if they are unusable."""
        if self.identity_jwks_file is not None:
            return _key_file("GATEWAY_IDENTITY_JWKS_FILE", self.identity_jwks_file, read_jwks)
        if self.identity_key_file is None or self.identity_algorithm is None:
            raise BadKeys("no key file is set")
        if self.identity_algorithm == "HS256":
            parse = read_secret
        else:
            parse = partial(read_pem, algorithm=self.identity_algorithm)
        return _key_file("GATEWAY_IDENTITY_KEY_FILE", self.identity_key_file, parse)


def _key_file(setting: str, path: Path, parse: Callable[[bytes], list[Key]]) -> KeyFile:
    try:
        return KeyFile(path, parse)
    except BadKeys as error:
        raise BadKeys(f"{setting}: the file {error}") from None
