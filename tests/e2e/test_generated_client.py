"""A client that openapi-python-client generates from the OpenAPI document buys two tickets."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from tests.e2e.conftest import in_thread
from tests.e2e.shop import PRICE, Shop, eventually, new_user_id

FOLDER = Path(__file__).parent / "openapi_client"
LOCK = FOLDER / "requirements.lock"


def run(*command: str | Path, **environment: str) -> str:
    """Runs a command and returns its output. Fails with its errors."""
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | environment, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def ensure_environment(folder: Path) -> Path:
    """Returns the programs of a virtual environment with exactly the packages of the lock.

    Makes the environment in `folder` unless it fits the lock and this Python already. The first
    time takes about 10 s and needs a package index.
    """
    wanted = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()
    stamp = folder / "stamp"
    folder.parent.mkdir(exist_ok=True)
    with folder.with_suffix(".lock").open("w") as guard:  # two test runs may share the folder
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            run(sys.executable, "-m", "venv", "--without-pip", folder)
            pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python")
            run(*pip, "install", "--no-input", "--require-hashes", "-r", LOCK)
            stamp.write_text(wanted)
    return folder / "bin"


@pytest.mark.timeout(600)  # the first run downloads packages
async def test_a_generated_client_buys_two_tickets(
    shop: Shop, repository: Path, tmp_path: Path
) -> None:
    programs = await in_thread(ensure_environment, repository / ".local" / "openapi-client")
    url = shop.url()
    await in_thread(
        run,
        programs / "openapi-python-client",
        "generate",
        f"--url={url}/openapi.json",
        f"--config={FOLDER / 'config.yml'}",
        f"--output-path={tmp_path / 'frontrow_client'}",
        "--meta=none",
        "--fail-on-warning",
    )
    schedule = shop.new_schedule()
    user_id = new_user_id()

    def buy() -> str:
        arguments = (url, str(user_id), str(schedule.concert_id))
        return run(
            programs / "python", FOLDER / "buy_tickets.py", *arguments, PYTHONPATH=str(tmp_path)
        )

    bought = json.loads(await in_thread(buy))
    reservation_id = bought.pop("reservation")
    assert bought == {
        "refused": "INVALID_TOKEN",
        "concerts": 1,
        "held": schedule.seats[:2],
        "price": str(2 * Decimal(PRICE)),
        "payment": "SUCCEEDED",
        "seats": ["T1", "T2"],
    }

    async def sold() -> None:
        rows = shop.rows(
            "reservation", "SELECT user_id, status FROM reservation WHERE id = %s", reservation_id
        )
        assert rows == [(user_id, "CONFIRMED")]

    await eventually(sold)
