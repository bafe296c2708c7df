"""What a container may use and do: its caps, read from the kernel, and nothing beyond its work."""

import json
import re
import time
from pathlib import Path

import pytest

from deploy.local.servers import REPOSITORY
from tests.containers.stack import PROGRAMS, SERVERS, Containers, caps, docker
from tests.e2e.shop import Shop

SERVICES = (*PROGRAMS, *SERVERS)
CAP = caps("2c4g")
# Field of /proc/<pid>/status → what it must be of every process in every container.
_LOCKED = {"CapEff": "0000000000000000", "CapBnd": "0000000000000000", "NoNewPrivs": "1"}
_SECCOMP_FILTER = "2"


async def test_a_ticket_can_be_bought(shop: Shop) -> None:
    fan = await shop.admitted()
    seat = shop.new_schedule(seats=1).seats[0]
    paid = await fan.pay_to_the_end(await fan.hold(seat))
    assert paid.json()["status"] == "SUCCEEDED", paid.text
    await fan.until_out()


def test_the_caps_are_in_force(stack: Containers) -> None:
    running = stack.all()
    assert sorted(each.service for each in running) == sorted(SERVICES)
    for each in running:
        name = each.service.upper()
        assert each.cgroup.cores() == pytest.approx(CAP[f"{name}_CPUS"]), name
        assert each.cgroup.memory_limit() == CAP[f"{name}_MB"] * 2**20, name
    assert sum(each.cgroup.cores() or 99 for each in running) <= 2.001
    assert sum(each.cgroup.memory_limit() or 1 << 50 for each in running) <= 4 * 2**30


def test_no_container_gets_more_processor_time_than_its_cap(stack: Containers) -> None:
    queue = stack.one("queue")
    waited, _ = queue.cgroup.throttled()
    before, began = queue.cgroup.cpu_seconds(), time.monotonic()
    busy = "import time\nend = time.monotonic() + 4\nwhile time.monotonic() < end: pass"
    stack.execute("queue", "python", "-c", busy)
    used = (queue.cgroup.cpu_seconds() - before) / (time.monotonic() - began)
    # It wants a whole core, as far as the machine has one to spare.
    assert used < CAP["QUEUE_CPUS"] * 1.15
    assert queue.cgroup.throttled()[0] > waited + 10


def test_no_container_gets_more_memory_than_its_cap(stack: Containers) -> None:
    hungry = f"x = bytearray({int(CAP['CONCERT_MB'])} << 20)"
    code = docker(
        "exec", stack.one("concert").name, "sh", "-c", f"python -c '{hungry}'; echo $?", check=False
    )
    assert code == "137"
    # The kernel chose the hungry one, and the service goes on.
    assert stack.one("concert").cgroup.memory() < CAP["CONCERT_MB"] * 2**20


def test_the_servers_keep_within_their_caps_by_themselves(stack: Containers) -> None:
    pool = stack.sql("SELECT @@innodb_buffer_pool_size, @@max_connections").split()
    assert int(pool[0]) == CAP["MARIADB_BUFFER_POOL_MB"] * 2**20
    assert int(pool[1]) == CAP["MARIADB_MAX_CONNECTIONS"]
    memory = stack.execute("redis", "redis-cli", "CONFIG", "GET", "maxmemory*").split()
    told = dict(zip(memory[::2], memory[1::2], strict=True))
    assert int(told["maxmemory"]) == CAP["REDIS_MAXMEMORY_MB"] * 2**20
    assert told["maxmemory-policy"] == "noeviction"
    java = Path(f"/proc/{stack.one('kafka').cgroup.pid}/cmdline").read_text().split("\0")
    assert f"-Xmx{int(CAP['KAFKA_HEAP_MB'])}m" in java
    # Beside the heap, the pool and the data there must be room for the rest of the process.
    assert CAP["KAFKA_HEAP_MB"] <= 0.6 * CAP["KAFKA_MB"]
    assert CAP["MARIADB_BUFFER_POOL_MB"] <= 0.7 * CAP["MARIADB_MB"]
    # Rewriting the append-only file forks: pages that change meanwhile are there twice.
    assert CAP["REDIS_MAXMEMORY_MB"] <= 0.5 * CAP["REDIS_MB"]


