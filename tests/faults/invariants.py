"""The invariants after a fault, once recovery and the consumers have done their work."""

from __future__ import annotations

from functools import partial

from harness.invariants import settled, violated
from tests.e2e.conftest import in_thread
from tests.e2e.shop import Shop


async def assert_all_hold(shop: Shop, *, within: float = 45.0) -> None:
    """Asserts that every invariant of the stores holds within so many seconds."""
    counts = await in_thread(partial(settled, shop.stores, within=within))
    assert violated(counts) == {}
