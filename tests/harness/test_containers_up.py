"""up and down: what they leave behind, and what they print."""

from tests.harness.conftest import CONTRACT, Operator

KEPT = "The data and the passwords of frontrow are kept: make down DATA=delete deletes them.\n"
DELETED = "The data and the passwords of frontrow are deleted.\n"
NOTHING = "Nothing of frontrow is there.\n"


def test_down_without_a_stack_leaves_nothing(operator: Operator) -> None:
    for data in ("keep", "delete"):
        assert operator.run("down", DATA=data) == NOTHING
    assert operator.docker.log == []
    assert not operator.state.exists()


def test_down_keeps_data_passwords_and_settings(operator: Operator) -> None:
    operator.run("up", PORT=operator.port, SCALE="2")
    assert "DATA must be keep or delete" in operator.refused("down", DATA="Delete")
    assert operator.docker.containers
    assert operator.run("down") == KEPT
    assert operator.docker.volumes
    # Compose would complain about missing networks, so it is not called again.
    assert operator.run("down") == KEPT
    assert operator.docker.log[-1] == "down"
    operator.run("up")
    assert operator.docker.running()["gateway"] == 2


def test_down_deletes_the_data_on_request_also_later(operator: Operator) -> None:
    for last in ("down", "volume rm"):
        operator.run("up", PORT=operator.port)
        if last == "volume rm":
            operator.run("down")
        assert operator.run("down", DATA="delete") == DELETED
        assert operator.docker.log[-1] == last
        left = (operator.docker.containers, operator.docker.networks, operator.docker.volumes)
        assert left == ([], set(), set())
        assert operator.run("down", DATA="delete") == NOTHING


def test_up_contracts_the_tables_when_every_program_is_healthy(operator: Operator) -> None:
    operator.docker.unhealthy = {("gateway", 1): {"health": "unhealthy"}}
    operator.refused("up", PORT=operator.port)
    assert operator.docker.log == ["build", "up"]
    operator.docker.unhealthy = {}
    operator.docker.failing = CONTRACT
    assert "run make up again" in operator.refused("up")
    operator.docker.failing = None
    operator.run("up")
    assert operator.docker.log[-2:] == ["up", CONTRACT]


def test_a_failed_build_leaves_the_passwords_and_no_container(operator: Operator) -> None:
    operator.docker.failing = "build"
    assert "could not be built" in operator.refused("up", PORT=operator.port)
    assert operator.docker.containers == []
    assert operator.run("down").startswith("The passwords of frontrow are kept")


def test_down_removes_what_another_checkout_started(operator: Operator) -> None:
    operator.run("up", PORT=operator.port)
    for file in operator.state.iterdir():
        file.unlink()
    operator.run("down")
    assert not operator.docker.containers
