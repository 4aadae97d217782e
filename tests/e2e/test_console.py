"""The console in a real Chromium, through nginx."""

from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from tests.support.cluster import SOURCES, LocalClusterProcess
from tests.support.forwarder import forward_from

pytestmark = pytest.mark.e2e


async def connect(browser: Browser, port: int, user: str) -> Page:
    """A new browser window in which `user` is connected. It fails the test on any error in the page's console."""
    context = await browser.new_context(viewport={"width": 900, "height": 860})
    page = await context.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"in {user}'s page: {error}"))
    await page.goto(f"http://localhost:{port}/?user={user}")
    await expect(page.locator("#state")).to_have_attribute("data-state", "connected")
    return page


async def say(page: Page, to: str, text: str) -> None:
    await page.fill("#to", to)
    await page.fill("#text", text)
    await page.click("#send")


async def test_two_users_on_different_replicas_talk(
    cluster: LocalClusterProcess, browser: Browser, artifacts: Path
) -> None:
    """Fails if two people in two browsers, on two replicas behind nginx, cannot message each other."""
    async with forward_from(SOURCES[1], cluster.port) as other_network:
        alice = await connect(browser, cluster.port, "console-alice")  # nobody else sends to these
        bob = await connect(browser, other_network, "console-bob")
        alices, bobs = await alice.inner_text("#replica"), await bob.inner_text("#replica")
        assert alices != bobs

        await say(alice, "console-bob", "Hello Bob, 안녕 👋")
        heard = bob.locator('#messages [data-direction="in"]')
        await expect(heard).to_have_count(1)
        await expect(heard).to_contain_text("Hello Bob, 안녕 👋")
        await expect(heard).to_contain_text(alices)  # sent on
        await expect(heard).to_contain_text(bobs)  # delivered by
        await expect(alice.locator('#messages [data-direction="out"]')).to_have_attribute("data-delivery", "remote")

        await say(bob, "console-alice", "Hello Alice, from another replica")
        await expect(alice.locator('#messages [data-direction="in"]')).to_contain_text("from another replica")
        await expect(alice.locator("#replicas [data-replica]")).to_have_count(3)

        await alice.screenshot(path=artifacts / "console-alice.png")
        await bob.screenshot(path=artifacts / "console-bob.png")


async def test_a_browser_learns_why_it_was_closed(cluster: LocalClusterProcess, browser: Browser) -> None:
    """Fails if a frame that is too large ends in 1006: the socket was reset before the browser read the close."""
    page = await connect(browser, cluster.port, "olga")
    code = await page.evaluate(
        """async () => {
            const socket = new WebSocket(`ws://${location.host}/ws?user=olga`);
            await new Promise((resolve) => { socket.onopen = resolve; });
            socket.send("x".repeat(1_000_000));
            return await new Promise((resolve) => { socket.onclose = (event) => resolve(event.code); });
        }"""
    )
    assert code == 1009


async def test_what_users_write_is_text_and_nothing_else(cluster: LocalClusterProcess, browser: Browser) -> None:
    """Fails if markup in a message becomes markup in the page of the one who gets it."""
    page = await connect(browser, cluster.port, "mallory")
    await say(page, "mallory", "<img src=x onerror=\"document.title='owned'\"><b>bold</b>")
    message = page.locator('#messages [data-direction="in"]')
    await expect(message).to_contain_text("<b>bold</b>")
    assert await message.locator("b, img").count() == 0
    assert await page.title() != "owned"


@pytest.mark.alone  # it has seconds
async def test_the_page_comes_back_by_itself(own_cluster: LocalClusterProcess, browser: Browser) -> None:
    """Fails if a page whose replica is killed does not find its way to a living one without help."""
    import os
    import signal

    page = await connect(browser, own_cluster.port, "nina")
    session = await page.inner_text("#session")
    os.kill(own_cluster.pids()[await page.inner_text("#replica")], signal.SIGKILL)
    await expect(page.locator("#session")).not_to_have_text(session, timeout=5_000)
    await expect(page.locator("#state")).to_have_attribute("data-state", "connected", timeout=5_000)
    await say(page, "nina", "here again")
    await expect(page.locator('#messages [data-direction="in"]')).to_contain_text("here again")
