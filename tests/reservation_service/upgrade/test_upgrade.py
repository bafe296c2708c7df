"""The version before and this one write to the same tables, and no claim differs from its
reservation at any moment."""

import asyncio

from tests.reservation_service.upgrade.fans import Fans
from tests.reservation_service.upgrade.rollout import roll_out
from tests.reservation_service.upgrade.versions import Versions


async def test_both_versions_write_from_the_expansion_on(versions: Versions, fans: Fans) -> None:
    await asyncio.to_thread(versions.start_version_before)
    fans.rate = 60
    await roll_out(versions, fans, seconds=3)
