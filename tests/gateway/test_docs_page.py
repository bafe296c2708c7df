"""The documentation page in a real browser, without a network."""

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.gateway.declared import Declared
from tests.gateway.fakes import Services
from tests.gateway.serving import serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# No host name resolves, so that anything the page loads from elsewhere is missing.
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--virtual-time-budget=5000",
]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
async def test_it_shows_every_route(services: Services, declared: Declared, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    async with serving(services) as gateway:
        browser = await asyncio.create_subprocess_exec(
            CHROMIUM,
            *OPTIONS,
            f"--user-data-dir={tmp_path}",
            "--dump-dom",
            f"{gateway.url}/docs",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            output, errors = await asyncio.wait_for(browser.communicate(), 60)
        finally:
            if browser.returncode is None:
                browser.kill()
                await browser.communicate()
    page = output.decode()
    assert browser.returncode == 0, errors.decode()
    assert "Frontrow" in page
    assert "Failed to load" not in page
    for path, operations in declared.spec["paths"].items():
        for method in operations:
            assert f"opblock-{method}" in page
        assert f'data-path="{path}"' in page, path
