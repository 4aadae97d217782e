"""The console's pages for runs, logs, channels and the cluster, and what its client does when things go wrong."""

import asyncio
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, Request, WebSocketRoute, expect

from heliograph.client.publisher import Publisher
from tests.support.cluster import ROOT, SOURCES, LocalClusterProcess
from tests.support.forwarder import forward_from
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

RUN_ID = "20251105_1430_우주여행고양이"
LONGEST_STALL_MS = 700  # of the page's main thread, on a machine that has other things to do, too

# In the page, before anything else: the longest time between two frames that it could have drawn.
MEASURE_STALLS = """
window.longestStall = 0;
let before = performance.now();
requestAnimationFrame(function look(now) {
    window.longestStall = Math.max(window.longestStall, now - before);
    before = now;
    requestAnimationFrame(look);
});
"""


@pytest.fixture
def publisher(cluster: LocalClusterProcess) -> Iterator[Publisher]:
    with Publisher(f"redis://127.0.0.1:{cluster.redis_port}/0") as publisher:
        yield publisher


async def open_page(context: Browser | BrowserContext, port: int, user: str, address: str = "") -> Page:
    """A page of the console on which `user` is connected; any error in it fails the test."""
    if isinstance(context, Browser):
        context = await context.new_context(viewport={"width": 1280, "height": 800})
    page = await context.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"in {user}'s page: {error}"))
    await page.goto(f"http://localhost:{port}/?user={user}{address}")
    await expect(page.locator("#state")).to_have_attribute("data-state", "connected")
    return page


class SocketGate:
    """Stands between a page and its WebSockets. Shut, it refuses them, and cuts those that are there."""

    def __init__(self) -> None:
        self.shut = False
        self._open: list[WebSocketRoute] = []

    async def guard(self, context: BrowserContext) -> None:
        await context.route_web_socket(re.compile("/ws"), self._pass)

    async def close(self) -> None:
        self.shut = True
        while self._open:
            await self._open.pop().close(code=3001)

    async def _pass(self, socket: WebSocketRoute) -> None:
        if self.shut:
            await socket.close(code=3001)
        else:
            socket.connect_to_server()
            self._open.append(socket)


async def test_a_run_is_watched_live_and_by_polling_where_the_socket_is_blocked(
    cluster: LocalClusterProcess, browser: Browser, publisher: Publisher, artifacts: Path
) -> None:
    """Fails if a run's page does not go on by polling without a socket, and live once there is one again."""
    gate = SocketGate()
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    await gate.guard(context)
    asked: list[float] = []

    def note(request: Request) -> None:
        if "/api/runs/" in request.url:
            asked.append(time.monotonic())

    context.on("request", note)

    for done in range(1, 31):
        publisher.publish_progress(RUN_ID, state="RUNNING", progress=done, log=f"copied file {done}")
    page = await open_page(context, cluster.port, "rosa", f"#/runs/{RUN_ID}")
    source, percent, last = (
        page.locator("#run-source"),
        page.locator("#run-percent"),
        page.locator("#run-lines .line"),
    )
    await expect(source).to_have_text("Live")
    before = len(asked)  # on a busy machine it may have asked until it was
    await expect(percent).to_have_text("30 %")
    await expect(page.locator("#run-state")).to_have_text("RUNNING")
    await expect(last.filter(has_text="copied file 30")).to_be_visible()
    publisher.publish_progress(RUN_ID, progress=45.5, log="half way, nearly")
    await expect(percent).to_have_text("45.5 %")
    await expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "45.5")
    await expect(page.locator("#run-note")).to_have_text("31 lines")
    assert len(asked) == before, "it asks although it hears"
    await page.locator("#run-fill").evaluate("bar => Promise.all(bar.getAnimations().map(each => each.finished))")
    await page.screenshot(path=artifacts / "console-run.png")

    await gate.close()
    await expect(source).to_have_text("Polling every 2 s", timeout=15_000)
    publisher.publish_progress(RUN_ID, progress=60, log="told by a poll")
    await expect(percent).to_have_text("60 %")
    await expect(last.filter(has_text="told by a poll")).to_be_visible()
    await expect(page.locator("#run-note")).to_have_text("32 lines")
    await page.screenshot(path=artifacts / "console-run-polling.png")

    gate.shut = False
    await page.evaluate("dispatchEvent(new Event('online'))")
    await expect(source).to_have_text("Live", timeout=15_000)
    before = len(asked)
    publisher.publish_progress(RUN_ID, progress=70, log="live again")
    await expect(last.filter(has_text="live again")).to_be_visible()
    await expect(page.locator("#run-note")).to_have_text("33 lines")

    await gate.close()
    await expect(source).to_have_text("Polling every 2 s", timeout=15_000)
    publisher.publish_progress(RUN_ID, state="END", progress=100, log="done")
    await expect(source).to_have_text("Ended")
    await expect(percent).to_have_text("100 %")
    await expect(page.locator("#run-note")).to_have_text("34 lines")
    assert len(asked) > before
    ended = len(asked)
    await page.wait_for_timeout(2_600)
    assert len(asked) == ended, "it goes on asking for a run that has ended"


