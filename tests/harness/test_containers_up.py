"""up and down: what they leave behind, and what they print."""

from tests.harness.conftest import Operator


def test_an_image_that_cannot_be_built_leaves_no_container(operator: Operator) -> None:
    operator.docker.failing = "build"
    assert "could not be built" in operator.refused("up", PORT=operator.port)
    assert operator.docker.containers == []
    assert operator.docker.containers == []


def test_down_without_a_stack_leaves_nothing(operator: Operator) -> None:
    for data in ("keep", "delete"):
        assert operator.run("down", DATA=data) == "Nothing of frontrow is there.\n"
    assert operator.docker.log == []
    assert not operator.state.exists()


def test_down_reports_whether_the_data_is_kept(operator: Operator) -> None:
    operator.run("up", PORT=operator.port)
    kept = "The data and the passwords of frontrow are kept: make down DATA=delete deletes them.\n"
    assert operator.run("down") == kept
    assert operator.docker.volumes
    # Compose would complain about missing networks, so it is not called again.
    assert operator.run("down") == kept
    assert operator.docker.log[-1] == "down"
    deleted = "The data and the passwords of frontrow are deleted.\n"
    assert operator.run("down", DATA="delete") == deleted
    assert operator.docker.log[-2:] == ["down", "volume rm"]
    assert not operator.docker.volumes
    assert operator.run("down", DATA="delete") == "Nothing of frontrow is there.\n"


def test_down_deletes_the_data_on_request(operator: Operator) -> None:
    operator.run("up", PORT=operator.port)
    assert "are deleted" in operator.run("down", DATA="delete")
    assert not operator.docker.containers
    assert not operator.docker.networks
    assert not operator.docker.volumes


def test_down_after_a_failed_start_reports_the_passwords(
    operator: Operator,
) -> None:
    operator.docker.failing = "build"
    operator.refused("up", PORT=operator.port)
    assert operator.run("down").startswith("The passwords of frontrow are kept")


def test_down_removes_what_another_checkout_started(operator: Operator) -> None:
    operator.run("up", PORT=operator.port)
    for file in operator.state.iterdir():
        file.unlink()
    operator.run("down")
    assert not operator.docker.containers
