"""What was asked for, now or last time, and what follows from it: the variables of compose.yml.

A project's settings and secrets are kept in .local/containers, for their owner alone: in
<project>.settings what it was last started with, in <project>.env what nobody else may know.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness import secrets, topology
from harness.errors import UserError
from harness.files import REPOSITORY, read_variables, write_variables
from harness.secrets import Secrets, require_usable

CAPS = REPOSITORY / "deploy" / "caps"
STATE = REPOSITORY / ".local" / "containers"

#: Programs by their names in compose.yml; none needs a later one to start.
PROGRAMS = tuple(program.name for program in topology.PROGRAMS)

#: A setting that is kept with the secrets, and never shown.
_SECRET_SETTING = "PAYMENT_HTTP_API_KEY"
_EXAMPLE_CAP = "2c4g"
_LAST_PORT = 65535


@dataclasses.dataclass(frozen=True)
class Settings:
    """Named as in the environment, from where they come, and else from the last start. Text, since
    that is where they go again; an empty one counts as not given."""

    CAP: str = _EXAMPLE_CAP
    """The total of cores and memory of all containers: a file of deploy/caps."""

    SCALE: str = "1"
    """How many of each program, which share its cap: 1 up to SCALE_MAX of the cap's file."""

    SEED: str = "full"
    """What is put on sale where nothing is yet: full, small or none."""

    PORT: str = "8080"
    """The gateway's port on this machine, 1 to 65535; a second gateway has the next one."""

    FRONTROW_BIND: str = "127.0.0.1"
    """The IPv4 address of this machine that the ports are published on; 0.0.0.0: all."""

    FRONTROW_VERSION: str = "local"
    """The tag of the image frontrow: letters, digits, `_`, `.` and `-`, at most 128."""

    PAYMENT_PROVIDER: str = "sandbox"
    """Who moves the money: sandbox (nobody) or http."""

    PAYMENT_HTTP_BASE_URL: str = ""
    """Where the provider `http` is: http:// or https://; required with it."""

    PAYMENT_HTTP_API_KEY: str = dataclasses.field(default="", repr=False)
    """Its bearer key; kept with the secrets."""

    QUEUE_CAPACITY: str = "500"
    """How many are admitted at once, 0 or more, when the room opens for the first time."""

    @property
    def scale(self) -> int:
        return int(self.SCALE)

    @property
    def ports(self) -> range:
        """One for each gateway."""
        return range(int(self.PORT), int(self.PORT) + self.scale)

    def _complaints(self) -> Iterator[tuple[str, str]]:
        """Each setting that is wrong, and what it must be. Only the first is to be trusted: those
        after it are looked at in its light."""
        for field in dataclasses.fields(self):
            # They are kept one a line.
            if not getattr(self, field.name).isprintable():
                yield field.name, "one line of text"
        known = sorted(file.stem for file in CAPS.glob("*.env"))
        if self.CAP not in known:
            yield "CAP", " or ".join(known)
        most = int(read_caps(self.CAP)["SCALE_MAX"])
        if not _is_number(self.SCALE, 1, most):
            yield "SCALE", f"1 to {most} with CAP={self.CAP}"
        if self.SEED not in ("full", "small", "none"):
            yield "SEED", "full, small or none"
        last = _LAST_PORT + 1 - self.scale
        if not _is_number(self.PORT, 1, last):
            yield "PORT", f"a port, 1 to {last}"
        if not _is_ipv4(self.FRONTROW_BIND):
            yield "FRONTROW_BIND", "an IPv4 address of this machine, or 0.0.0.0"
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", self.FRONTROW_VERSION):
            yield "FRONTROW_VERSION", "the tag of an image: letters, digits, _ . and -"
        if self.PAYMENT_PROVIDER not in ("sandbox", "http"):
            yield "PAYMENT_PROVIDER", "sandbox or http"
        needs_address = self.PAYMENT_PROVIDER == "http" or self.PAYMENT_HTTP_BASE_URL
        if needs_address and not re.fullmatch(r"https?://\S+", self.PAYMENT_HTTP_BASE_URL):
            yield "PAYMENT_HTTP_BASE_URL", "where the provider is, http://… or https://…"
        if not _is_number(self.QUEUE_CAPACITY, 0, 10**9):
            yield "QUEUE_CAPACITY", "0 or more"

    def check(self, given: Mapping[str, str], remembered_in: Path) -> None:
        """Raises UserError for the first that is wrong, and says if it is no new one."""
        for name, rule in self._complaints():
            shown = "" if name == _SECRET_SETTING else f", not {getattr(self, name)!r}"
            whence = "" if given.get(name) else f" as {remembered_in} remembers"
            raise UserError(f"{name} must be {rule}{shown}{whence}.")

    def variables(self) -> dict[str, str]:
        """What compose.yml asks for beside the secrets. Those of a kind share the cap of the kind,
        so that the total stays what was asked for."""
        caps = read_caps(self.CAP)
        del caps["SCALE_MAX"]
        for program in PROGRAMS:
            cores, memory = f"{program.upper()}_CPUS", f"{program.upper()}_MB"
            caps[cores] = round(caps[cores] / self.scale, 4)
            caps[memory] = caps[memory] // self.scale
        asked = dataclasses.asdict(self)
        for name in ("CAP", "SCALE", "PORT"):
            del asked[name]
        return {
            **{name: f"{value:g}" for name, value in caps.items()},
            **asked,
            "FRONTROW_PORTS": f"{self.ports[0]}-{self.ports[-1]}",
        }


