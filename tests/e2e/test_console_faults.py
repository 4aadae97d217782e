"""The console where not all is well, and where it does not stand at the root of its host."""

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from heliograph.client.publisher import Publisher
from tests.support.cluster import LocalClusterProcess
from tests.support.ports import free_port_block
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

# A proxy of somebody's own, with the cluster under a path.
PROXY = """
daemon off; worker_processes 1; pid {run}/pid; error_log {run}/log crit;
events {{ worker_connections 64; }}
http {{
    access_log off;
    proxy_temp_path {run}/proxy; client_body_temp_path {run}/body;
    fastcgi_temp_path {run}/fastcgi; scgi_temp_path {run}/scgi; uwsgi_temp_path {run}/uwsgi;
    server {{
        listen 127.0.0.1:{port};
        location /live/ {{
            proxy_pass http://127.0.0.1:{cluster}/;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $http_connection;
        }}
    }}
}}
"""


# What does not fit into the bar at the top or the card of the connection.
CUT_OFF = """[
    ...document.querySelectorAll("#navigation, #navigation a, #state, #theme, #me, #replica, #replicas .title"),
].filter((each) => {
    const { right } = each.getBoundingClientRect();
    return right > innerWidth || each.scrollWidth > each.clientWidth + 1 && each.clientWidth > 0;
}).map((each) => each.id || each.textContent)"""


ONE_LINE = """(() => {
    const [state, theme] = ["state", "theme"].map((id) => document.getElementById(id).getBoundingClientRect());
    return state.top < theme.bottom && theme.top < state.bottom;
})()"""


@contextmanager
def proxy_with_prefix(cluster: LocalClusterProcess, run: Path) -> Iterator[int]:
    port = free_port_block(1)
    (run / "conf").write_text(PROXY.format(run=run, port=port, cluster=cluster.port))
    process = subprocess.Popen(["nginx", "-p", str(run), "-e", str(run / "log"), "-c", str(run / "conf")])
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


async def open_console(browser: Browser, address: str, *, width: int = 1280, dark: bool = False) -> Page:
    context = await browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light"
    )
    page = await context.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"in the page: {error}"))
    await page.goto(address)
    return page


async def test_under_a_path_of_its_own(
    cluster: LocalClusterProcess, browser: Browser, tmp_path: Path, artifacts: Path
) -> None:
    """Fails if a part of the console, its API or its socket is looked for at the root of the host."""
    with proxy_with_prefix(cluster, tmp_path) as port:
        page = await open_console(browser, "about:blank")
        failed: list[str] = []
        page.on("response", lambda response: failed.append(response.url) if response.status >= 400 else None)
        page.on("requestfailed", lambda request: failed.append(request.url))

        async def answers() -> bool:
            with socket_to(port):
                return True

        await eventually(answers)
        await page.goto(f"http://localhost:{port}/live/?user=paul")
        await expect(page.locator("#state")).to_have_text("Connected")
        await expect(page.locator("#transport")).to_have_text("by WebSocket")
        await expect(page.locator("#replicas [data-replica]")).to_have_count(3)
        await expect(page.locator("#invitation a")).to_have_attribute("href", re.compile(r"^\?user="))
        await page.fill("#to", "paul")
        await page.fill("#text", "under a path")
        await page.click("#send")
        await expect(page.locator('#messages [data-direction="in"]')).to_contain_text("under a path")
        await page.goto(f"http://localhost:{port}/live/?user=paul#/channels/chat:path")
        await expect(page.locator("#members li")).to_have_count(1)
        await page.screenshot(path=artifacts / "console-prefix.png")
        assert failed == []


@contextmanager
def socket_to(port: int) -> Iterator[None]:
    import socket

    with socket.create_connection(("127.0.0.1", port), 1):
        yield


async def test_what_was_sent_before_the_console_was_open_and_between_two_of_its_pages(
    cluster: LocalClusterProcess, browser: Browser
) -> None:
    """Fails if the console begins with nothing although messages are kept, or a reload loses or repeats some."""
    with Publisher(f"redis://127.0.0.1:{cluster.redis_port}/0") as publisher:
        publisher.send_to_user("casper", "before you came")
        page = await open_console(browser, f"http://localhost:{cluster.port}/?user=casper")
        heard = page.locator('#messages [data-direction="in"]')
        await expect(heard).to_have_count(1)
        await expect(heard).to_contain_text("before you came")
        await page.goto("about:blank")
        publisher.send_to_user("casper", "while you were away")
        await page.goto(f"http://localhost:{cluster.port}/?user=casper")
        await expect(heard).to_have_count(1)
        await expect(heard).to_contain_text("while you were away")


