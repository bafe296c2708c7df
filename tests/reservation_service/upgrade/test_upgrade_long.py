"""The upgrade with a million reservations, while the version before writes 210 times a second."""

import asyncio
from functools import partial

import pytest

from tests.reservation_service.upgrade.fans import Fans
from tests.reservation_service.upgrade.filling import fill
from tests.reservation_service.upgrade.rollout import roll_out
from tests.reservation_service.upgrade.versions import Versions

RESERVATIONS = 1_000_000
#: Stories of fans in a second: each holds a seat, most do two more things, and the sweep expires
#: what they leave. Together 210 writes.
STORIES = 85.0
#: A change of a table may make writers wait for a second, and those have to be served then.
MOST_SECONDS = 3.0


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_million_reservations_are_upgraded_while_fans_shop(
    versions: Versions, fans: Fans, capsys: pytest.CaptureFixture[str]
) -> None:
    """They wait for the copy of the tables, some of them in vain, and for nothing else."""
    fans.tolerated = {"TIMEOUT", "UNAVAILABLE"}
    await asyncio.to_thread(versions.start_version_before, partial(fill, reservations=RESERVATIONS))
    fans.rate = STORIES
    waits = await roll_out(versions, fans, seconds=10, check_seconds=30)
    shown = ", ".join(f"{phase} {wait * 1000:.0f}" for phase, wait in waits.items())
    with capsys.disabled():
        print(f"\nlongest wait for an answer, ms: {shown}; {fans.writes_per_second:.0f} writes/s")
    assert max(wait for phase, wait in waits.items() if phase != "expanding") < MOST_SECONDS