async def test_a_run_that_fails_and_one_that_nobody_has_heard_of(
    cluster: LocalClusterProcess, browser: Browser, publisher: Publisher
) -> None:
    """Fails if one run's page shows what belongs to another."""
    publisher.publish_progress("failing", state="FAILED", progress=12, log="ValueError: no")
    page = await open_page(browser, cluster.port, "rita", "#/runs/failing")
    await expect(page.locator("#run-source")).to_have_text("Ended")
    await expect(page.locator("#run-state")).to_have_text("FAILED")
    await page.fill("#run-id", "no/such run?")
    await page.press("#run-id", "Enter")
    await expect(page.locator("#run-state")).to_have_text("Not heard of")
    await expect(page.locator("#run-lines .line:visible")).to_have_count(0)
    assert page.url.endswith("#/runs/no%2Fsuch%20run%3F")
    publisher.publish_progress("no/such run?", state="RUNNING", progress=1)
    await expect(page.locator("#run-state")).to_have_text("RUNNING")
    await page.go_back()
    await expect(page.locator("#run-state")).to_have_text("FAILED")


async def test_who_is_not_connected_is_told_to_connect(
    cluster: LocalClusterProcess, browser: Browser, publisher: Publisher
) -> None:
    """Fails if a page without a connection says of a run or a log that there is nothing of it."""
    publisher.publish_progress("unseen", state="RUNNING", progress=12, log="a line")
    page = await browser.new_page()
    await page.goto(f"http://localhost:{cluster.port}/#/runs/unseen")
    await expect(page.get_by_text("Connect to watch it.").locator("visible=true")).to_be_visible()
    await expect(page.locator("#run-state")).to_have_text("Not known")
    await page.goto(f"http://localhost:{cluster.port}/#/logs/unseen")
    await expect(page.get_by_text("Connect to watch it.").locator("visible=true")).to_be_visible()
    await page.fill("#user", "rita")
    await page.press("#user", "Enter")
    await expect(page.get_by_text("Nothing was said yet.").locator("visible=true")).to_be_visible()
    await page.go_back()
    await expect(page.locator("#run-state")).to_have_text("RUNNING")


class Writer(threading.Thread):
    """Writes numbered lines to a log, a thousand a second."""

    def __init__(self, publisher: Publisher, log_id: str, count: int) -> None:
        super().__init__()
        self._publisher, self._log_id, self._count = publisher, log_id, count

    def run(self) -> None:
        due = time.monotonic()
        for first in range(0, self._count, 25):
            lines = [(f"line {i} of the build, with some more words", "stdout") for i in range(first, first + 25)]
            self._publisher.log_many(self._log_id, lines)
            due += 0.025
            time.sleep(max(0, due - time.monotonic()))