async def test_a_log_that_has_ended_and_a_channel_that_is_refused(
    cluster: LocalClusterProcess, browser: Browser, artifacts: Path
) -> None:
    """Fails if an exit is shown as JSON, the log stays live, or a refused channel looks as if it was joined."""
    address = f"http://localhost:{cluster.port}/?user=lotte"
    page = await open_console(browser, address + "#/logs/job-7")
    with Publisher(f"redis://127.0.0.1:{cluster.redis_port}/0") as publisher:
        publisher.log("job-7", "compiling")
        await expect(page.locator("#log-source")).to_have_text("Live")
        publisher.publish("logs:job-7", {"dropped": 12, "stream": "dropped"})
        publisher.publish("logs:job-7", {"exit_code": 3, "stream": "exit"})
        await expect(page.locator("#log-source")).to_have_text("Ended")
        lines = page.locator("#log-lines .line:visible .text")
        await expect(lines).to_have_text(["compiling", "– 12 lines missing here –", "– ended with exit code 3 –"])
        await page.screenshot(path=artifacts / "console-log-ended.png")
        publisher.log("job-7", "started again")
        await expect(page.locator("#log-source")).to_have_text("Live")

    await page.goto(address + "#/channels/%23bob")
    tab = page.locator("#joined li")
    await expect(tab).to_have_attribute("data-state", "refused")
    await expect(page.locator("#channel-send")).to_be_disabled()
    await expect(page.locator("#people-note")).to_have_text(re.compile("Not joined"))
    await page.screenshot(path=artifacts / "console-channel-refused.png")
    await page.goto(address + "#/channels/chat:ok")
    await expect(tab.last).to_have_attribute("data-state", "joined")
    await expect(page.locator("#channel-send")).to_be_enabled()


async def test_no_ring_around_the_card_after_connecting_by_keyboard(
    cluster: LocalClusterProcess, browser: Browser
) -> None:
    """Fails if the whole card looks as if it was a control that has the focus."""
    page = await open_console(browser, f"http://localhost:{cluster.port}/")
    await page.fill("#user", "kim")
    await page.press("#user", "Enter")
    await expect(page.locator("#state")).to_have_text("Connected")
    assert await page.evaluate("document.activeElement.id") == "connection"
    assert await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "none"
    await page.press("#connection", "Tab")
    assert await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


async def test_redis_hangs_and_the_cluster_goes(
    own_cluster: LocalClusterProcess, browser: Browser, artifacts: Path
) -> None:
    """Fails if the page stays green while Redis hangs, or shows figures of now when nobody tells any."""
    page = await open_console(browser, f"http://localhost:{own_cluster.port}/?user=rosa#/cluster")
    state, problem = page.locator("#state"), page.locator("#problem")
    await expect(state).to_have_text("Connected")
    await expect(page.locator('[data-figure="connections"]').first).to_have_text(re.compile(r"\d"))
    redis = own_cluster.pids()["redis"]
    os.kill(redis, signal.SIGSTOP)
    try:
        await expect(state).to_have_text("Degraded", timeout=15_000)
        await expect(problem).to_be_visible()
        await page.screenshot(path=artifacts / "console-degraded.png")
    finally:
        os.kill(redis, signal.SIGCONT)
    await expect(state).to_have_text("Connected", timeout=15_000)
    await expect(problem).to_be_hidden()
    # A scale is read from its left end: what stands out of the picture would be another number.
    left = "[...document.querySelectorAll('.chart:not([hidden]) text')].map((each) => each.getBBox().x)"
    assert min(await page.evaluate(left)) >= 0

    await asyncio.to_thread(own_cluster.__exit__)
    await expect(page.locator("#cluster-problem")).to_contain_text("does not answer", timeout=15_000)
    figures = page.locator("#replicas [data-figure], .chart:not([hidden]) .values li")
    for text in await figures.all_text_contents():
        assert text == "–"
    await expect(page.locator("#replicas .badge:visible", has_text="ready")).to_have_count(0)
    await page.screenshot(path=artifacts / "console-gone.png")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_every_page_on_the_smallest_screen(
    cluster: LocalClusterProcess, browser: Browser, artifacts: Path, dark: bool
) -> None:
    """Fails if a page is wider than 320 pixels, or what is always there is cut off or takes a line of its own."""
    page = await open_console(browser, f"http://localhost:{cluster.port}/?user=tiny", width=320, dark=dark)
    await expect(page.locator("#state")).to_have_text("Connected")
    for name in ("messages", "runs/nightly", "logs/job-7", "channels/chat:tiny", "cluster"):
        await page.evaluate(f"location.hash = '#/{name}'")
        await expect(page.locator(".source:visible", has_text="Connecting")).to_have_count(0)
        kind = "dark" if dark else "light"
        await page.screenshot(path=artifacts / f"console-{name.partition('/')[0]}-320-{kind}.png")
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        assert await page.evaluate(CUT_OFF) == [], name
        assert await page.evaluate(ONE_LINE), name
