"""examples/hooks, started as its README says, on free ports."""

import sys
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.examples.one_domain import PORT, one_domain
from tests.support.cluster import ROOT, LocalClusterProcess
from tests.support.ports import free_port_block

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

EXAMPLE = ROOT / "examples" / "hooks"
SECRET = "a secret of the application and its cluster"


async def log_in(browser: Browser, url: str, name: str) -> Page:
    """The page of a user in a browser of their own."""
    page = await (await browser.new_context()).new_page()
    await page.goto(url)
    await page.fill("[name=name]", name)
    await page.click("#login button")
    await expect(page.locator("#state")).to_have_text(f"connected as {name}")
    return page


async def test_a_cookie_is_enough(tmp_path: Path, browser: Browser) -> None:
    """Fails if a page without a token cannot connect, or the application does not decide what its users publish."""
    port = free_port_block(2)
    hooks: dict[str, Any] = {
        f"HELIOGRAPH_HOOKS__{name.upper()}": f"http://127.0.0.1:{port + 1}/hooks/{name}"
        for name in ("connect", "publish", "rpc")
    }
    with LocalClusterProcess(
        tmp_path / "cluster.log",
        replicas=2,
        HELIOGRAPH_AUTH__MODE="hook",
        HELIOGRAPH_HOOKS__STATIC_HEADERS=f'{{"X-Heliograph-Key":"{SECRET}"}}',
        HELIOGRAPH_HOOKS__TIMEOUT_S="10",
        **hooks,
    ) as cluster:
        commands = {"application": [sys.executable, "-m", "uvicorn", "backend:api", "--port", PORT]}
        environment = {"LIVE_SECRET": SECRET, "SESSION_SECRET": "of the application alone"}
        async with one_domain(cluster, tmp_path, commands, cwd=EXAMPLE, environment=environment, port=port) as url:
            alice, bob = await log_in(browser, url, "alice"), await log_in(browser, url, "bob")
            await alice.fill("[name=text]", "hello")
            await alice.click("#shout")
            await expect(alice.locator("[name=text]")).to_have_value("HELLO")
            await alice.click("#write button >> nth=0")
            for page in (alice, bob):
                await expect(page.locator("#messages li")).to_have_text(["alice: HELLO"])
