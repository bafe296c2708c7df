"""roll: a new version replaces the old one, also after failures and interruptions."""

from collections.abc import Mapping
from typing import Any

import pytest

from harness.containers.settings import PROGRAMS
from tests.harness.conftest import CONTRACT, Operator

ALL = {**dict.fromkeys(PROGRAMS, 2), "mariadb": 1, "redis": 1, "kafka": 1}
UNHEALTHY = {"health": "unhealthy"}
DYING = {"running": False, "health": "starting", "deaths": 3}


@pytest.fixture
def pair(operator: Operator) -> Operator:
    """Two of each."""
    operator.run("up", PORT=operator.port, SCALE="2")
    operator.docker.watch()
    return operator


def images(operator: Operator) -> set[int]:
    return {each.image for name in PROGRAMS for each in operator.docker.of(name)}


def test_it_replaces_each_program_and_no_server(pair: Operator) -> None:
    servers = {each.id for name in ("mariadb", "redis", "kafka") for each in pair.docker.of(name)}
    last = pair.run("roll").splitlines()[-1]
    second = int(pair.port) + 1
    assert last == f"Serving on http://127.0.0.1:{pair.port} http://127.0.0.1:{second}"
    assert pair.docker.running() == ALL
    assert images(pair) == {2}
    assert servers <= {each.id for each in pair.docker.containers}
    # No fewer at any time, except of the gateways, which have one port each.
    assert pair.docker.fewest == {**dict.fromkeys(PROGRAMS, 2), "gateway": 1}


def test_if_it_cannot_begin_nothing_is_replaced(pair: Operator) -> None:
    assert "CAP=6c8g needs make up" in pair.refused("roll", CAP="6c8g")
    pair.one("mariadb").running = False
    assert "no container of mariadb runs" in pair.refused("roll")
    assert pair.docker.image == 1, "no new image"
    pair.one("mariadb").running = True
    pair.docker.failing = "run migrate"
    assert "migration failed" in pair.refused("roll")
    assert images(pair) == {1}


def test_the_tables_are_contracted_after_the_last_program_is_replaced(pair: Operator) -> None:
    begun = len(pair.docker.log)
    pair.docker.failing = CONTRACT
    assert "run make roll again" in pair.refused("roll")
    log = pair.docker.log[begun:]
    assert log[:2] == ["build", "run migrate"], "what the version before needs stays"
    assert CONTRACT not in log
    assert images(pair) == {2}
    pair.docker.failing = None
    pair.run("roll")
    assert pair.docker.log[-1] == CONTRACT


def test_a_new_version_that_is_unhealthy_leaves_the_tables_as_the_old_one_needs_them(
    pair: Operator,
) -> None:
    contracted = pair.docker.log.count(CONTRACT)
    pair.docker.unhealthy = {("gateway", 2): UNHEALTHY}
    pair.refused("roll")
    assert pair.docker.log.count(CONTRACT) == contracted


@pytest.mark.parametrize(
    ("service", "attributes"), [*((name, UNHEALTHY) for name in PROGRAMS), ("payment", DYING)]
)
def test_an_unhealthy_new_version_is_removed_before_an_old_one_stops(
    pair: Operator, service: str, attributes: Mapping[str, Any]
) -> None:
    pair.docker.unhealthy = {(service, 2): attributes}
    error = pair.refused("roll")
    assert f"the new {service} does not become healthy" in error
    assert "ImportError" in error
    assert pair.docker.running() == ALL
    assert {each.image for each in pair.docker.of(service)} == {1}
    assert pair.docker.fewest == dict.fromkeys(PROGRAMS, 2)
    # The next build is healthy.
    pair.run("roll")
    assert pair.docker.running() == ALL
    assert images(pair) == {3}


def test_after_an_interruption_anywhere_it_can_be_repeated(pair: Operator) -> None:
    begun = len(pair.docker.log)
    pair.run("roll")
    changes = len(pair.docker.log) - begun
    assert changes > 20
    for patience in range(changes):
        pair.docker.patience = patience
        pair.interrupted("roll")
        pair.docker.patience = None
        pair.run("roll")
        assert pair.docker.running() == ALL, f"interrupted after {patience} changes"
        assert images(pair) == {pair.docker.image}
        ports = sorted(str(each.port) for each in pair.docker.of("gateway"))
        assert ports == [pair.port, str(int(pair.port) + 1)]
    assert pair.docker.fewest == {**dict.fromkeys(PROGRAMS, 2), "gateway": 1}


def test_it_replaces_stopped_containers_too(pair: Operator) -> None:
    for name in PROGRAMS:
        pair.docker.of(name)[0].stop()
    pair.run("roll")
    assert pair.docker.running() == ALL
    assert images(pair) == {2}
    assert all(pair.docker.fewest[name] >= 1 for name in PROGRAMS)


@pytest.mark.parametrize(("before", "after"), [("1", "2"), ("2", "1")])
def test_it_may_change_the_scale(operator: Operator, before: str, after: str) -> None:
    operator.run("up", PORT=operator.port, SCALE=before)
    operator.run("roll", SCALE=after)
    running = operator.docker.running()
    assert {name: running[name] for name in PROGRAMS} == dict.fromkeys(PROGRAMS, int(after))
    assert images(operator) == {2}


def test_fewer_gateways_take_the_first_ports(pair: Operator) -> None:
    first, second = pair.docker.of("gateway")
    first.port, second.port = second.port, first.port
    pair.run("roll", SCALE="1")
    assert pair.one("gateway").port == pair.port
    assert pair.docker.fewest["queue"] == 1


def test_no_container_stops_if_compose_creates_none(
    pair: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair.docker, "up", lambda *_, **__: None)
    assert "not 2 but 0 new ones of concert" in pair.refused("roll")
    assert pair.docker.running() == ALL
