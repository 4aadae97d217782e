"""The JavaScript client in a real Chromium, through nginx: over page loads, and while parts of the cluster fail."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from heliograph.client.publisher import Publisher
from tests.support.cluster import LocalClusterProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

# In each page, before anything else. What it hears is kept beside it, because the next page is to add to that.
SCRIPT = """
const add = (what, value) => {
    localStorage.setItem(what, JSON.stringify([...JSON.parse(localStorage.getItem(what) ?? "[]"), value]));
};
if (location.pathname === "/health") import("/static/heliograph.js").then(({ Heliograph }) => {
    const client = new Heliograph({ user: "ghost", replay: true, resume: true });
    client.on("state", ({ transport }) => transport && add("transports", transport));
    client.on("message", ({ data }) => add("mine", data));
    client.on("lost", () => add("lost", "mine"));
    const news = client.subscribe("ghost-news", ({ data }) => add("news", data), { replay: true });
    news.on("lost", () => add("lost", "news"));
    client.connect();
    window.client = client;
});
"""
IS_CONNECTED = "window.client?.state.state === 'connected'"


@asynccontextmanager
async def page_of_its_own(browser: Browser, cluster: LocalClusterProcess) -> AsyncIterator[Page]:
    """A tab whose pages run `SCRIPT`; any error in them fails the test."""
    context = await browser.new_context()
    await context.add_init_script(SCRIPT)
    page = await context.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"in the page: {error}"))
    await page.goto(f"{cluster.url}/health?0")
    await page.wait_for_function(IS_CONNECTED)
    yield page
    await context.close()


async def heard(page: Page, what: str) -> list[Any]:
    return list(await page.evaluate("what => JSON.parse(localStorage.getItem(what) ?? '[]')", what))


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """The process does nothing, and its sockets stay open."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # who watches over it may have ended it
            os.kill(pid, signal.SIGCONT)


async def test_a_page_that_navigates_misses_and_repeats_nothing(
    cluster: LocalClusterProcess, browser: Browser
) -> None:
    """Fails if what comes between two pages of a tab is lost, or told twice, or if that is passed over in silence."""
    count, per_s = 160, 20
    async with page_of_its_own(browser, cluster) as page:

        async def send() -> None:
            with Publisher(f"redis://127.0.0.1:{cluster.redis_port}/0") as publisher:
                for number in range(count):
                    publisher.send_to_user("ghost", number)
                    publisher.publish("ghost-news", number)
                    await asyncio.sleep(1 / per_s)

        sending = asyncio.create_task(send())
        for visit in range(1, 6):
            await asyncio.sleep(count / per_s / 6)
            await page.goto(f"{cluster.url}/health?{visit}")
        await sending

        async def has_all() -> bool:
            return len(await heard(page, "mine")) >= count and len(await heard(page, "news")) >= count

        await eventually(has_all, within_s=10)
        assert await heard(page, "mine") == list(range(count))
        assert await heard(page, "news") == list(range(count))
        assert await heard(page, "lost") == []
        assert set(await heard(page, "transports")) == {"websocket"}


@pytest.mark.parametrize("transport", ["websocket", "sse", "poll"])
async def test_a_first_visit_gets_what_was_sent_before_it(
    cluster: LocalClusterProcess, browser: Browser, transport: str
) -> None:
    """Fails if somebody who opens a page later does not get, by some transport, what was kept for them."""
    user, channel = f"later-{transport}", f"before:{transport}"
    with Publisher(f"redis://127.0.0.1:{cluster.redis_port}/0") as publisher:
        for number in range(5):
            publisher.send_to_user(user, number)
            publisher.publish(channel, number)
    async with page_of_its_own(browser, cluster) as page:
        await page.evaluate(
            """async ([user, channel, transport]) => {
                const { Heliograph } = await import("/static/heliograph.js");
                const client = new Heliograph({ user, replay: true, transports: [transport] });
                window.told = [];
                client.on("message", ({ data }) => told.push(`mine ${data}`));
                client.on("lost", () => told.push("lost"));
                const on = client.subscribe(channel, ({ data }) => told.push(`theirs ${data}`), { replay: true });
                on.on("lost", () => told.push("lost"));
                client.connect();
                await on.ready;
            }""",
            [user, channel, transport],
        )
        wanted = sorted(f"{whose} {number}" for whose in ("mine", "theirs") for number in range(5))

        async def has_all() -> bool:
            return sorted(await page.evaluate("told")) == wanted

        await eventually(has_all)


async def test_what_is_published_while_redis_hangs_comes_once(
    own_cluster: LocalClusterProcess, browser: Browser
) -> None:
    """Fails if a Redis that hangs for ten seconds loses or doubles what a page says meanwhile, in silence or not."""
    async with page_of_its_own(browser, own_cluster) as page:
        await page.evaluate("client.publish('ghost-news', 'before')")
        with frozen(own_cluster.pids()["redis"]):
            await page.evaluate(
                """() => {
                    window.results = [];
                    for (let i = 0; i < 20; i += 1) {
                        client.publish("ghost-news", i).then(() => results.push(i), ({ code }) => results.push(code));
                    }
                }"""
            )
            await asyncio.sleep(10)
            assert await page.evaluate("results") == []

        async def are_answered() -> bool:
            return len(await page.evaluate("results")) == 20

        await eventually(are_answered, within_s=20)
        assert sorted(await page.evaluate("results"), key=str) == sorted(range(20), key=str)

        async def has_all() -> bool:
            return len(await heard(page, "news")) >= 21

        await eventually(has_all, within_s=10)
        await asyncio.sleep(2)  # what would come twice would come now
        assert sorted(await heard(page, "news"), key=str) == sorted(["before", *range(20)], key=str)
        assert await heard(page, "lost") == []


async def test_a_page_whose_replica_hangs_is_served_elsewhere(
    own_cluster: LocalClusterProcess, browser: Browser
) -> None:
    """Fails if a page stays for more than 15 s with a replica that accepts everything and says nothing."""
    async with page_of_its_own(browser, own_cluster) as page:
        victim = await page.evaluate("client.state.replica")
        sent = list(range(50))
        with (
            frozen(own_cluster.pids()[victim]),
            Publisher(f"redis://127.0.0.1:{own_cluster.redis_port}/0") as publisher,
        ):
            began = asyncio.get_running_loop().time()
            for number in sent:
                publisher.send_to_user("ghost", number)

            async def has_moved() -> bool:
                replica = await page.evaluate("client.state.state === 'connected' && client.state.replica")
                return bool(replica and replica != victim)

            await eventually(has_moved, within_s=15)
            print(f"served elsewhere after {asyncio.get_running_loop().time() - began:.1f} s")

            async def has_all() -> bool:
                return len(await heard(page, "mine")) >= len(sent)

            await eventually(has_all)
            assert await heard(page, "mine") == sent
            assert await heard(page, "lost") == []
