"""The settings of one project, and the variables of compose.yml that follow from them.

They are stored in .local/containers, readable by their owner only: <project>.settings has those of
the last start, <project>.env the secrets.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness import secrets, topology
from harness.errors import UserError
from harness.files import REPOSITORY, read_variables, write_variables
from harness.secrets import Secrets, require_usable

COMPOSE = REPOSITORY / "deploy" / "compose.yml"
CAPS = REPOSITORY / "deploy" / "caps"
#: The keys of the operator's login system.
JWKS = REPOSITORY / "deploy" / "identity" / "jwks.json"
STATE = REPOSITORY / ".local" / "containers"

#: Programs by their names in compose.yml; none needs a later one to start.
PROGRAMS = tuple(program.name for program in topology.PROGRAMS)

#: MB of a gateway process whose caches are full, without connections: it takes 97 itself, and its
#: caches up to 80, with the view of a room in which a million wait and the snapshot that replaces
#: it (tests/gateway/test_memory_long.py measures them).
GATEWAY_PROCESS_MB = 178
#: MB of the process that starts several of them.
_GATEWAY_PARENT_MB = 57
#: The fewest files with which a gateway starts (gateway/settings.py).
_LEAST_OPEN_FILES = 512
#: KB of a connection that sent half a head of 16 KiB (docs/adr/0032-granian-serves-http.md).
_CONNECTION_KB = 18

#: Settings that are kept with the secrets, and never shown.
SECRET_SETTINGS = (
    "PAYMENT_HTTP_API_KEY",
    "GATEWAY_CHALLENGE_ALTCHA_KEY",
    "GATEWAY_CHALLENGE_HTTP_SECRET",
)
#: Settings that compose.yml names without a value: those that are set are passed on as they are,
#: and only the programs check them.
PASSED_ON = tuple(re.findall(r"^      ([A-Z_]+):$", COMPOSE.read_text(), re.MULTILINE))
_EXAMPLE_CAP = "2c4g"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings by the names of their environment variables; an empty variable counts as not set.

    They are text, as in the environment and in compose.yml.
    """

    #: The total of cores and memory of all containers: a file of deploy/caps.
    CAP: str = _EXAMPLE_CAP
    #: The number of each program, which share its cap: 1 to SCALE_MAX of the cap's file.
    SCALE: str = "1"
    #: What an empty database gets for sale.
    SEED: str = "full"
    #: The gateway's port on this machine; a second gateway has the next one.
    PORT: str = "8080"
    #: The port of the gateway's admin API, on 127.0.0.1 only; a second gateway has the next one.
    ADMIN_PORT: str = "8090"
    #: The address of this machine that the gateways' ports are published on; 0.0.0.0: all.
    FRONTROW_BIND: str = "127.0.0.1"
    #: The tag of the image frontrow.
    FRONTROW_VERSION: str = "local"
    #: `sandbox` moves no money; `http` requires the URL. Empty: `sandbox`, on a loopback address.
    PAYMENT_PROVIDER: str = ""
    PAYMENT_HTTP_BASE_URL: str = ""
    #: The provider's bearer key; stored with the secrets.
    PAYMENT_HTTP_API_KEY: str = dataclasses.field(default="", repr=False)
    #: The number of people admitted at once when the room opens for the first time.
    QUEUE_CAPACITY: str = "500"
    #: Whether the gateway answers early polls from its memory; `false` for load tests of the polls.
    GATEWAY_ENFORCE_PACE: str = "true"
    #: `jwt` requires the JWKS, the issuer and the audience.
    GATEWAY_IDENTITY: str = "open"
    GATEWAY_IDENTITY_ISSUER: str = ""
    GATEWAY_IDENTITY_AUDIENCE: str = ""
    GATEWAY_IDENTITY_CLAIM: str = "sub"
    GATEWAY_REENTRY_WITHOUT_TOKEN: str = "true"
    #: Those of PASSED_ON that are set.
    passed_on: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Settings:
        """Those of the given values that are not empty."""
        given = {name: value for name, value in values.items() if value}
        passed_on = {name: given.pop(name) for name in PASSED_ON if name in given}
        return cls(**given, passed_on=passed_on)

    def values(self) -> dict[str, str]:
        """All settings, by their names."""
        own = {name: getattr(self, name) for name in NAMES}
        return {**own, **self.passed_on}

    @property
    def scale(self) -> int:
        return int(self.SCALE)

    @property
    def ports(self) -> range:
        """A port for each gateway."""
        return range(int(self.PORT), int(self.PORT) + self.scale)

    @property
    def admin_ports(self) -> range:
        """A port for the admin API of each gateway."""
        return range(int(self.ADMIN_PORT), int(self.ADMIN_PORT) + self.scale)

    def _complaints(self) -> Iterator[tuple[str, str]]:
        """Each wrong setting, and what it must be. Only the first is reliable, because the later
        checks assume that the earlier ones passed."""
        for name, value in self.values().items():
            # They are stored one on each line.
            if not value.isprintable():
                yield name, "one line of text"
        known = sorted(file.stem for file in CAPS.glob("*.env"))
        if self.CAP not in known:
            yield "CAP", " or ".join(known)
        most = int(read_caps(self.CAP)["SCALE_MAX"])
        if not _is_number(self.SCALE, 1, most):
            yield "SCALE", f"1 to {most} with CAP={self.CAP}"
        if _open_files(self._caps()) < _LEAST_OPEN_FILES:
            yield (
                "CAP",
                f"one with enough memory for its gateways with SCALE={self.SCALE}: more GATEWAY_MB,"
                " or fewer GATEWAY_WORKERS",
            )
        if self.SEED not in ("full", "small", "none"):
            yield "SEED", "full, small or none"
        last = 65_536 - self.scale
        for name in ("PORT", "ADMIN_PORT"):
            if not _is_number(getattr(self, name), 1, last):
                yield name, f"a port, 1 to {last}"
        if set(self.ports) & set(self.admin_ports):
            yield "ADMIN_PORT", "other ports than those from PORT on, one for each gateway"
        if not _is_ipv4(self.FRONTROW_BIND):
            yield "FRONTROW_BIND", "an IPv4 address of this machine, or 0.0.0.0"
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", self.FRONTROW_VERSION):
            yield "FRONTROW_VERSION", "the tag of an image: letters, digits, _ . and -"
        loopback = ipaddress.IPv4Address(self.FRONTROW_BIND).is_loopback
        if not self.PAYMENT_PROVIDER and not loopback:
            yield (
                "PAYMENT_PROVIDER",
                "http, or sandbox, which approves nearly everything and moves no money, because"
                f" FRONTROW_BIND={self.FRONTROW_BIND} is no loopback address",
            )
        if self.PAYMENT_PROVIDER not in ("", "sandbox", "http"):
            yield "PAYMENT_PROVIDER", "sandbox or http"
        needs_address = self.PAYMENT_PROVIDER == "http" or self.PAYMENT_HTTP_BASE_URL
        if needs_address and not re.fullmatch(r"https?://\S+", self.PAYMENT_HTTP_BASE_URL):
            yield "PAYMENT_HTTP_BASE_URL", "the URL of the provider, http://… or https://…"
        if not _is_number(self.QUEUE_CAPACITY, 0, 10**9):
            yield "QUEUE_CAPACITY", "0 or more"
        for name in ("GATEWAY_ENFORCE_PACE", "GATEWAY_REENTRY_WITHOUT_TOKEN"):
            if getattr(self, name) not in ("true", "false"):
                yield name, "true or false"
        if self.GATEWAY_IDENTITY not in ("open", "jwt"):
            yield "GATEWAY_IDENTITY", "open or jwt"
        if self.GATEWAY_IDENTITY == "jwt":
            for name in ("GATEWAY_IDENTITY_ISSUER", "GATEWAY_IDENTITY_AUDIENCE"):
                if not getattr(self, name):
                    yield name, "that of the tokens of your login system"
            if not JWKS.is_file():
                yield "GATEWAY_IDENTITY", f"open, as long as there is no {JWKS}"

    def check(self, given: Mapping[str, str], file: Path) -> None:
        """Raises UserError for the first wrong setting; names `file` if it is stored there."""
        for name, rule in self._complaints():
            shown = "" if name in SECRET_SETTINGS else f", not {self.values()[name]!r}"
            where = "" if given.get(name) else f" as in {file}"
            raise UserError(f"{name} must be {rule}{shown}{where}.")

    def _caps(self) -> dict[str, float]:
        """The numbers of each container. Those of a program share its cap, so that the total stays
        the same."""
        caps = read_caps(self.CAP)
        del caps["SCALE_MAX"]
        for program in PROGRAMS:
            cores, memory = f"{program.upper()}_CPUS", f"{program.upper()}_MB"
            caps[cores] = round(caps[cores] / self.scale, 4)
            caps[memory] = caps[memory] // self.scale
        return caps

    def variables(self) -> dict[str, str]:
        """The variables of compose.yml but passwords and token keys."""
        caps = self._caps()
        settings = self.values()
        for name in ("CAP", "SCALE", "PORT", "ADMIN_PORT"):
            del settings[name]
        return {
            **{name: f"{value:g}" for name, value in caps.items()},
            **settings,
            "PAYMENT_PROVIDER": self.PAYMENT_PROVIDER or "sandbox",
            "GATEWAY_OPEN_FILES": str(_open_files(caps)),
            "GATEWAY_IDENTITY_JWKS_FILE": (
                f"/run/identity/{JWKS.name}" if self.GATEWAY_IDENTITY == "jwt" else ""
            ),
            "FRONTROW_PORTS": f"{self.ports[0]}-{self.ports[-1]}",
            "FRONTROW_ADMIN_PORTS": f"{self.admin_ports[0]}-{self.admin_ports[-1]}",
        }


