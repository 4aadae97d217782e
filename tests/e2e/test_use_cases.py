"""The samples of the pages by use case (docs/use-*.md, docs/behind-a-proxy.md), as they stand there."""

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Browser, Page, expect

from tests.support.client import Client
from tests.support.cluster import ROOT, LocalClusterProcess
from tests.support.event_source import EventSource
from tests.support.http import http_client
from tests.support.ports import free_port
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e


def sample(page: str, language: str) -> str:
    """The first sample of a page in that language."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found is not None, f"docs/{page} has no sample in {language}"
    return found[1]


def run(cluster: LocalClusterProcess, command: list[str]) -> str:
    """Run what a sample says, with the addresses of this cluster."""
    redis = f"redis://localhost:{cluster.redis_port}/0"
    command = [each.replace("redis://localhost:8079/0", redis) for each in command]
    bin_directory = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{bin_directory}:{os.environ['PATH']}",
        "HELIOGRAPH_PORT": str(cluster.port),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def show(cluster: LocalClusterProcess, browser: Browser, page_name: str) -> Page:
    """A page of the cluster's origin with the sample's HTML, connected."""
    page = await browser.new_page()
    await page.goto(f"{cluster.url}/health")
    frames: list[str] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: frames.append(str(frame))))
    await page.set_content(sample(page_name, "html"))
    await eventually(lambda: any('"connected"' in frame for frame in frames))
    return page


async def test_job_output(cluster: LocalClusterProcess, browser: Browser) -> None:
    """Fails if a viewer who comes in the middle does not see the lines of both samples, in order."""
    run(cluster, [sys.executable, "-c", sample("use-job-output.md", "python")])
    page = await show(cluster, browser, "use-job-output.md")
    await expect(page.locator("#log")).to_have_text(re.compile("compiling….*unused variable", re.DOTALL))
    run(cluster, ["/bin/sh", "-ec", sample("use-job-output.md", "sh")])
    steps = r"\s+".join(f"step {number}" for number in range(1, 6))
    await expect(page.locator("#log")).to_have_text(re.compile(rf"unused variable\s+{steps}\s*$"))


async def test_progress(cluster: LocalClusterProcess, browser: Browser) -> None:
    """Fails if the bar, the state or the log differs from what the sample published."""
    page = await show(cluster, browser, "use-progress.md")
    run(cluster, [sys.executable, "-c", sample("use-progress.md", "python")])
    await expect(page.locator("#state")).to_have_text("END")
    await expect(page.locator("#bar")).to_have_js_property("value", 100)
    await expect(page.locator("#log")).to_have_text(re.compile(r"started\s+copied 4 of 10 files"))
    async with http_client(cluster.url) as http:
        assert (await http.get("/api/runs/42")).json()["state"] == "END"


async def test_chat(cluster: LocalClusterProcess, browser: Browser) -> None:
    """Fails if two pages do not see each other's messages, or who is there."""
    one, two = await show(cluster, browser, "use-chat.md"), await show(cluster, browser, "use-chat.md")
    both = re.compile(r"^guest-\d+, guest-\d+$")
    for page in (one, two):
        await expect(page.locator("#members")).to_have_text(both)
    await one.fill("#text", "우주여행고양이 <b>")
    await one.press("#text", "Enter")
    for page in (one, two):
        # The channel is the demo's: the cluster may hold earlier messages of it.
        await expect(page.locator("#messages li").last).to_have_text(re.compile(r"guest-\d+: 우주여행고양이 <b>"))
    await one.close()
    await expect(two.locator("#members")).to_have_text(re.compile(r"^guest-\d+$"))


async def test_notifications(cluster: LocalClusterProcess, browser: Browser) -> None:
    """Fails if a user who comes later does not get the notification, or gets it twice."""
    for _ in range(2):
        run(cluster, [sys.executable, "-c", sample("use-notifications.md", "python")])
    page = await show(cluster, browser, "use-notifications.md")
    await expect(page.locator("#notifications li")).to_have_text(["your order was shipped"])


def start_nginx(configuration: Path, log: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["/usr/sbin/nginx", "-e", str(log), "-c", str(configuration)])


@pytest.fixture
async def proxy(cluster: LocalClusterProcess, tmp_path: Path) -> AsyncIterator[str]:
    """The nginx of docs/behind-a-proxy.md before the cluster."""
    port = free_port()
    servers = sample("behind-a-proxy.md", "nginx")
    servers = servers.replace("listen 8000", f"listen {port}").replace("127.0.0.1:8080", f"127.0.0.1:{cluster.port}")
    configuration = tmp_path / "nginx.conf"
    kinds = ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")
    paths = "".join(f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in kinds)
    configuration.write_text(
        f"daemon off;\npid {tmp_path}/pid;\nerror_log {tmp_path}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{paths}{servers}}}\n"
    )
    program = start_nginx(configuration, tmp_path / "error.log")
    url = f"http://localhost:{port}"
    try:

        async def is_up() -> bool:
            assert program.poll() is None, (tmp_path / "error.log").read_text()
            try:
                async with http_client(url) as http:
                    return (await http.get("/live/ready")).status_code == 200
            except httpx.TransportError:
                return False

        await eventually(is_up, within_s=10)
        yield url
    finally:
        program.terminate()
        program.wait(10)


async def test_behind_a_proxy(proxy: str, browser: Browser) -> None:
    """Fails if a transport, the console or the JavaScript client does not work under a prefix of another proxy."""
    async with (
        Client(f"{proxy}/live", user="alice") as alice,
        EventSource(f"{proxy}/live", user="bob", channels="news") as events,
    ):
        await events.next("subscribed")
        await alice.send("bob", "hello")
        assert (await events.next("message"))["data"] == "hello"
        page = await browser.new_page()
        await page.goto(f"{proxy}/live/?user=carol")
        await expect(page.locator("#state")).to_have_attribute("data-state", "connected")
        await page.evaluate(
            """async () => {
                const { Heliograph } = await import("/live/static/heliograph.js");
                window.dave = new Heliograph({ url: "/live/ws", user: "dave" });
                window.heard = new Promise((tell) => dave.on("message", ({ data }) => tell(data)));
                const connected = new Promise((tell) => dave.on("connected", tell));
                dave.connect();
                await connected;
            }"""
        )
        await alice.send("dave", "under a prefix")
        assert await page.evaluate("window.heard") == "under a prefix"
