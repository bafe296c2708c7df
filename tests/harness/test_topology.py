"""compose.yml and README.md repeat the topology. Constants of the services agree with it."""

import re
from functools import partial
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, Field, SecretStr

from docs.generate import PROGRAMS as DOCUMENTED
from docs.generate import settings_class
from harness import topology
from harness.containers.settings import PASSED_ON, SECRET_SETTINGS
from harness.files import REPOSITORY
from harness.topology import JOBS, PROGRAMS, SCHEMAS, SERVERS, Program
from protos import topics


class Condition(BaseModel):
    condition: str


class Healthcheck(BaseModel):
    test: list[str]


class Service(BaseModel):
    """What compose.yml says of a service, as far as it follows from the topology."""

    command: list[str] = []
    #: None: passed on if it is set.
    environment: dict[str, str | None] = {}
    ports: list[str] = []
    networks: list[str]
    depends_on: dict[str, Condition] = Field(default_factory=dict)
    healthcheck: Healthcheck | None = None


class Compose(BaseModel):
    services: dict[str, Service]
    networks: dict[str, dict[str, Any]]


COMPOSE = Compose.model_validate(
    yaml.safe_load((REPOSITORY / "deploy" / "compose.yml").read_text())
)
SERVICES = COMPOSE.services
each_program = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)

ALL_ADDRESSES = "0.0.0.0"
CONTAINER_PORTS = {server.name: server.container_port for server in SERVERS}
settings_in_containers = partial(
    topology.settings,
    listen=lambda name: f"{ALL_ADDRESSES}:{topology.PORTS[name]}",
    target=lambda name: f"dns:///{name}:{topology.PORTS[name]}",
    mysql_url=lambda schema: (
        f"mysql://{schema}:${{MYSQL_{schema.upper()}_PASSWORD:?}}"
        f"@mariadb:{CONTAINER_PORTS['mariadb']}/{schema}"
    ),
    redis_url=f"redis://:${{REDIS_PASSWORD:?}}@redis:{CONTAINER_PORTS['redis']}/0",
    kafka_bootstrap=f"kafka:{CONTAINER_PORTS['kafka']}",
    token_keys="${TOKEN_KEYS:?}",
    token_signing_key_id="${TOKEN_SIGNING_KEY_ID:?}",
    admin_token="${ADMIN_TOKEN:?}",
)


def test_compose_has_these_containers_and_no_other() -> None:
    assert set(SERVICES) == {each.name for each in (*PROGRAMS, *SERVERS, *JOBS)}


@each_program
def test_a_container_fits_its_program(program: Program) -> None:
    """Its command, settings, networks and health check follow from the table."""
    service = SERVICES[program.name]
    assert service.command == ["python", "-m", program.module]
    expected = settings_in_containers(program)
    assert {name: service.environment.get(name) for name in expected} == expected
    # Except for the allocator's options, which are a constant of containers.
    others = [
        value
        for name, value in service.environment.items()
        if name not in expected and name != "_RJEM_MALLOC_CONF"
    ]
    assert all(value is None or re.fullmatch(r"\$\{\w+:?\?\}", value) for value in others)
    assert set(service.networks) == {"services", *program.servers, *program.networks}
    assert bool(service.ports) == (program.name == "gateway")
    if program.admin_port:
        assert service.ports[1] == f"127.0.0.1:${{FRONTROW_ADMIN_PORTS:?}}:{program.admin_port}"
    assert service.healthcheck
    port, path = program.health_check
    assert service.healthcheck.test[-2:] == [str(port), path]


@each_program
def test_settings_that_are_passed_on_are_settings_of_the_program(program: Program) -> None:
    """And all secrets among them are kept as such."""
    fields = {
        f"{program.prefix}{name}".upper(): field
        for name, field in settings_class(program.module).model_fields.items()
    }
    environment = SERVICES[program.name].environment
    passed_on = {name for name, value in environment.items() if value is None}
    assert passed_on <= fields.keys() & set(PASSED_ON)
    secret = {name for name in passed_on if fields[name].annotation is SecretStr}
    assert secret <= set(SECRET_SETTINGS)


@pytest.mark.parametrize("chapter", ["Limits", "A challenge at entry", "How long rows are kept"])
def test_what_operators_are_advised_to_set_can_be_set_for_containers(chapter: str) -> None:
    operations = (REPOSITORY / "docs" / "operations.md").read_text()
    text = operations.split(f"\n## {chapter}\n")[1].split("\n## ")[0]
    fields = {
        f"{program.prefix}{name}".upper()
        for program in PROGRAMS
        for name in settings_class(program.module).model_fields
    }
    advised = fields.intersection(re.findall(r"[A-Z_]+", text))
    assert advised
    assert advised <= {name for service in SERVICES.values() for name in service.environment}


