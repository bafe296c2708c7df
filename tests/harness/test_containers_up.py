"""up and down: what they leave behind, and what they say of it."""

from tests.harness.conftest import Operator


def test_an_image_that_cannot_be_built_leaves_no_container(operator: Operator) -> None:
    operator.docker.failing = "build"
    assert "could not be built" in operator.refused("up", PORT=operator.port)
    assert operator.docker.steps == []
    assert operator.docker.containers == []


def test_down_where_nothing_is_there_says_so_and_leaves_nothing(operator: Operator) -> None:
    for data in ("keep", "delete"):
        assert operator.run("down", DATA=data) == "Nothing of frontrow is there.\n"
    assert operator.docker.log == []
    assert not operator.state.exists()


def test_down_says_what_became_of_the_data(operator: Operator) -> None:
    operator.run("up", PORT=operator.port)
    kept = "The data and the passwords of frontrow are kept: make down DATA=delete deletes them.\n"
    assert operator.run("down") == kept
    assert operator.docker.volumes
    # Compose, which would complain of each network that is not there, is not asked again.
    assert operator.run("down") == kept
    assert operator.docker.log[-1] == "down"
    gone = "The data and the passwords of frontrow are deleted.\n"
    assert operator.run("down", DATA="delete") == gone
    assert operator.docker.log[-2:] == ["down", "volume rm"]
    assert not operator.docker.volumes
    assert operator.run("down", DATA="delete") == "Nothing of frontrow is there.\n"


def test_down_removes_all_at_once_if_told_to(operator: Operator) -> None:
    operator.run("up", PORT=operator.port)
    assert "are deleted" in operator.run("down", DATA="delete")
    assert not operator.docker.containers
    assert not operator.docker.networks
    assert not operator.docker.volumes


def test_after_a_start_that_made_nothing_but_passwords_down_tells_of_these(
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
