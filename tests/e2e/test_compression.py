"""Compressed messages through nginx, to a browser and to the Python client."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser

import heliograph
from tests.support.cluster import LocalClusterProcess

pytestmark = pytest.mark.e2e

ROWS = [{"host": f"web-{number}", "status": "finished", "changed": False} for number in range(40)]  # about 2 KiB

# A page that says what it agreed on, sends what compresses well, and waits for the answer.
TALK = """rows => new Promise((resolve, reject) => {
    const socket = new WebSocket(`ws://${location.host}/ws?user=browser`);
    socket.onclose = reject;
    socket.onmessage = ({data}) => {
        const frame = JSON.parse(data);
        if (frame.type === 'connected') socket.send(JSON.stringify({type: 'send', to: 'python', data: rows}));
        if (frame.type === 'message') resolve({extensions: socket.extensions, data: frame.data});
    };
})"""


@pytest.fixture
def compressing_cluster(tmp_path: Path) -> Iterator[LocalClusterProcess]:
    with LocalClusterProcess(tmp_path / "log", replicas=2, HELIOGRAPH_COMPRESSION__ENABLED="true") as running:
        yield running


async def test_a_browser_and_the_python_client(compressing_cluster: LocalClusterProcess, browser: Browser) -> None:
    """Fails if nginx does not let the agreement through, or one of them reads or writes what the other cannot."""
    page = await browser.new_page()
    await page.goto(f"{compressing_cluster.url}/health")
    async with heliograph.connect(compressing_cluster.url, user="python") as client, asyncio.timeout(20):
        talking = asyncio.create_task(page.evaluate(TALK, ROWS))
        message = await anext(aiter(client))
        assert message.data == ROWS
        await client.send("browser", [*ROWS, "and back"])
        talk = await talking
    assert talk["extensions"] == "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    assert talk["data"] == [*ROWS, "and back"]
