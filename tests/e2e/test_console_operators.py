"""The console for operators in a real Chromium: connections, channels, runs and frames, and who may see them."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from heliograph.client.publisher import Publisher
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.cluster import SOURCES, LocalClusterProcess
from tests.support.http import http_client
from tests.support.shards import RedisShards
from tests.support.tokens import JWT, token

pytestmark = pytest.mark.e2e

KEY = "a key of this very test"
SCRIPT = "<script>document.title='owned'</script>"
RIGHT_TO_LEFT = "\u202e" + "עולם-שלום" * 14  # of 255 bytes, nearly, and it turns what follows around
NAMES = ["우주여행고양이", SCRIPT, RIGHT_TO_LEFT, "x" * 255, "42"]
NO_PRIMITIVES = {"state": {"toString": 1}, "progress": {"toString": 1, "valueOf": 1}}  # String() of these throws
OPERATOR_VIEWS = {
    "connections": "#connections-list tr",
    "browse": "#browse-live tr",
    "trace": "#trace-form",
    "frames": "#frames-lines",
}


async def open_console(browser: Browser, url: str, address: str = "", **options: Any) -> Page:
    context = await browser.new_context(viewport={"width": 1280, "height": 800}, **options)
    page = await context.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"in the page: {error}"))
    page.on("console", lambda line: pytest.fail(line.text) if "Content Security Policy" in line.text else None)
    await page.goto(f"{url}/{address}")
    return page


def row(page: Page, user: str) -> Locator:
    return page.locator("#connections-list tbody tr").filter(has=page.get_by_text(user, exact=True))


@pytest.fixture
async def crowd(cluster: LocalClusterProcess) -> AsyncIterator[dict[str, Client]]:
    """Users with names of every kind, on all three replicas."""
    names = [*NAMES, *(f"guest-{each:02}" for each in range(56))]
    clients = {name: Client(cluster.url, user=name, source=SOURCES[n % 3]) for n, name in enumerate(names)}
    async with AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(each) for each in clients.values()))
        yield clients


async def test_connections_are_found_looked_at_and_ended(
    cluster: LocalClusterProcess, browser: Browser, crowd: dict[str, Client], artifacts: Path
) -> None:
    """Fails if an operator does not find a connection on any replica, or cannot end it and keep its user out."""
    await crowd["42"].say({"type": "subscribe", "channel": "chat:lobby", "id": 1})
    await crowd["42"].next("subscribed")
    for _ in range(3):
        await crowd["42"].send("guest-07", "hello")
    page = await open_console(browser, cluster.url, "?user=ada#/connections")
    total, rows = page.locator("#connections-list .pager .aside"), page.locator("#connections-list tbody tr")
    await expect(total).to_have_text(re.compile(r"^6[1-9] connections$"))
    await expect(rows).to_have_count(50)
    await page.get_by_role("button", name="Next ›").click()
    await expect(rows).not_to_have_count(50)
    await page.get_by_role("button", name="‹ Previous").click()
    await expect(rows).to_have_count(50)
    names = set(await page.locator("#connections-list .replica-name").all_inner_texts())
    assert names == {"replica-1", "replica-2", "replica-3"}
    await page.get_by_role("button", name="Received").click()
    await expect(rows.first).to_contain_text("42")
    await expect(page.locator('[data-column="received"]').first).to_have_attribute("aria-sort", "descending")
    await page.screenshot(path=artifacts / "console-connections.png")

    search = page.get_by_role("searchbox", name="User, or the beginning")
    for name in NAMES[:4]:
        await search.fill(name)
        await expect(total).to_have_text("1 connection")
        await expect(row(page, name)).to_be_visible()
    assert await page.title() != "owned"
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await search.fill("no such user")
    await expect(page.get_by_text("No connections match.")).to_be_visible()

    # By keyboard: find, open, disconnect, confirm.
    await search.fill("42")
    await row(page, "42").get_by_role("button").focus()
    await page.keyboard.press("Enter")
    dialog = page.locator("#connection-dialog")
    await expect(dialog.locator("#connection-channels li")).to_have_text(["#42", "chat:lobby"])
    await expect(dialog).to_contain_text("4 operations")
    await page.screenshot(path=artifacts / "console-connection.png")
    await page.keyboard.press("Escape")
    await expect(dialog).to_be_hidden()
    await expect(row(page, "42").get_by_role("button")).to_be_focused()
    await page.keyboard.press("Enter")
    await dialog.get_by_role("button", name="Disconnect", exact=True).click()
    await expect(dialog.get_by_role("alert")).to_contain_text("Close this connection of 42?")
    await dialog.get_by_role("button", name="Cancel").click()
    await dialog.get_by_role("button", name="Block").click()
    await dialog.get_by_role("button", name="Block", exact=True).click()
    assert await crowd["42"].close_code() == 3503
    await expect(dialog.locator("#connection-gone")).to_have_text("This connection has ended.")
    await page.keyboard.press("Escape")
    blocked = page.locator('#blocked [data-user="42"]')
    await expect(blocked).to_contain_text("59 m")
    await blocked.get_by_role("button").click()
    await expect(blocked).to_have_count(0)
    async with Client(cluster.url, user="42"):
        await expect(row(page, "42")).to_be_visible()


async def test_channels_are_browsed_and_published_on(
    cluster: LocalClusterProcess, browser: Browser, artifacts: Path
) -> None:
    """Fails if a channel or a publication is not found, pages overlap, or what a server publishes reaches nobody."""
    channel = f"news:{SCRIPT}"
    with Publisher(f"redis://127.0.0.1:{cluster.redis_port}/0") as publisher:
        for number in range(60):
            publisher.publish(channel, {"number": number, "text": "안녕 <b>"})
        for number in range(3):
            publisher.publish_progress(f"nightly-{number}", state="RUNNING", progress=10 * number)
        publisher.log("nightly-log", "the last line", "stdout")
        publisher.publish("news:like-a-run", NO_PRIMITIVES)
    async with Client(cluster.url, user="bennet") as ben:
        await ben.say({"type": "subscribe", "channel": channel, "id": 1})
        await ben.next("subscribed")
        page = await open_console(browser, cluster.url, "?user=ada#/browse")
        live = page.locator("#browse-live tbody tr")
        await expect(live.filter(has_text=channel)).to_be_visible()
        await expect(page.locator("#browse-live")).not_to_contain_text("#bennet")
        await page.get_by_text("Users' own").click()
        await expect(page.locator("#browse-live")).to_contain_text("#bennet")
        await page.fill("#browse-search", "news:<")
        await expect(live).to_have_count(1)
        await page.screenshot(path=artifacts / "console-browse.png")
        await live.get_by_role("link").first.click()

        offsets = page.locator("#history-list .offset")

        async def shown() -> list[int]:
            return [int(each) for each in await offsets.all_inner_texts()]

        await expect(offsets.first).to_have_text("60")
        assert await shown() == list(range(60, 35, -1))
        await page.get_by_role("button", name="Older").click()
        await expect(offsets.first).to_have_text("35")
        await page.get_by_role("button", name="Older").click()
        await expect(offsets.first).to_have_text("10")
        assert await shown() == list(range(10, 0, -1))
        await expect(page.get_by_role("button", name="Older")).to_be_disabled()
        await page.get_by_role("button", name="Newer").click()
        await expect(offsets.first).to_have_text("35")
        await page.get_by_role("button", name="Newest").click()
        await expect(offsets.first).to_have_text("60")
        await page.locator("#history-list summary").first.press("Enter")
        await expect(page.locator("#history-list pre").first).to_contain_text('"number": 59')
        assert await page.locator("#history-list b").count() == 0

        await page.fill("#publish-data", "{not json")
        await page.get_by_role("button", name="Publish").click()
        await expect(page.locator("#publish-problem")).to_contain_text("Not JSON")
        await page.fill("#publish-data", '{"from": "the operator"}')
        await page.keyboard.press("Control+Enter")
        await expect(page.locator("#publish-result")).to_have_text("Published at 61")
        await expect(offsets.first).to_have_text("61")
        assert (await ben.next("message"))["data"] == {"from": "the operator"}
        await page.screenshot(path=artifacts / "console-history.png")
        await page.get_by_role("link", name="Subscribers").click()
        await expect(page.locator("#connections-list tbody tr")).to_have_count(1)
        await expect(row(page, "bennet")).to_be_visible()

    await page.goto(f"{cluster.url}/?user=ada#/browse")
    await page.locator("#browse-which").select_option("kept")
    await page.fill("#browse-search", "news:like")
    await expect(page.locator("#browse-kept tbody tr")).to_contain_text(["toString"])

    await page.goto(f"{cluster.url}/?user=ada#/runs")
    await page.locator("#run-list").get_by_role("searchbox").fill("nightly-")
    runs = page.locator("#run-list tbody tr").filter(has_text="nightly-")
    await expect(runs).to_have_count(3)
    await expect(runs.filter(has_text="nightly-2")).to_contain_text("RUNNING 20 %")
    await runs.filter(has_text="nightly-2").get_by_role("link").click()
    await expect(page.locator("#run-percent")).to_have_text("20 %")
    await expect(page.locator("#run-list")).to_be_hidden()
    await page.get_by_role("button", name="All runs").click()
    await expect(runs).to_have_count(3)
    await page.goto(f"{cluster.url}/?user=ada#/logs")
    await page.locator("#log-list").get_by_role("searchbox").fill("nightly-")
    await expect(page.locator("#log-list tbody tr").filter(has_text="nightly-log")).to_contain_text("the last line")


async def test_what_became_of_a_message(cluster: LocalClusterProcess, browser: Browser, artifacts: Path) -> None:
    """Fails if an operator is not told who got a message, or who asks for one that nobody knows is told nothing."""
    async with (
        Client(cluster.url, user="tess", source=SOURCES[1]) as tess,
        Client(cluster.url, user="tom", source=SOURCES[2]) as tom,
    ):
        sent = await tom.send("tess", "hello")
        await tess.next("message")
        page = await open_console(browser, cluster.url, "?user=ada#/trace")
        await page.fill("#trace-user", "tess")
        await page.fill("#trace-message_id", sent["message_id"])
        await page.keyboard.press("Enter")
        verdict = page.locator("#trace-verdict")
        await expect(verdict).to_have_attribute("data-reached", "true")
        await expect(verdict).to_contain_text("tess")
        await expect(page.locator("#trace-connections tbody tr")).to_contain_text(["written"])
        await expect(page.locator("#trace-entries tbody tr").first).to_be_visible()
        await page.screenshot(path=artifacts / "console-trace.png")
        await page.fill("#trace-message_id", "nonesuch")
        await page.keyboard.press("Enter")
        await expect(page.locator("#trace-view .view-problem:visible")).to_contain_text("not known")


# Of the second, a cut at 20,000 characters would be in the middle of the token.
LARGE_FRAMES_WITH_A_TOKEN = """async () => {
    const { FrameTap } = await import(new URL("static/frame_tap.js", document.baseURI));
    const tap = new FrameTap();
    const socket = new tap.WebSocket(new URL("nowhere", document.baseURI).href.replace("http", "ws"));
    for (const length of [10, 19_965, 30_000]) {
        const frame = JSON.stringify({ filler: "x".repeat(length), token: "secret".repeat(9) });
        try { socket.send(frame); } catch { /* it is not open */ }
    }
    return tap.frames.filter(({ direction }) => direction === "out").map(({ text }) => text);
}"""


async def test_frames_of_ones_own_connection(cluster: LocalClusterProcess, browser: Browser, artifacts: Path) -> None:
    """Fails if a frame is not shown, one that was chosen cannot be read whole, or a part of a token is shown."""
    page = await open_console(browser, cluster.url, "?user=framed#/frames")
    lines = page.locator("#frames-lines .line:visible")
    await expect(lines.filter(has_text='"type":"connected"')).to_have_count(1)
    await page.evaluate("location.hash = '#/messages'")
    await page.fill("#to", "framed")
    await page.fill("#text", SCRIPT)
    await page.click("#send")
    await page.evaluate("location.hash = '#/frames'")
    await expect(lines.filter(has_text='→ {"type":"send"')).to_have_count(1)
    await page.fill("#frames-filter", '"type":"message"')
    await expect(page.locator("#frames-sum")).to_have_text(re.compile(" of "))
    await expect(lines.filter(has_text='"type":"connected"')).to_have_count(0)  # drawn: lines keep their places now
    await lines.filter(has_text='"type":"message"').click()
    await expect(page.locator("#frame-text")).to_contain_text('"from": "framed"')
    await page.screenshot(path=artifacts / "console-frames.png")
    assert await page.title() != "owned"
    shown = await page.evaluate(LARGE_FRAMES_WITH_A_TOKEN)
    assert [len(text) > 20_000 for text in shown] == [False, False, True]
    assert not any("secret" in text for text in shown)


BLOCK_51 = """() => fetch("api/batch", {
    method: "POST",
    headers: { "X-Heliograph-Console": "1", "Content-Type": "application/json" },
    body: JSON.stringify({
        commands: Array.from({ length: 51 }, (_, each) => ({ disconnect: { user: `out-${each}`, block_s: 3600 } })),
    }),
})"""


async def test_an_operator_logs_in_and_out(start_replica: StartReplica, browser: Browser, artifacts: Path) -> None:
    """Fails if operators cannot log in where users have tokens, others see anything, or the page keeps a secret."""
    one = await start_replica(redis_url=None, auth=JWT, console={"enabled": True}, api={"key": KEY})
    url = one.url.replace("127.0.0.1", "localhost")
    page = await open_console(browser, url, "#/connections")
    gate = page.locator("#connections-view .gate")
    await expect(gate).to_contain_text("Log in to see")
    await expect(page.locator("#connections-view .operator-body")).to_be_hidden()
    await gate.get_by_role("button", name="Log in").click()
    dialog = page.locator("#login-dialog")
    await expect(page.get_by_label("Key of the server API")).to_be_focused()
    await page.keyboard.type("not the key at all")
    await page.keyboard.press("Enter")
    await expect(dialog.get_by_role("alert")).to_contain_text("not the key")
    await page.screenshot(path=artifacts / "console-login.png")
    await page.get_by_label("Key of the server API").fill(KEY)
    await page.keyboard.press("Enter")
    await expect(dialog).to_be_hidden()
    await expect(page.get_by_text("No connections match.")).to_be_visible()
    await expect(page.locator("#replicas [data-replica]")).to_have_count(1)
    blocked, pager = page.locator("#blocked li"), page.locator("#blocked + .pager")
    await page.evaluate(BLOCK_51)
    await expect(blocked).to_have_count(50, timeout=10_000)
    await pager.get_by_role("button", name="Next").click()
    await expect(blocked).to_have_count(1)
    await blocked.get_by_role("button").click()
    await expect(blocked).to_have_count(50)
    await expect(pager.get_by_role("button", name="Previous")).to_be_hidden()
    async with Client(one.url) as bob:
        await bob.say({"type": "connect", "token": token("bob")})
        await expect(row(page, "bob")).to_be_visible(timeout=10_000)
    kept = await page.evaluate(
        "JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}, location.href])"
    )
    assert KEY not in kept
    assert "heliograph_operator" not in kept
    assert await page.input_value("#login-secret") == ""
    await page.reload()
    await expect(page.get_by_role("button", name="Log out")).to_be_visible()
    await page.get_by_role("button", name="Log out").click()
    await expect(gate).to_be_visible()
    await page.reload()
    await expect(gate.get_by_role("button", name="Log in")).to_be_visible()

    await gate.get_by_role("button", name="Log in").click()
    await page.get_by_role("radio", name="Token").check()
    attempts: list[tuple[dict[str, Any], str]] = [({}, "needs the claim 'admin'"), ({"admin": True}, "")]
    for claims, text in attempts:
        await page.get_by_label("Operator's token").fill(token("ada", **claims))
        await dialog.get_by_role("button", name="Log in").click()
        if text:
            await expect(dialog.get_by_role("alert")).to_contain_text(text)
    await expect(page.get_by_role("button", name="Log out")).to_have_attribute("title", "Operator ada")
    # The session ends elsewhere: the page says so, and does not go on asking.
    asked: list[str] = []
    cookies = await page.context.cookies()
    await page.context.clear_cookies()
    await expect(gate).to_be_visible(timeout=10_000)
    page.on("request", lambda request: asked.append(request.url))
    await page.wait_for_timeout(3_500)
    assert not [each for each in asked if "/api/connections" in each]
    assert [(each["httpOnly"], each["sameSite"]) for each in cookies] == [(True, "Strict")]


async def test_which_shard_is_gone(
    start_replica: StartReplica, browser: Browser, tmp_path: Path, artifacts: Path
) -> None:
    """Fails if an operator cannot see which Redis is gone, or is kept from what the others have."""
    shards = RedisShards(tmp_path).start()
    try:
        one = await start_replica(**shards.options)
        async with http_client(one.url, headers={"X-Heliograph-Console": "1"}) as http:
            await http.post("/api/login", json={})
            kept = shards.names("news:")
            answer = await http.post("/api/broadcast", json={"channels": kept, "data": 1})
            assert all("result" in each for each in answer.json()["result"]["responses"]), answer.text
        page = await open_console(browser, one.url.replace("127.0.0.1", "localhost"), "?user=ada#/browse")
        await page.select_option("#browse-which", "kept")
        rows = page.locator("#browse-kept tbody tr")
        await expect(rows).to_have_count(3)
        shards.servers[1].stop()
        await expect(page.locator("#shards-problem")).to_contain_text("Shard 2 of 3", timeout=20_000)
        await expect(page.locator("#browse-kept .problem")).to_contain_text("without shard 2 of 3", timeout=20_000)
        await expect(rows).to_have_count(2)
        await page.evaluate("location.hash = '#/cluster'")
        states = page.locator("#shards-list [data-column='state'] .badge")
        await expect(states).to_have_text(["ready", "not working", "ready"])
        for width in (320, 1280):
            await page.set_viewport_size({"width": width, "height": 740})
            await expect(page.locator("#shards-list [data-shard='2'] [data-column='shard']")).to_have_text("2 of 3")
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            await page.screenshot(path=artifacts / f"console-shards-{width}.png")
    finally:
        shards.stop()


async def test_operators_on_the_smallest_phone_and_in_the_dark(
    cluster: LocalClusterProcess, browser: Browser, crowd: dict[str, Client], artifacts: Path
) -> None:
    """Fails if a view of operators is wider than a phone, or a part of it cannot be reached or named by keyboard."""
    await crowd["42"].say({"type": "subscribe", "channel": RIGHT_TO_LEFT[:60], "id": 1})
    await crowd["42"].next("subscribed")
    await crowd["42"].say({"type": "publish", "channel": RIGHT_TO_LEFT[:60], "data": "x" * 500, "id": 2})
    page = await open_console(browser, cluster.url, "?user=pia#/messages", color_scheme="dark")
    await expect(page.locator("#state")).to_have_attribute("data-state", "connected")
    views = {**OPERATOR_VIEWS, f"browse/{RIGHT_TO_LEFT[:60]}": "#history-list li", "runs": "#run-list"}
    for width in (320, 1280):
        await page.set_viewport_size({"width": width, "height": 740})
        for view, part in views.items():
            await page.evaluate("(address) => { location.hash = address; }", f"#/{view}")
            await expect(page.locator(part).first).to_be_visible()
            too_wide = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert too_wide <= 0, (view, width)
            name = view.partition("/")[0] + ("-channel" if "/" in view else "")
            await page.screenshot(path=artifacts / f"console-{name}-{'phone' if width < 900 else 'dark'}.png")
    await page.set_viewport_size({"width": 320, "height": 740})
    await page.evaluate("location.hash = '#/connections'")
    await page.fill("#connections-search", RIGHT_TO_LEFT)
    await row(page, RIGHT_TO_LEFT).get_by_role("button").click()
    box = await page.locator("#connection-dialog").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 320
    await page.screenshot(path=artifacts / "console-connection-phone.png")
    unnamed = await page.evaluate(UNNAMED)
    assert unnamed == [], json.dumps(unnamed)


# Controls that a screen reader has no name for.
UNNAMED = """[...document.querySelectorAll("button, a, input, select, textarea")].filter((each) => {
    const labels = [...(each.labels ?? [])].map((label) => label.textContent).join("");
    return !each.hidden && !(each.getAttribute("aria-label") || labels || each.textContent || each.title).trim();
}).map((each) => each.outerHTML)"""
