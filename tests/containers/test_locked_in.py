"""The caps of each container, read from the kernel, and the privileges that it does not have."""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from harness import topology
from harness.containers.settings import read_caps
from harness.files import REPOSITORY
from loadtests.containers import Cgroup
from tests.containers.stack import PROGRAMS, SERVERS, Containers, docker

SERVICES = (*PROGRAMS, *SERVERS)
CAP = read_caps("2c4g")
# Field of /proc/<pid>/status → its value for every process in every container.
_LOCKED = {"CapEff": "0000000000000000", "CapBnd": "0000000000000000", "NoNewPrivs": "1"}
_SECCOMP_FILTER = "2"


def test_the_caps_are_in_force(stack: Containers) -> None:
    running = stack.all()
    assert sorted(each.service for each in running) == sorted(SERVICES)
    for each in running:
        name = each.service.upper()
        assert Cgroup(each.pid).cores() == pytest.approx(CAP[f"{name}_CPUS"]), name
        assert Cgroup(each.pid).memory_limit() == CAP[f"{name}_MB"] * 2**20, name
    assert sum(Cgroup(each.pid).cores() or 99 for each in running) <= 2.001
    assert sum(Cgroup(each.pid).memory_limit() or 1 << 50 for each in running) <= 4 * 2**30


def test_no_container_gets_more_processor_time_than_its_cap(stack: Containers) -> None:
    queue = stack.one("queue")
    waited, _ = Cgroup(queue.pid).throttled()
    before, began = Cgroup(queue.pid).cpu_seconds(), time.monotonic()
    busy = "import time\nend = time.monotonic() + 4\nwhile time.monotonic() < end: pass"
    stack.execute("queue", "python", "-c", busy)
    used = (Cgroup(queue.pid).cpu_seconds() - before) / (time.monotonic() - began)
    # It tries to use a whole core.
    assert used < CAP["QUEUE_CPUS"] * 1.15
    assert Cgroup(queue.pid).throttled()[0] > waited + 10


def test_no_container_gets_more_memory_than_its_cap(stack: Containers) -> None:
    hungry = f"python -c 'bytearray({int(CAP['CONCERT_MB'])} << 20)'; echo $?"
    assert stack.execute("concert", "sh", "-c", hungry) == "137"
    # The kernel killed only that process, and the service continues.
    assert Cgroup(stack.one("concert").pid).memory() < CAP["CONCERT_MB"] * 2**20


def test_the_servers_are_configured_for_their_caps(stack: Containers) -> None:
    with stack.administrator("concert") as cursor:
        cursor.execute("SELECT @@innodb_buffer_pool_size, @@max_connections")
        mariadb = (CAP["MARIADB_BUFFER_POOL_MB"] * 2**20, CAP["MARIADB_MAX_CONNECTIONS"])
        assert cursor.fetchone() == mariadb
    memory = stack.execute("redis", "redis-cli", "CONFIG", "GET", "maxmemory*").split()
    redis = dict(zip(memory[::2], memory[1::2], strict=True))
    assert int(redis["maxmemory"]) == CAP["REDIS_MAXMEMORY_MB"] * 2**20
    assert redis["maxmemory-policy"] == "noeviction"
    java = Path(f"/proc/{stack.one('kafka').pid}/cmdline").read_text().split("\0")
    assert f"-Xmx{int(CAP['KAFKA_HEAP_MB'])}m" in java


def test_only_the_gateway_publishes_ports(stack: Containers) -> None:
    published = {each.service: {*docker("port", each.name).splitlines()} for each in stack.all()}
    gateway = {
        f"8080/tcp -> 127.0.0.1:{stack.port}",
        f"8081/tcp -> 127.0.0.1:{stack.admin_port}",
    }
    assert published == {**{name: set() for name in SERVICES}, "gateway": gateway}


# Container → the network of its callers, and its port.
_INNER = {
    **{server.name: (server.name, server.container_port) for server in topology.SERVERS},
    **{
        program.name: ("services", program.port)
        for program in topology.PROGRAMS
        if program.name != "gateway"
    },
}


@pytest.mark.parametrize("service", _INNER)
def test_nothing_behind_the_gateway_is_reachable_from_outside(
    stack: Containers, service: str
) -> None:
    """Neither from the gateway's outer network nor from the one that leads to the payment provider;
    a server only from its own network."""
    network, port = _INNER[service]
    address = stack.one(service).addresses[network]
    assert _connects(stack, network, address, port), "its callers reach it"
    # payment_service has another address in `provider`.
    for other in {"outside", "provider", *(network for network, _ in _INNER.values())} - {network}:
        assert not _connects(stack, other, address, port), other


