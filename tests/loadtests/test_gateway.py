"""What the gateway is asked beside the load."""

import pytest

from harness.errors import UserError
from loadtests import gateway


@pytest.mark.parametrize("token", ["", "a", "a.b.c", "a.e30.c", "a.eyJwbGFjZSI6IngifQ.c"])
def test_tokens_of_another_kind(token: str) -> None:
    with pytest.raises(UserError, match="another kind"):
        gateway.claims(token)
