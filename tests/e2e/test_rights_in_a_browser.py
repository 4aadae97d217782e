"""What only a real browser can show of tickets and handshakes: its own `EventSource` and its own `WebSocket`."""

from typing import Any

import pytest
from playwright.async_api import Browser, Page

from heliograph.protocol.codes import CloseCode
from tests.conftest import StartReplica
from tests.support.http import http_client
from tests.support.replicas import RunningReplica
from tests.support.tokens import JWT, bearer
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

STREAM = """ticket => {
  window.got = []; window.opened = 0;
  window.events = new EventSource(`/sse?ticket=${ticket}`);
  window.events.onopen = () => { window.opened += 1; };
  window.events.onmessage = (event) => window.got.push(JSON.parse(event.data));
}"""
SOCKET = """([query, protocols]) => new Promise((resolve) => {
  const socket = new WebSocket(`ws://${location.host}/ws${query}`, protocols);
  socket.onmessage = (event) => {
    socket.got = JSON.parse(event.data);
    if (socket.got.type === "connected") end(1000);
  };
  const end = (code) => resolve([socket.protocol, socket.got?.type ?? null, code]);
  socket.onclose = (event) => end(event.code);
})"""


async def page_of(browser: Browser, replica: RunningReplica) -> Page:
    """A page of the replica's own origin."""
    page = await browser.new_page()
    await page.goto(f"{replica.url}/health")
    return page


async def ticket(replica: RunningReplica, **claims: Any) -> str:
    async with http_client(replica.url) as http:
        return str((await http.post("/api/ticket", headers=bearer("alice", **claims))).json()["ticket"])


async def test_an_event_source_comes_back_with_its_ticket(start_replica: StartReplica, browser: Browser) -> None:
    """Fails if the browser's own EventSource, which cannot get another ticket, is dead after its first cut."""
    one = await start_replica(redis_url=None, auth=JWT)
    page = await page_of(browser, one)
    await page.evaluate(STREAM, await ticket(one, channels=["news"]))

    async def has(data: object) -> bool:
        return data in await page.evaluate("window.got.map((event) => event.data)")

    await eventually(lambda: one.replica.hub.subscribers("news"), within_s=10)
    for number in range(1, 4):
        await one.replica.manager.publish("news", number)
        await eventually(lambda number=number: has(number), within_s=10)
        for connection in list(one.replica.hub.connections_of("alice")):
            connection.close(CloseCode.SHUTDOWN, "cut")
        await eventually(lambda: not one.replica.hub.connections, within_s=10)
        await one.replica.manager.publish("news", f"missed {number}")
        await eventually(lambda number=number: has(f"missed {number}"), within_s=10)
    got = [each["data"] for each in await page.evaluate("window.got") if each["type"] == "message"]
    assert got == [1, "missed 1", 2, "missed 2", 3, "missed 3"]
    assert await page.evaluate("window.opened") == 4


async def test_what_a_page_learns_of_its_handshake(start_replica: StartReplica, browser: Browser) -> None:
    """Fails if a page that offers a subprotocol cannot connect, or one with a bad ticket sees 1006."""
    one = await start_replica(redis_url=None, auth=JWT)
    page = await page_of(browser, one)
    query = f"?ticket={await ticket(one)}"
    assert await page.evaluate(SOCKET, [query, ["json"]]) == ["json", "connected", 1000]
    assert await page.evaluate(SOCKET, [query, []]) == ["", "error", 3500]