@pytest.mark.alone  # it measures how long the page stands still
async def test_a_thousand_lines_a_second(
    cluster: LocalClusterProcess, browser: Browser, publisher: Publisher, artifacts: Path
) -> None:
    """Fails if the log's page freezes, jumps while one reads further up, or loses a line."""
    page = await open_page(browser, cluster.port, "lena", "#/logs/build-9")
    await expect(page.locator("#log-source")).to_have_text("Live")
    await page.evaluate(MEASURE_STALLS)
    writer = Writer(publisher, "build-9", 5_000)
    writer.start()
    try:
        lines, jump = page.locator("#log-lines .lines"), page.locator("#log-lines .jump")
        await expect(page.locator("#log-sum")).to_have_text(re.compile(r"^[1-9],\d{3} lines · .*/s$"))
        await lines.hover()
        await page.mouse.wheel(0, -600)
        await expect(jump).to_have_text(re.compile(r"Jump to live · [\d,]+ new"))

        async def looked_at() -> list[Any]:
            return list(
                await lines.evaluate("pane => [pane.scrollTop, document.elementFromPoint(700, 400).textContent]")
            )

        before = await looked_at()
        unseen = await jump.inner_text()
        await expect(jump).not_to_have_text(unseen)
        await page.wait_for_timeout(500)
        assert await looked_at() == before, "what one reads moves while lines arrive"
        await page.screenshot(path=artifacts / "console-log.png")
        await jump.click()
        await expect(jump).to_be_hidden()
    finally:
        await asyncio.to_thread(writer.join)
    await expect(page.locator("#log-sum")).to_have_text(re.compile("^5,000 lines"))
    # Its place in the log is that of its number: none is missing, none came twice.
    await expect(page.locator("#log-lines .line:visible").last).to_have_text(re.compile("^5000.*line 4999 of"))
    stall = await page.evaluate("window.longestStall")
    print(f"longest stall: {stall:.0f} ms")
    assert stall < LONGEST_STALL_MS

    await page.fill("#log-filter", "LINE 49")
    await expect(page.locator("#log-sum")).to_have_text(re.compile("^111 of 5,000 lines"))
    await expect(page.locator("#log-lines mark").first).to_have_text("line 49")
    rows = await page.locator("#log-lines .line").count()
    assert rows < 100, f"{rows} rows exist: all lines are in the page"


async def test_a_log_is_shown_once_to_who_comes_back(
    cluster: LocalClusterProcess, browser: Browser, publisher: Publisher
) -> None:
    """Fails if a log is shown twice to somebody who connects anew, or a cut loses or doubles lines."""
    publisher.log_many("again", [(f"line {i}", "stdout") for i in range(30)])
    gate = SocketGate()
    context = await browser.new_context()
    await gate.guard(context)
    page = await open_page(context, cluster.port, "agnes", "#/logs/again")
    await expect(page.locator("#log-sum")).to_have_text(re.compile("^30 lines"))
    await gate.close()
    await expect(page.locator("#transport")).to_have_text("by server-sent events", timeout=15_000)
    publisher.log("again", "line 30")
    await expect(page.locator("#log-sum")).to_have_text(re.compile("^31 lines"))
    await expect(page.locator("#log-source")).to_have_text("Live by sse")
    gate.shut = False
    await page.click("#disconnect")
    await page.click("#connect")
    await expect(page.locator("#log-source")).to_have_text("Live")
    publisher.log("again", "line 31")
    await expect(page.locator("#log-sum")).to_have_text(re.compile("^32 lines"))