#: Settings that have a meaning of their own here.
NAMES = tuple(field.name for field in dataclasses.fields(Settings) if field.name != "passed_on")


def _open_files(caps: Mapping[str, float]) -> int:
    """Returns how many files each process of a gateway may open, so that they fit into its memory
    beside full caches: each may be a connection with a head of 16 KiB that never ends. 0 or less:
    there is too little memory."""
    workers = int(caps["GATEWAY_WORKERS"])
    if workers < 1:
        return 0
    parent = _GATEWAY_PARENT_MB if workers > 1 else 0
    megabytes = (caps["GATEWAY_MB"] - parent) / workers - GATEWAY_PROCESS_MB
    return int(megabytes * 1024 / _CONNECTION_KB)


class Stored:
    """The files of one project."""

    def __init__(self, project: str) -> None:
        """Raises UserError for a name that Docker Compose refuses or changes."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", project):
            raise UserError(
                f"PROJECT must be small letters, digits, _ and -, and begin with a letter or digit,"
                f" not {project!r}."
            )
        self.settings_file = STATE / f"{project}.settings"
        self.secrets_file = STATE / f"{project}.env"
        #: Exists while the databases may be incomplete.
        self.restoring = STATE / f"{project}.restoring"
        #: Locked by commands that start, stop or replace containers.
        self.lock = STATE / f"{project}.lock"
        self._forgettable = (self.settings_file, self.secrets_file, self.restoring)

    def settings(self, environ: Mapping[str, str]) -> Settings:
        """The settings of the environment, and else those of the last start. Raises UserError."""
        before = {**read_variables(self.settings_file), **read_variables(self.secrets_file)}
        settings = Settings.of(
            {name: environ.get(name) or before.get(name, "") for name in (*NAMES, *PASSED_ON)}
        )
        settings.check(environ, self.settings_file)
        return settings

    def keep(self, settings: Settings) -> None:
        """Stores them for later commands."""
        values = settings.values()
        keys = {name: values.pop(name) for name in SECRET_SETTINGS if name in values}
        write_variables(self.settings_file, values)
        known = read_variables(self.secrets_file)
        write_variables(self.secrets_file, {**known, **keys})

    def secrets(self, *, create: bool) -> dict[str, str]:
        """Passwords and token keys. Raises UserError if there are none and `create` is false, or
        if they are unusable."""
        if create and not self.secrets_file.exists():
            write_variables(self.secrets_file, Secrets.new().variables())
        known = read_variables(self.secrets_file)
        if not known:
            raise UserError("nothing was started here yet: begin with make up.")
        if "ADMIN_TOKEN" not in known:  # made by a version that had none
            known["ADMIN_TOKEN"] = secrets.new_admin_token()
            write_variables(self.secrets_file, known)
        require_usable(known, self.secrets_file)
        return {name: known[name] for name in secrets.NAMES}

    def cap(self) -> str:
        """The cap of the last start."""
        return read_variables(self.settings_file).get("CAP", Settings.CAP)

    def anything(self) -> bool:
        return any(file.exists() for file in self._forgettable)

    def forget(self) -> None:
        for file in self._forgettable:
            file.unlink(missing_ok=True)


def placeholders() -> dict[str, str]:
    """A value for each variable of compose.yml, for commands that must work whatever is stored."""
    return {**Settings().variables(), **dict.fromkeys(secrets.NAMES, "unused")}


def read_caps(name: str) -> dict[str, float]:
    """The numbers of a file of deploy/caps. Raises UserError if it lacks one or has another."""
    caps = read_variables(CAPS / f"{name}.env")
    example = read_variables(CAPS / f"{_EXAMPLE_CAP}.env")
    if odd := sorted(set(caps) ^ set(example)):
        raise UserError(
            f"deploy/caps/{name}.env must have the names of {_EXAMPLE_CAP}.env, which differ in"
            f" {', '.join(odd)}."
        )
    for key, value in caps.items():
        if not re.fullmatch(r"\d+(\.\d+)?", value):
            line = f"{key}={value}"
            raise UserError(f"deploy/caps/{name}.env must have NAME=number, not {line!r}.")
    return {key: float(value) for key, value in caps.items()}


def _is_number(text: str, least: int, most: int) -> bool:
    return re.fullmatch(r"[0-9]{1,10}", text) is not None and least <= int(text) <= most


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True
