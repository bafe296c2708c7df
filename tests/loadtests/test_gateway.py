"""What the gateway is asked beside the load."""

import pytest

from loadtests import gateway
from loadtests.errors import CannotTest


@pytest.mark.parametrize("token", ["", "a", "a.b.c", "a.e30.c", "a.eyJwbGFjZSI6IngifQ.c"])
def test_tokens_of_another_kind(token: str) -> None:
    with pytest.raises(CannotTest, match="another kind"):
        gateway.claims(token)
