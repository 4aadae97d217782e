"""Event streams, polls and runs through nginx, over three replicas."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Browser, async_playwright

from heliograph.codecs.plain.cursor import parse_cursor
from tests.support.client import Client
from tests.support.cluster import SOURCES, LocalClusterProcess
from tests.support.event_source import EventSource
from tests.support.poller import Poller
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

RUN = "20251105_1430_우주여행고양이_셋"


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        await chromium.close()


async def test_nothing_is_held_back_on_the_way(cluster: LocalClusterProcess) -> None:
    """Fails if nginx buffers a stream or a poll, or either is heard on the sender's replica only."""
    async with (
        EventSource(cluster.url, source=SOURCES[0], user="ann", channels="news") as events,
        Poller(cluster.url, source=SOURCES[1], user="ann", channels="news") as poller,
        Client(cluster.url, source=SOURCES[2], user="ben") as ben,
    ):
        replica = (await events.next("connected"))["replica"]
        await events.next("subscribed")
        await poller.poll()
        waiting = asyncio.create_task(poller.ask(wait=50))
        for number in range(20):
            sent_at = time.monotonic()
            await ben.say({"type": "publish", "channel": "news", "data": [number, "안녕"], "id": number})
            assert (await events.next("message"))["data"] == [number, "안녕"]
            assert time.monotonic() - sent_at < 2
        answer = (await asyncio.wait_for(waiting, 5)).json()
        assert answer["events"][0]["data"] == [0, "안녕"]
        assert len({replica, answer["replica"], ben.replica}) == 3
        assert events.response.headers["content-type"].startswith("text/event-stream")


async def test_one_client_through_all_doors_and_replicas(cluster: LocalClusterProcess) -> None:
    """Fails if a cursor of one endpoint on one replica is not good at another on the next."""
    channels = "news2,방:42"
    async with Client(cluster.url, source=SOURCES[0], user="publisher") as publisher:

        async def publish(*numbers: int) -> None:
            for number in numbers:
                await publisher.say({"type": "publish", "channel": "방:42", "data": number})
                await publisher.next("ack")

        async with EventSource(cluster.url, source=SOURCES[0], user="kim", channels=channels) as events:
            for _ in range(2):
                await events.next("subscribed")
            await publish(1)
            assert (await events.next("message"))["data"] == 1
        await publish(2, 3)
        async with Poller(
            cluster.url, source=SOURCES[1], cursor=events.last_event_id, user="kim", channels=channels
        ) as poller:
            assert [event["data"] for event in await poller.poll()] == [2, 3]
        await publish(4)
        query = httpx.QueryParams({"user": "kim", "cursor": poller.cursor})
        async with Client(cluster.url, source=SOURCES[2], path=f"/ws?{query}") as socket:
            assert set(parse_cursor((await socket.next("connected"))["cursor"])) == {"#kim", *channels.split(",")}
            assert await socket.messages(1) == [4]
            await socket.nothing_more()


async def test_a_cursor_of_many_channels_passes_nginx(cluster: LocalClusterProcess) -> None:
    """Fails if nginx or the server refuses the URL or the header of a client with many channels."""
    channels = ",".join(f"channel-with-a-long-name:{number:03}-{'x' * 40}" for number in range(100))
    async with EventSource(cluster.url, source=SOURCES[0], user="many", channels=channels) as events:
        for _ in range(100):
            await events.next("subscribed")
    assert len(events.last_event_id) <= 1024
    async with EventSource(
        cluster.url, source=SOURCES[1], user="many", channels=channels, last_event_id=events.last_event_id
    ) as again:
        for _ in range(101):
            assert (await again.next("subscribed"))["recovered"] is True
        async with Poller(cluster.url, cursor=again.last_event_id, user="many", channels=channels) as poller:
            assert await poller.poll(wait=0) == []