async def test_reading_further_up_stays_where_it_is_when_old_lines_are_dropped(
    cluster: LocalClusterProcess, browser: Browser
) -> None:
    """Fails if memory is not bounded, nobody is told, or the text jumps under the reader's eyes."""
    page = await open_page(browser, cluster.port, "vera")
    found = await page.evaluate(
        """async () => {
            const { LineBuffer } = await import("/static/line_buffer.js");
            const { LinePane } = await import("/static/views/line_pane.js");
            const frame = document.createElement("div");
            frame.className = "lines-frame";
            frame.style.cssText = "position: fixed; inset: 0 auto auto 0; width: 600px; height: 200px; z-index: 9";
            document.body.append(frame);
            const drawn = async () => { for (let i = 0; i < 4; i++) await new Promise(requestAnimationFrame); };
            const buffer = new LineBuffer(1000);
            const pane = new LinePane(frame, buffer, "test");
            const add = async (count) => {
                for (let i = 0; i < count; i++) buffer.add({ text: `line ${buffer.total}` });
                pane.added(count);
                await drawn();
            };
            const top = () => document.elementFromPoint(300, 100).closest(".line").children[2].textContent;
            await add(1000);
            pane.scroller.scrollTop = 14_000;
            await drawn();
            const before = top();
            await add(250);
            const after = top();
            pane.scroller.scrollTop = 0;
            await drawn();
            const note = frame.querySelector(".lines-note").textContent;
            frame.remove();
            return { before, after, note, kept: buffer.shown };
        }"""
    )
    assert found["before"] == found["after"]
    assert found["before"] == "line 705"
    assert found["note"] == "200 older lines dropped here"
    assert found["kept"] == 1050


async def test_channels_tell_who_is_there(cluster: LocalClusterProcess, browser: Browser, artifacts: Path) -> None:
    """Fails if two people on two replicas do not see each other on a channel, or what the other says."""
    async with forward_from(SOURCES[1], cluster.port) as other_network:
        anna = await open_page(browser, cluster.port, "anna", "#/channels/chat:lobby")
        await expect(anna.locator('#members [data-user="anna"]')).to_be_visible()
        ben = await open_page(browser, other_network, "ben", "#/channels")
        assert await anna.inner_text("#replica") != await ben.inner_text("#replica")
        await ben.fill("#channel-name", "chat:lobby")
        await ben.press("#channel-name", "Enter")
        await expect(ben.locator("#members li")).to_have_count(2)
        await expect(anna.locator('#members [data-user="ben"]')).to_be_visible()
        feed = anna.locator('[data-channel="chat:lobby"]')
        await expect(feed.locator(".note", has_text="ben joined")).to_be_visible()

        for page, text in ((anna, "Hello everyone 👋"), (ben, "안녕! From another replica"), (anna, "In one order")):
            await page.fill("#channel-text", text)
            await page.press("#channel-text", "Enter")
            for reader in (anna, ben):
                await expect(reader.locator('[data-channel="chat:lobby"] article').last).to_contain_text(text)
        await anna.screenshot(path=artifacts / "console-channels.png")

        await ben.goto(f"http://localhost:{other_network}/?user=ben#/messages")
        await ben.reload()
        await expect(anna.locator("#members li")).to_have_count(1, timeout=10_000)
        await expect(feed.locator(".note", has_text="ben left")).to_be_visible()

        await anna.goto(f"http://localhost:{cluster.port}/?user=anna#/channels/news")
        await expect(anna.locator("#people-note")).to_contain_text("does not keep who")
        await anna.goto(f"http://localhost:{cluster.port}/?user=anna#/channels/%23ben")
        refused = anna.locator('[data-channel="#ben"] [data-kind="error"]')
        await expect(refused).to_contain_text("not_allowed")
        await anna.get_by_role("button", name="Leave #ben").click()
        await expect(anna.locator("#joined li")).to_have_count(2)


