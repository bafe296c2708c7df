"""up and down: what they leave behind, and what they say of it."""

from tests.deploy.conftest import Operator


def test_an_image_that_cannot_be_built_leaves_no_container(operator: Operator) -> None:
    operator.docker.failing = "build"
    assert "could not be built" in operator.refused("up", PORT=operator.port)
    assert operator.docker.steps == []
    assert operator.docker.containers == []