async def test_a_body_that_nginx_does_not_let_in(cluster: LocalClusterProcess) -> None:
    """Fails if who publishes too much at once through nginx gets a page for people, or no answer."""
    async with httpx.AsyncClient(base_url=cluster.url, trust_env=False) as http:
        answer = await http.post("/api/publish", json={"channel": "news", "data": "x" * 3_000_000})
    assert answer.status_code == 413
    assert "client_max_body_size" in answer.json()["error"]["message"]


async def test_a_run_is_the_same_on_every_replica(cluster: LocalClusterProcess) -> None:
    """Fails if S1.4 does not hold through nginx, for ids of any script."""
    from heliograph.client.publisher import AsyncPublisher

    async with AsyncPublisher(f"redis://127.0.0.1:{cluster.redis_port}/0") as publisher:
        await publisher.publish_progress(RUN, state="RUNNING", progress=40, log="절반")
    runs = []
    for source in SOURCES:
        transport = httpx.AsyncHTTPTransport(local_address=source)
        async with httpx.AsyncClient(base_url=cluster.url, trust_env=False, transport=transport) as http:
            runs.append((await http.get(f"/api/runs/{RUN}")).json())
            assert (await http.get("/api/runs/unknown")).status_code == 404
    assert runs[0] == runs[1] == runs[2]
    assert (runs[0]["run_id"], runs[0]["progress"], runs[0]["logs"]) == (RUN, 40.0, ["절반"])


async def test_a_browsers_event_source_survives_a_deploy(own_cluster: LocalClusterProcess, browser: Browser) -> None:
    """SIGTERM to its replica: a real EventSource comes back by itself, on another one, and misses nothing."""
    page = await (await browser.new_context()).new_page()
    await page.goto(f"{own_cluster.url}/health")
    await page.evaluate(
        """() => {
            window.events = [];
            window.source = new EventSource("/sse?user=jo&channels=news");
            window.source.onmessage = (event) => window.events.push(JSON.parse(event.data));
        }"""
    )

    async def of(kind: str) -> list[dict[str, object]]:
        return list(await page.evaluate("(kind) => window.events.filter((each) => each.type === kind)", kind))

    await eventually(lambda: of("subscribed"), within_s=10)
    first = (await of("connected"))[0]["replica"]
    other = next(source for source in SOURCES[1:])
    async with Client(own_cluster.url, source=other, user="publisher") as publisher:
        assert publisher.replica != first
        old = own_cluster.pids()[str(first)]
        # Whoever starts replicas again is held up: this one would be back under its name before the browser is.
        own_cluster.process.send_signal(signal.SIGSTOP)
        try:
            os.kill(old, signal.SIGTERM)
            sent = 0
            deadline = time.monotonic() + 30
            while len(await of("connected")) < 2 or sent < 100:
                assert time.monotonic() < deadline, json.dumps(await of("disconnect"))
                await publisher.say({"type": "publish", "channel": "news", "data": sent, "id": sent})
                await publisher.next("ack", id=sent)
                sent += 1
                await asyncio.sleep(0.02)
        finally:
            own_cluster.process.send_signal(signal.SIGCONT)

        async def all_there() -> bool:
            return len(await of("message")) >= sent

        await eventually(all_there, within_s=10)
        assert [message["data"] for message in await of("message")] == list(range(sent))
        assert [event["code"] for event in await of("disconnect")] == [3001]
        assert len(await of("reconnect")) == 1
        assert (await of("connected"))[1]["replica"] != first
        assert all(event["recovered"] for event in (await of("subscribed"))[1:])


def test_the_query_of_a_stream_is_not_logged(cluster: LocalClusterProcess, tmp_path: Path) -> None:
    """Fails if the user, or a ticket, of a stream or a poll stands in any log."""
    assert cluster.status("/api/poll?user=secret-91aa&wait=0") == 200
    assert cluster.status("/api/runs/nothing?ticket=secret-91aa") == 404
    cluster.wait(lambda: '"GET /api/runs/nothing HTTP/1.1" 404' in cluster.output(), within_s=5)
    assert "secret-91aa" not in cluster.output()