async def test_the_cluster_is_drawn(cluster: LocalClusterProcess, browser: Browser, artifacts: Path) -> None:
    """Fails if a replica has no line, a figure that replicas tell has no chart, or pointing at it shows nothing."""
    page = await open_page(browser, cluster.port, "carl", "#/cluster")
    chart = page.locator('[data-chart="Connections"]')
    await expect(chart.locator("path.series")).to_have_count(3)
    await expect(page.locator("#legend li")).to_have_text(["replica-1", "replica-2", "replica-3"])
    told = {key for replica in cluster.members().values() for key in replica}
    for title, key in (
        ("Messages in, per second", "messages_in_per_second"),
        ("Messages out, per second", "messages_out_per_second"),
        ("Bus lag", "bus_lag_ms"),
        ("Canary age", "canary_age_ms"),
    ):
        await expect(page.locator(f'[data-chart="{title}"]')).to_be_visible(visible=key in told)
    # Its own connection, sooner or later in the report of its replica.
    await expect(chart.locator("svg")).to_have_attribute("aria-label", re.compile(r"now: .*replica-\d [1-9]"))

    async def has_drawn() -> bool:
        return len(await chart.locator("path.series").first.get_attribute("d") or "") > 30

    await eventually(has_drawn, within_s=15)
    box = await chart.locator("svg").bounding_box()
    assert box is not None
    await page.mouse.move(box["x"] + box["width"] - 12, box["y"] + 60)
    for each in ("Connections", "Users"):
        await expect(page.locator(f'[data-chart="{each}"] .cross')).to_have_count(1)
    await expect(page.locator("#charts-time")).to_have_text(re.compile(r"\d\d:\d\d:\d\d"))
    await page.screenshot(path=artifacts / "console-cluster.png")
    await page.mouse.move(10, 10)
    await expect(page.locator(".cross")).to_have_count(0)
    await chart.locator("svg").press("ArrowLeft")
    await expect(chart.locator("svg")).to_have_attribute("aria-label", re.compile(r"Connections at \d\d:\d\d:\d\d: "))


async def test_every_page_in_the_dark_and_on_a_phone(
    cluster: LocalClusterProcess, browser: Browser, publisher: Publisher, artifacts: Path
) -> None:
    """Fails if a page is wider than a phone, or if its parts are lost there."""
    publisher.publish_progress("nightly", state="RUNNING", progress=72, log="packing …")
    for i in range(60):
        publisher.log("nightly", f"TASK [web : step {i}] ok: [host-{i % 3}]", "stderr" if i % 9 == 4 else "stdout")
    pages = {"messages": "#composer", "runs/nightly": "#run-bar", "logs/nightly": "#log-lines", "cluster": "#charts"}
    context = await browser.new_context(viewport={"width": 360, "height": 740}, color_scheme="dark")
    phone = await open_page(context, cluster.port, "pia")
    wide = await open_page(
        await browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="dark"), cluster.port, "pia"
    )
    for name, part in {**pages, "channels/chat:phone": "#channel-composer"}.items():
        for page, kind in ((phone, "phone"), (wide, "dark")):
            await page.evaluate(f"location.hash = '#/{name}'")
            await expect(page.locator(part)).to_be_visible()
            await expect(page.locator(".source:visible", has_text="Connecting")).to_have_count(0)
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (name, kind)
            await page.screenshot(path=artifacts / f"console-{name.partition('/')[0]}-{kind}.png")


COLLECT = """async ([transports, user]) => {
    const { Heliograph } = await import("/static/heliograph.js");
    window.clients ??= {};
    const client = new Heliograph({ user, transports });
    const it = window.clients[transports[0]] = { client, heard: [], mine: [], lost: 0, served: [], runs: {} };
    client.on("state", ({ state, replica }) => state === "connected" && it.served.push(replica));
    client.on("message", ({ data }) => it.mine.push(data));
    const numbers = client.subscribe("numbers", ({ data }) => it.heard.push(data));
    numbers.on("subscribed", ({ lost }) => { if (lost) it.lost += 1; });
    for (const id of ["one", "two"]) client.subscribe(`run:${id}`, ({ progress }) => { it.runs[id] = progress; });
    client.connect();
    await numbers.ready;
}"""


async def collected(page: Page, transport: str) -> dict[str, Any]:
    return dict(
        await page.evaluate(
            """(transport) => {
                const { client, ...rest } = window.clients[transport];
                return { ...rest, state: client.state };
            }""",
            transport,
        )
    )