def test_only_the_gateway_publishes_a_port(stack: Containers) -> None:
    published = {
        each.service: docker("port", each.name).splitlines()
        for each in stack.all()
        if docker("port", each.name)
    }
    assert published == {"gateway": [f"8080/tcp -> 127.0.0.1:{stack.port}"]}


def test_who_is_outside_reaches_nothing_behind_the_gateway(stack: Containers) -> None:
    """From the gateway's own outer network; nor do those within reach what is without."""
    inner = {
        "mariadb": (stack.one("mariadb").addresses["mariadb"], 3306),
        "redis": (stack.one("redis").addresses["redis"], 6379),
        "kafka": (stack.one("kafka").addresses["kafka"], 9092),
        "queue": (stack.one("queue").addresses["services"], 9101),
    }
    for name, (host, port) in inner.items():
        assert not _connects(f"{stack.project}_outside", host, port), name
    assert _connects(f"{stack.project}_services", inner["queue"][0], 9101)
    assert not _connects(f"{stack.project}_services", inner["redis"][0], 6379)
    outer = stack.one("gateway").addresses["outside"]
    assert _connects(f"{stack.project}_outside", outer, 8080)
    for network in ("services", "mariadb", "redis", "kafka"):
        assert not _connects(f"{stack.project}_{network}", outer, 8080), network


def _connects(network: str, host: str, port: int) -> bool:
    code = (
        "import socket, sys\n"
        f"try: socket.create_connection(({host!r}, {port}), timeout=2)\n"
        "except OSError: sys.exit(9)"
    )
    ran = docker(
        *("run", "--rm", "--network", network, "frontrow:local", "sh", "-c"),
        'python -c "$1"; echo $?',
        "sh",
        code,
        check=False,
    )
    return ran == "0"


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
def test_the_file_system_is_read_only(stack: Containers, service: str) -> None:
    name = stack.one(service).name
    for place in ("/", "/etc", "/usr/bin", "/opt", "/var"):
        ran = docker("exec", name, "sh", "-c", f"touch {place}/x 2>&1; echo $?", check=False)
        assert not ran.endswith("0") or "Read-only" in ran or "denied" in ran, ran
    mounts = json.loads(docker("inspect", "--format", "{{json .Mounts}}", name))
    writable = {mount["Destination"] for mount in mounts if mount["RW"]}
    assert writable <= {"/var/lib/mysql", "/data", "/var/lib/kafka/data"}
    assert docker("inspect", "--format", "{{.HostConfig.ReadonlyRootfs}}", name) == "true"
    volumes = [mount["Name"] for mount in mounts if mount["Type"] == "volume"]
    assert all(volume.startswith(f"{stack.project}_") for volume in volumes), "an anonymous one"


def test_the_image_has_nothing_to_build_with(stack: Containers) -> None:
    look = "for name in pip pip3 gcc cc c++ make ld; do command -v $name; done; true"
    assert stack.execute("gateway", "sh", "-c", look) == ""
    for module in ("pip", "ensurepip", "setuptools"):
        find = f"import importlib.util as u; print(u.find_spec({module!r}))"
        assert stack.execute("gateway", "python", "-c", find) == "None"


@pytest.mark.parametrize("service", SERVICES)
def test_logs_are_rotated_and_what_dies_is_started_again(stack: Containers, service: str) -> None:
    host = json.loads(
        docker("inspect", "--format", "{{json .HostConfig}}", stack.one(service).name)
    )
    assert host["LogConfig"]["Type"] == "json-file"
    assert set(host["LogConfig"]["Config"]) == {"max-size", "max-file"}
    assert host["RestartPolicy"]["Name"] == "unless-stopped"


def test_secrets_are_in_no_image_and_for_their_owner_alone(stack: Containers) -> None:
    file = REPOSITORY / ".local" / "containers" / f"{stack.project}.env"
    assert file.stat().st_mode & 0o777 == 0o600
    secrets = re.findall(r"[0-9a-f]{48,}", file.read_text())
    assert len(secrets) == 5
    described = docker("inspect", "frontrow:local") + docker(
        "history", "--no-trunc", "frontrow:local"
    )
    assert not any(secret in described for secret in secrets)
