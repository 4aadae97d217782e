"""The recipe of docs/protocol.md for the npm package reconnecting-websocket, as it stands there, in a browser."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser

from tests.support.cluster import ROOT, LocalClusterProcess
from tests.support.http import http_client
from tests.support.tokens import SECRET, token
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm to install the package with"),
]

KEY = "a key of sixteen"
PACKAGE = "reconnecting-websocket@4.4.0"


@pytest.fixture(scope="session")
def package(artifacts: Path) -> Path:
    """The script of the package for browsers, which makes it the global `ReconnectingWebSocket`."""
    home = artifacts / "npm"
    script = home / "node_modules" / "reconnecting-websocket" / "dist" / "reconnecting-websocket-iife.min.js"
    if not script.is_file():
        install = ["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(home), PACKAGE]
        subprocess.run(install, check=True, timeout=120)
    return script


@pytest.fixture
def jwt_cluster(tmp_path: Path) -> Iterator[LocalClusterProcess]:
    with LocalClusterProcess(
        tmp_path / "log", HELIOGRAPH_AUTH__MODE="jwt", HELIOGRAPH_AUTH__SECRET=SECRET, HELIOGRAPH_API__KEY=KEY
    ) as running:
        yield running


def recipe() -> str:
    [code] = re.findall(
        r'```js\nimport ReconnectingWebSocket from "reconnecting-websocket";\n(.*?)```',
        (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8"),
        re.DOTALL,
    )
    return str(code)


async def test_it_misses_nothing_while_every_replica_drains(
    jwt_cluster: LocalClusterProcess, browser: Browser, package: Path
) -> None:
    """Fails if who does as the protocol's page says misses, doubles or swaps a message during a deploy."""
    cluster = jwt_cluster
    page = await browser.new_page()
    await page.goto(f"{cluster.url}/health")
    await page.add_script_tag(path=package)
    bearer = f"Bearer {token('rita', channels=['news'], expires_in=300)}"
    await page.evaluate(
        """(bearer) => {
            window.shown = [];
            window.connects = 0;
            window.show = (data) => window.shown.push(data);
            window.newTicket = async () => {
                window.connects += 1;
                const answer = await fetch("/api/ticket", {method: "POST", headers: {Authorization: bearer}});
                return (await answer.json()).ticket;
            };
        }""",
        bearer,
    )
    await page.evaluate(f"() => {{ {recipe()} }}")

    async def shown() -> list[int]:
        return [int(number) for number in await page.evaluate("window.shown")]

    published = 0
    async with http_client(cluster.url) as client:

        async def publish() -> None:
            nonlocal published
            body = {"channel": "news", "data": published, "idempotency_key": str(published)}
            answer = await client.post("/api/publish", headers={"X-API-Key": KEY}, json=body)
            if answer.status_code == 200 and "result" in answer.json():
                published += 1

        async def arrives() -> bool:
            await publish()
            return bool(await shown())

        await eventually(arrives, within_s=10)
        first = (await shown())[0]
        for name in ("replica-1", "replica-2", "replica-3"):
            before = cluster.pids()[name]
            os.kill(before, signal.SIGTERM)

            async def is_back(name: str = name, before: int = before) -> bool:
                await publish()
                number = int(name.rpartition("-")[2])
                return cluster.pids().get(name, before) != before and cluster.status("/ready", number) == 200

            await eventually(is_back, within_s=30)
        for _ in range(20):
            await publish()

        async def has_all() -> bool:
            return len(await shown()) >= published - first

        await eventually(has_all, within_s=15)
    assert await shown() == list(range(first, published))
    assert await page.evaluate("window.connects") > 1
    await page.close()