class Remembered:
    """What is kept of one project."""

    def __init__(self, project: str) -> None:
        """Raises UserError for what Docker Compose would not take as a name, or would change."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", project):
            raise UserError(
                f"PROJECT must be small letters, digits, _ and -, and begin with a letter or digit,"
                f" not {project!r}."
            )
        self.settings_file = STATE / f"{project}.settings"
        self.secrets_file = STATE / f"{project}.env"
        #: There while the databases may be half empty.
        self.restoring = STATE / f"{project}.restoring"
        #: Locked by whoever starts, stops or replaces containers.
        self.lock = STATE / f"{project}.lock"
        self._forgettable = (self.settings_file, self.secrets_file, self.restoring)

    def settings(self, environ: Mapping[str, str]) -> Settings:
        """What the environment says, and where it says nothing, what was said before. Raises
        UserError."""
        before = {**read_variables(self.settings_file), **read_variables(self.secrets_file)}
        names = [field.name for field in dataclasses.fields(Settings)]
        told = {name: environ.get(name) or before.get(name) for name in names}
        settings = Settings(**{name: value for name, value in told.items() if value})
        settings.check(environ, self.settings_file)
        return settings

    def keep(self, settings: Settings) -> None:
        """For all commands after this one."""
        asked = dataclasses.asdict(settings)
        key = asked.pop(_SECRET_SETTING)
        write_variables(self.settings_file, asked)
        known = read_variables(self.secrets_file)
        if known.get(_SECRET_SETTING, "") != key:
            write_variables(self.secrets_file, {**known, _SECRET_SETTING: key})

    def secrets(self, *, make: bool) -> dict[str, str]:
        """Passwords and token keys; new ones if there are none and `make`. Raises UserError if
        there are none, or somebody wrote there what does not work."""
        if make and not self.secrets_file.exists():
            write_variables(self.secrets_file, Secrets.new().variables())
        known = read_variables(self.secrets_file)
        if not known:
            raise UserError("nothing was started here yet: begin with make up.")
        require_usable(known, self.secrets_file)
        return {name: known[name] for name in secrets.NAMES}

    def cap(self) -> str:
        """What the containers were last started with."""
        return read_variables(self.settings_file).get("CAP", Settings.CAP)

    @contextlib.contextmanager
    def half_restored(self) -> Iterator[None]:
        """If this breaks off, nothing is started before a restore has come to its end."""
        self.restoring.touch()
        yield
        self.restoring.unlink()

    def anything(self) -> bool:
        return any(file.exists() for file in self._forgettable)

    def forget(self) -> None:
        for file in self._forgettable:
            file.unlink(missing_ok=True)


def placeholders() -> dict[str, str]:
    """Something for each variable of compose.yml: for commands that go by names alone, and must
    work whatever became of what is remembered."""
    return {**Settings().variables(), **dict.fromkeys(secrets.NAMES, "unused")}


def read_caps(name: str) -> dict[str, float]:
    """What a file of deploy/caps says. Raises UserError if that is not what each of them says."""
    caps = _numbers(CAPS / f"{name}.env")
    example = _numbers(CAPS / f"{_EXAMPLE_CAP}.env")
    if odd := sorted(set(caps) ^ set(example)):
        raise UserError(
            f"deploy/caps/{name}.env must have the names of {_EXAMPLE_CAP}.env, which differ in"
            f" {', '.join(odd)}."
        )
    return caps


def _numbers(file: Path) -> dict[str, float]:
    found = {}
    for line in file.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"([A-Z_]+)=(\d+(?:\.\d+)?)", line.strip())
        if not match:
            raise UserError(f"deploy/caps/{file.name} must have NAME=number, not {line!r}.")
        found[match[1]] = float(match[2])
    return found


def _is_number(text: str, least: int, most: int) -> bool:
    return re.fullmatch(r"[0-9]{1,10}", text) is not None and least <= int(text) <= most


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True
