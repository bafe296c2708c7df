"""The commands of docs/reserving.md do what the page says."""

import json
import os
import re
import subprocess
from decimal import Decimal
from pathlib import Path

from gateway.schemas import Hold
from tests.e2e.conftest import in_thread
from tests.e2e.shop import PRICE, Shop, new_user_id


async def test_the_examples_hold_seats(shop: Shop, repository: Path) -> None:
    page = (repository / "docs" / "reserving.md").read_text()
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE))
    schedule = shop.new_schedule(seats=9)
    chosen = {
        "URL": shop.url(),
        "USER_ID": str(new_user_id()),
        "CONCERT": str(schedule.concert_id),
        "no_proxy": "127.0.0.1",
    }

    def run() -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            env=os.environ | chosen,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    # One, two chosen ones, the best three, and two with a key, twice.
    holds = [Hold.model_validate(json.loads(line)) for line in (await in_thread(run)).splitlines()]
    assert [len(hold.seats) for hold in holds] == [1, 2, 3, 2, 2]
    assert holds[3] == holds[4]
    for hold in holds:
        assert Decimal(hold.price) == len(hold.seats) * Decimal(PRICE)
    held = [seat.id for hold in holds[:4] for seat in hold.seats]
    assert len(set(held)) == 8
    assert set(held) < set(schedule.seats)
