"""examples/fastapi, started as its README says, on free ports."""

import sys
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.examples.one_domain import PORT, one_domain
from tests.support.cluster import ROOT, LocalClusterProcess

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

EXAMPLE = ROOT / "examples" / "fastapi"


async def test_a_job_is_followed_in_the_page(cluster: LocalClusterProcess, tmp_path: Path, browser: Browser) -> None:
    """Fails if the page does not show the progress and the end of a job that a Celery worker does."""
    redis = f"redis://127.0.0.1:{cluster.redis_port}"
    commands = {
        "worker": [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--concurrency", "2"],
        "application": [sys.executable, "-m", "uvicorn", "main:api", "--port", PORT],
    }
    environment = {"HELIOGRAPH_REDIS__URL": f"{redis}/0", "CELERY_BROKER_URL": f"{redis}/1"}
    async with one_domain(cluster, tmp_path, commands, cwd=EXAMPLE, environment=environment) as url:
        page = await browser.new_page()
        await page.goto(url)
        await page.click("#start")
        await expect(page.locator("#state")).to_have_text("END", timeout=60_000)
        await expect(page.locator("#bar")).to_have_js_property("value", 100)
        lines = [f"compiled file {number} of 5" for number in range(1, 6)]
        assert (await page.locator("#log").inner_text()).split("\n")[:5] == lines
