"""examples/django, started as its README says, on free ports, with a cluster in jwt mode."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from tests.examples.one_domain import PORT, one_domain
from tests.support.cluster import ROOT, LocalClusterProcess

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

EXAMPLE = ROOT / "examples" / "django"
SECRET = "a secret of the site and of its replicas"


def manage(environment: dict[str, str], *arguments: str) -> None:
    command = [sys.executable, "manage.py", *arguments]
    subprocess.run(command, cwd=EXAMPLE, env={**os.environ, **environment}, check=True, capture_output=True)


async def log_in(browser: Browser, url: str, name: str) -> Page:
    """The page of a user in a browser of their own."""
    page = await (await browser.new_context()).new_page()
    await page.goto(url)
    await page.fill("[name=username]", name)
    await page.fill("[name=password]", "secret")
    connected = page.expect_event("websocket")
    async with connected:
        await page.click("button")
    return page


async def test_users_are_notified(tmp_path: Path, browser: Browser) -> None:
    """Fails if a user of the site cannot connect with the token of the view, or gets what is another user's."""
    with LocalClusterProcess(
        tmp_path / "cluster.log", replicas=2, HELIOGRAPH_AUTH__MODE="jwt", HELIOGRAPH_AUTH__SECRET=SECRET
    ) as cluster:
        environment = {
            "DATABASE": str(tmp_path / "db.sqlite3"),
            "DJANGO_SECRET_KEY": "a secret of the site alone",
            "DJANGO_SUPERUSER_PASSWORD": "secret",
            "HELIOGRAPH_AUTH__SECRET": SECRET,
            "HELIOGRAPH_REDIS__URL": f"redis://127.0.0.1:{cluster.redis_port}/0",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        manage(environment, "migrate")
        for name in ("alice", "bob"):
            manage(environment, "createsuperuser", "--no-input", "--username", name, "--email", f"{name}@example.org")
        commands = {"application": [sys.executable, "manage.py", "runserver", "--noreload", PORT]}
        async with one_domain(cluster, tmp_path, commands, cwd=EXAMPLE, environment=environment) as url:
            alice, bob = await log_in(browser, url, "alice"), await log_in(browser, url, "bob")
            bobs_number = re.findall(r"user (\d+)", await bob.locator("p").inner_text())[0]
            await alice.fill("[name=user]", bobs_number)
            await alice.click("#greet button")
            await expect(bob.locator("#notifications li")).to_have_text(["alice says hello"])
            await expect(alice.locator("#notifications li")).to_have_count(0)