@each_program
def test_a_container_starts_after_what_its_program_needs(program: Program) -> None:
    jobs = {job.name for job in JOBS}
    assert {name: each.condition for name, each in SERVICES[program.name].depends_on.items()} == {
        name: "service_completed_successfully" if name in jobs else "service_healthy"
        for name in program.starts_after
    }
    # Directly, or by way of a job or of a program that it waits for.
    assert set(program.servers) <= _needed_by(program.name)


def _needed_by(name: str) -> set[str]:
    direct = SERVICES[name].depends_on
    return {*direct}.union(*map(_needed_by, direct))


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_job_has_its_servers_and_starts_after_them(job: topology.Job) -> None:
    service = SERVICES[job.name]
    assert set(service.networks) == set(job.servers)
    assert set(service.depends_on) == set(job.starts_after)


def test_the_first_job_migrates_every_schema_and_creates_the_topics() -> None:
    script = SERVICES["migrate"].command[-1].split("\n")
    owners = [program.module for program in PROGRAMS if program.schema]
    expected = {f"python -m servicekit.migrate {module} --expand" for module in owners}
    assert {line for line in script if line} == {*expected, "python -m protos.topics"}


def test_each_server_is_alone_in_its_network_and_only_two_networks_lead_out() -> None:
    for server in SERVERS:
        assert SERVICES[server.name].networks == [server.name]
        assert SERVICES[server.name].healthcheck
    internal = {name for name, network in COMPOSE.networks.items() if network.get("internal")}
    assert set(COMPOSE.networks) - internal == {"outside", "provider"}


def test_mariadb_creates_the_schemas() -> None:
    assert set(SERVICES["mariadb"].environment) == {f"MYSQL_{s.upper()}_PASSWORD" for s in SCHEMAS}
    start = (REPOSITORY / "deploy" / "config" / "mariadb" / "start.sh").read_text()
    assert f"for schema in {' '.join(SCHEMAS)}; do" in start


@each_program
def test_the_settings_of_the_topology_are_settings_of_the_program(program: Program) -> None:
    """Under the same names, and with the ports of `make run` as defaults."""
    fields = settings_class(program.module).model_fields
    required = settings_in_containers(program)
    assert required.keys() <= {(program.prefix + name).upper() for name in fields}
    assert fields["listen"].default == f"127.0.0.1:{program.port}"
    assert fields["metrics_listen"].default == f"127.0.0.1:{program.metrics_port}"
    if program.admin_port:
        assert fields["admin_listen"].default == f"127.0.0.1:{program.admin_port}"
    for name in program.calls:
        assert fields[f"{name}_addr"].default == f"127.0.0.1:{topology.PORTS[name]}"


def test_the_documentation_describes_every_program() -> None:
    assert set(DOCUMENTED) == topology.BY_MODULE.keys()


@each_program
def test_the_readme_has_its_ports_and_its_schema(program: Program) -> None:
    readme = (REPOSITORY / "README.md").read_text()
    (row,) = re.findall(rf"^\| \[{program.module}\].*$", readme, re.MULTILINE)
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[2:4] == [str(program.port), str(program.metrics_port)]
    assert (f"MariaDB `{program.schema}`" in cells[4]) == (program.schema is not None)


def test_every_event_topic_has_a_publisher_and_dead_letters() -> None:
    published = {program.publishes for program in PROGRAMS if program.publishes}
    consumed = {program.consumes for program in PROGRAMS if program.consumes}
    assert consumed <= published
    assert set(topics.TOPICS) == published | {f"{topic}.dlq" for topic in published}


@each_program
def test_a_consumer_has_a_group(program: Program) -> None:
    group = getattr(topics, f"{program.name.upper()}_GROUP", None)
    assert group == (program.module if program.consumes else None)


def test_the_image_carries_the_programs_and_not_the_harness() -> None:
    dockerfile = (REPOSITORY / "deploy" / "Dockerfile").read_text()
    copied = set(re.findall(r"^COPY (\w+)/ \1/$", dockerfile, re.MULTILINE))
    shared = {"protos", "servicekit", "catalogue_view", "room_view", "seat_maps"}
    assert copied == shared | {program.module for program in PROGRAMS}
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    admitted = {line[1:] for line in ignored if line.startswith("!")}
    assert copied <= admitted
    assert not {"harness", "loadtests", "tests", "deploy"} & admitted