async def test_a_drain_loses_and_repeats_nothing_on_any_transport(
    own_cluster: LocalClusterProcess, browser: Browser
) -> None:
    """Fails if a client whose replica is stopped under it misses or repeats a message, by any transport."""
    transports = ("websocket", "sse", "poll")
    page = await open_page(browser, own_cluster.port, "dina")
    victim = await page.inner_text("#replica")
    for transport in transports:
        await page.evaluate(COLLECT, [[transport], f"dina-{transport}"])
        assert (await collected(page, transport))["served"] == [victim]
    stop = threading.Event()
    published: list[int] = []

    def publish() -> None:
        with Publisher(f"redis://127.0.0.1:{own_cluster.redis_port}/0") as publisher:
            while not stop.is_set():
                publisher.publish("numbers", len(published))
                published.append(len(published))
                stop.wait(0.005)

    publishing = threading.Thread(target=publish)
    publishing.start()
    try:
        await eventually(lambda: len(published) > 100)
        os.kill(own_cluster.pids()[victim], signal.SIGTERM)
        for transport in transports:

            async def has_moved(transport: str = transport) -> bool:
                return set((await collected(page, transport))["served"]) != {victim}

            await eventually(has_moved, within_s=20)
        await eventually(lambda: len(published) > 300, within_s=20)
    finally:
        stop.set()
        await asyncio.to_thread(publishing.join)
    for transport in transports:

        async def has_all(transport: str = transport) -> bool:
            return len((await collected(page, transport))["heard"]) >= len(published)

        await eventually(has_all, within_s=15)
        found = await collected(page, transport)
        assert found["heard"] == list(range(len(published))), transport
        assert found["lost"] == 0, transport


async def test_it_falls_back_to_events_and_to_polling_through_nginx(
    cluster: LocalClusterProcess, browser: Browser, publisher: Publisher
) -> None:
    """Fails if a page behind a proxy that lets no socket through, or not even a stream, hears nothing."""
    gate = SocketGate()
    gate.shut = True
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    await gate.guard(context)
    page = await open_page(context, cluster.port, "fred")
    await expect(page.locator("#transport")).to_have_text("by server-sent events")
    publisher.send_to_user("fred", "over a stream")
    await expect(page.locator('#messages [data-direction="in"]').last).to_contain_text("over a stream")
    await page.fill("#to", "fred")
    await page.fill("#text", "back to me")
    await page.click("#send")
    await expect(page.locator('#messages [data-code="no_socket"]')).to_be_visible()
    gate.shut = False
    await page.fill("#text", "now it goes")
    await page.click("#send")
    await expect(page.locator('#messages [data-direction="in"]').last).to_contain_text("now it goes")
    await expect(page.locator("#transport")).to_have_text("by WebSocket")

    gate.shut = True
    await context.route("**/sse?*", lambda route: route.abort())
    await page.evaluate(COLLECT, [["websocket", "sse", "poll"], "pete"])
    assert (await collected(page, "websocket"))["state"]["transport"] == "poll"
    publisher.publish("numbers", "by polling")
    publisher.send_to_user("pete", "mine")
    for progress in (10, 20):
        publisher.publish_progress("two", state="RUNNING", progress=progress)
        publisher.publish_progress("one", state="RUNNING", progress=progress + 1)

    async def has_heard() -> bool:
        found = await collected(page, "websocket")
        wanted = (["by polling"], ["mine"], {"one": 21, "two": 20})
        return (found["heard"][-1:], found["mine"], found["runs"]) == wanted

    await eventually(has_heard, within_s=10)
    gate.shut = False
    await page.evaluate("dispatchEvent(new Event('online'))")

    async def has_socket() -> bool:
        return bool((await collected(page, "websocket"))["state"]["transport"] == "websocket")

    await eventually(has_socket, within_s=10)


async def test_the_page_in_ten_lines(cluster: LocalClusterProcess, browser: Browser, publisher: Publisher) -> None:
    """Fails if the page that docs/javascript.md begins with does not work as it stands there."""
    [html] = re.findall(r"```html\n(.*?)```", (ROOT / "docs/javascript.md").read_text(encoding="utf-8"), re.DOTALL)
    page = await browser.new_page()
    await page.goto(f"{cluster.url}/health")
    frames: list[str] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: frames.append(str(frame))))
    await page.set_content(html)
    await eventually(lambda: any('"subscribed"' in frame for frame in frames))
    publisher.publish("news", "우주여행고양이 <b>")
    await expect(page.locator("#news li")).to_have_text("우주여행고양이 <b>")
