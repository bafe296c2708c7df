"""The files of deploy/caps add up to their names, and compose.yml gets all its variables."""

import re

import pytest

from harness.containers.settings import (
    CAPS,
    PROGRAMS,
    Settings,
    placeholders,
    read_caps,
)
from harness.files import REPOSITORY

COMPOSE = (REPOSITORY / "deploy" / "compose.yml").read_text()
CONTAINERS = tuple(name.upper() for name in (*PROGRAMS, "mariadb", "redis", "kafka"))
# MB in use under the journey, as measured in docs/adr/0021-hard-caps-that-add-up.md. A gateway
# takes no more connections than fit.
USED_MB = {"QUEUE": 58, "CONCERT": 71, "RESERVATION": 73, "PAYMENT": 66}
HEADROOM = 1.25

names = sorted(file.stem for file in CAPS.glob("*.env"))
each_cap = pytest.mark.parametrize("name", names)


def test_the_documented_caps_exist() -> None:
    assert {"2c4g", "6c8g"} <= set(names)


@each_cap
def test_a_cap_is_the_total_of_all_containers(name: str) -> None:
    caps = read_caps(name)
    match = re.fullmatch(r"(\d+)c(\d+)g", name)
    assert match, "the name is the total: cores and GiB"
    assert sum(caps[f"{each}_CPUS"] for each in CONTAINERS) == pytest.approx(int(match[1]))
    assert sum(caps[f"{each}_MB"] for each in CONTAINERS) == int(match[2]) * 1024


@each_cap
def test_the_memory_of_servers_fits_into_their_containers(name: str) -> None:
    caps = read_caps(name)
    assert caps["MARIADB_BUFFER_POOL_MB"] <= 0.7 * caps["MARIADB_MB"]
    assert caps["KAFKA_HEAP_MB"] <= 0.6 * caps["KAFKA_MB"]
    # Rewriting the append-only file forks: pages that change meanwhile exist twice.
    assert caps["REDIS_MAXMEMORY_MB"] <= 0.5 * caps["REDIS_MB"]


@each_cap
def test_at_the_largest_scale_each_program_has_enough_memory(name: str) -> None:
    caps = read_caps(name)
    for program, megabytes in USED_MB.items():
        share = caps[f"{program}_MB"] // caps["SCALE_MAX"]
        assert share >= megabytes * HEADROOM, program


@pytest.mark.parametrize(
    ("name", "scale", "files"),
    # 15,000 connections at the ordinary scale; 256 files are for everything else.
    [("2c4g", 1, 15_360), ("2c4g", 2, 2_616), ("6c8g", 1, 17_379), ("6c8g", 2, 2_816)],
)
def test_the_connections_of_a_gateway_fit_into_its_memory(
    name: str, scale: int, files: int
) -> None:
    variables = Settings(CAP=name, SCALE=str(scale)).variables()
    assert variables["GATEWAY_OPEN_FILES"] == str(files)
    workers = int(variables["GATEWAY_WORKERS"])
    # A process, its full caches, half a head of 16 KiB on each connection, and the parent process.
    taken = workers * (97 + 80 + files * 18 / 1024) + (57 if workers > 1 else 0)
    assert taken <= int(variables["GATEWAY_MB"])


@each_cap
def test_at_the_largest_scale_mariadb_has_enough_connections(name: str) -> None:
    caps = read_caps(name)
    # payment_service has a second pool, for the sandbox provider's records.
    payment = 2 * caps["PAYMENT_MYSQL_CONNECTIONS"]
    others = [caps[f"{each}_MYSQL_CONNECTIONS"] for each in ("CONCERT", "RESERVATION")]
    # During a roll there are twice as many of one kind; ten are for people.
    most = caps["SCALE_MAX"] * (sum(others) + payment + max(*others, payment)) + 10
    assert most <= caps["MARIADB_MAX_CONNECTIONS"]


@each_cap
@pytest.mark.parametrize("scale", [1, 2])
def test_at_each_scale_the_containers_share_the_cap(name: str, scale: int) -> None:
    caps = read_caps(name)
    found = Settings(CAP=name, SCALE=str(scale)).variables()
    for program in (each.upper() for each in PROGRAMS):
        assert scale * float(found[f"{program}_CPUS"]) == pytest.approx(caps[f"{program}_CPUS"])
        assert scale * int(found[f"{program}_MB"]) == caps[f"{program}_MB"]


def test_compose_gets_exactly_its_variables() -> None:
    needed = set(re.findall(r"(?<!\$)\$\{(\w+):?\?\}", COMPOSE))
    assert "${" not in re.sub(r"\$\{\w+:?\?\}", "", COMPOSE), "a default belongs to Settings"
    assert set(placeholders()) == needed


def test_the_airgap_script_reads_files_that_exist() -> None:
    folder = REPOSITORY / "deploy" / "airgap"
    named = re.findall(r"\.\./[\w./-]+\w", (folder / "build.sh").read_text())
    assert "../config/kafka/pom.xml" in named
    for name in named:
        assert (folder / name).exists(), name
