"""The files of deploy/caps add up to their names, and compose.yml finds what it asks for."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
CAPS = sorted((REPOSITORY / "deploy" / "caps").glob("*.env"))
COMPOSE = (REPOSITORY / "deploy" / "compose.yml").read_text()
CONTAINERS = (
    *("GATEWAY", "QUEUE", "CONCERT", "RESERVATION", "PAYMENT"),
    *("MARIADB", "REDIS", "KAFKA"),
)
each_cap = pytest.mark.parametrize("file", CAPS, ids=[file.stem for file in CAPS])


def read(file: Path) -> dict[str, float]:
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.partition("=") for line in lines)}


def test_there_are_those_that_are_promised() -> None:
    assert {"2c4g", "6c8g"} <= {file.stem for file in CAPS}


@each_cap
def test_a_cap_is_the_total_of_all_containers(file: Path) -> None:
    caps = read(file)
    match = re.fullmatch(r"(\d+)c(\d+)g", file.stem)
    assert match, "the name tells the total: cores, and GiB"
    assert sum(caps[f"{name}_CPUS"] for name in CONTAINERS) == pytest.approx(int(match[1]))
    assert sum(caps[f"{name}_MB"] for name in CONTAINERS) == int(match[2]) * 1024


@each_cap
def test_what_the_servers_keep_in_memory_fits_into_their_containers(file: Path) -> None:
    caps = read(file)
    assert caps["MARIADB_BUFFER_POOL_MB"] <= 0.7 * caps["MARIADB_MB"]
    assert caps["KAFKA_HEAP_MB"] <= 0.6 * caps["KAFKA_MB"]
    # Rewriting the append-only file forks: pages that change meanwhile are there twice.
    assert caps["REDIS_MAXMEMORY_MB"] <= 0.5 * caps["REDIS_MB"]


@each_cap
@pytest.mark.parametrize("scale", [1, 2])
def test_mariadb_takes_the_connections_of_every_program(file: Path, scale: int) -> None:
    caps = read(file)
    # payment_service has a second pool, for the sandbox provider's book.
    payment = 2 * caps["PAYMENT_MYSQL_CONNECTIONS"]
    others = [caps[f"{name}_MYSQL_CONNECTIONS"] for name in ("CONCERT", "RESERVATION")]
    # While a new version is rolled out there are twice as many of one kind; some are for people.
    most = scale * (sum(others) + payment + max(*others, payment)) + 10
    assert most <= caps["MARIADB_MAX_CONNECTIONS"]


@each_cap
def test_compose_finds_every_value(file: Path) -> None:
    asked = set(re.findall(r"\$\{(\w+):\?\}", COMPOSE))
    told = set(read(file))
    secrets = {name for name in asked if name.endswith("_PASSWORD") or name.startswith("TOKEN_")}
    assert asked - secrets - told == {"FRONTROW_PORTS"}
    assert told - asked == set(), "nobody asks for these"