def test_the_outer_port_is_not_reachable_from_inside(stack: Containers) -> None:
    outer = stack.one("gateway").addresses["outside"]
    assert _connects(stack, "outside", outer, 8080)
    for network in sorted({network for network, _ in _INNER.values()}):
        assert not _connects(stack, network, outer, 8080), network


def _connects(stack: Containers, network: str, host: str, port: int) -> bool:
    """Whether a container that is only in this network can connect."""
    code = (
        "import socket\n"
        f"try: socket.create_connection(({host!r}, {port}), timeout=2)\n"
        "except OSError: print('no')\n"
        "else: print('yes')"
    )
    output = docker(
        *("run", "--rm", "--network", f"{stack.project}_{network}"),
        *("frontrow:local", "python", "-c", code),
    )
    assert output in ("yes", "no"), output
    return output == "yes"


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_runs_as_root_or_can_become_it(stack: Containers, service: str) -> None:
    container = stack.one(service)
    pids = docker("top", container.name, "-eo", "pid").splitlines()[1:]
    assert pids
    for pid in pids:
        lines = Path(f"/proc/{pid.strip()}/status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        assert "0" not in status["Uid"].split(), service
        assert "0" not in status["Gid"].split(), service
        assert {field: status[field].strip() for field in _LOCKED} == _LOCKED
        assert status["Seccomp"].strip() == _SECCOMP_FILTER


@pytest.mark.parametrize("service", SERVICES)
def test_the_file_system_is_read_only_and_logs_are_rotated(stack: Containers, service: str) -> None:
    name = stack.one(service).name
    for place in ("/", "/etc", "/usr/bin", "/opt", "/var"):
        # As root, whom owner and mode of the folder admit.
        ran = docker("exec", "--user", "0", name, "sh", "-c", f"touch {place}/x 2>&1; echo $?")
        assert ran.endswith("Read-only file system\n1"), ran
    mounts = json.loads(docker("inspect", "--format", "{{json .Mounts}}", name))
    writable = {mount["Destination"] for mount in mounts if mount["RW"]}
    assert writable <= {"/var/lib/mysql", "/data", "/var/lib/kafka/data"}
    host = json.loads(docker("inspect", "--format", "{{json .HostConfig}}", name))
    assert host["ReadonlyRootfs"]
    assert host["LogConfig"]["Type"] == "json-file"
    assert set(host["LogConfig"]["Config"]) == {"max-size", "max-file"}
    volumes = [mount["Name"] for mount in mounts if mount["Type"] == "volume"]
    assert all(volume.startswith(f"{stack.project}_") for volume in volumes), "an anonymous one"


def test_the_image_has_nothing_to_build_with(stack: Containers) -> None:
    command = "for name in pip pip3 gcc cc c++ make ld; do command -v $name; done; true"
    assert stack.execute("gateway", "sh", "-c", command) == ""
    for module in ("pip", "ensurepip", "setuptools"):
        find = f"import importlib.util as u; print(u.find_spec({module!r}))"
        assert stack.execute("gateway", "python", "-c", find) == "None"


def test_the_image_does_not_depend_on_the_umask_of_the_checkout(
    stack: Containers, tmp_path: Path
) -> None:
    """The programs run as a user who owns none of their files."""
    checkout, tag = tmp_path / "checkout", f"frontrow:{stack.project}-umask"
    unused = shutil.ignore_patterns(".git", ".venv", ".local", ".*cache", "__pycache__")
    shutil.copytree(REPOSITORY, checkout, ignore=unused)
    # Wheels keep their mode, so that Docker's cache for the installed packages stays valid.
    for path in checkout.rglob("*"):
        if "wheels" not in path.parts and path.name != "requirements.lock":
            path.chmod(0o700 if path.is_dir() else 0o600)
    arguments = ("--build-arg", "PIP_INDEX_URL", "--file", f"{checkout}/deploy/Dockerfile")
    command = ["docker", "build", "--quiet", "--tag", tag, *arguments, str(checkout)]
    subprocess.run(command, check=True, timeout=600, stdout=subprocess.DEVNULL)
    try:
        # Reads every file, imports every module of a program.
        script = (
            f"find /opt/frontrow ! -readable; for program in {' '.join(topology.BY_MODULE)};"
            ' do python -c "import $program.__main__"; done'
        )
        assert docker("run", "--rm", tag, "sh", "-ec", script) == ""
    finally:
        docker("rmi", tag)


def test_secrets_are_in_no_image_and_readable_by_their_owner_only(stack: Containers) -> None:
    file = REPOSITORY / ".local" / "containers" / f"{stack.project}.env"
    assert file.stat().st_mode & 0o777 == 0o600
    secrets = re.findall(r"[0-9a-f]{48,}", file.read_text())
    assert len(secrets) == 6
    described = docker("inspect", "frontrow:local") + docker(
        "history", "--no-trunc", "frontrow:local"
    )
    assert not any(secret in described for secret in secrets)
