"""The driver of the JavaScript SDK in a browser: what Node runs (drivers/javascript/driver.js), in a page."""

import asyncio
import json
from pathlib import Path
from typing import Any

from playwright.async_api import Page, Playwright, async_playwright

from tests.e2e.conftest import QUIET
from tests.sdk.driver import Client, Fields, SdkError

HERE = Path(__file__).parent
# Events go to the test in batches, as one text: calls for each of ten thousand would take longer than what is tested.
START = """async () => {
    const { Driver } = await import("data:text/javascript;base64," + btoa(window.driverSource));
    const events = [];
    const report = () => window.report(JSON.stringify(events.splice(0)));
    const emit = (event) => { if (events.push(event) === 1) setTimeout(report, 20); };
    window.driver = new Driver({ json: window.Centrifuge }, emit);
}"""
RUN = """(command) => window.driver.run(command).then(
    (result) => ({ result: result ?? {} }),
    ({ code, message }) => ({ error: { code: code ?? 0, message } }),
)"""


class PageDriver:
    """A driver that is a page, in a browser of its own."""

    def __init__(self, playwright: Playwright, page: Page) -> None:
        self._playwright = playwright
        self._page = page
        self._clients: dict[str, Client] = {}

    @classmethod
    async def open(cls, origin: str, packages: Path) -> "PageDriver":
        """`origin`: that of the page, which is the cluster's own; `packages`: where those of JavaScript are."""
        playwright = await async_playwright().start()
        chromium = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=[*QUIET])
        page = await chromium.new_page()
        driver = cls(playwright, page)
        await page.goto(f"{origin}/health")
        await page.expose_function("report", driver._report)
        await page.add_script_tag(path=packages / "node_modules" / "centrifuge" / "dist" / "centrifuge.js")
        source = (HERE / "drivers" / "javascript" / "driver.js").read_text(encoding="utf-8")
        await page.evaluate("(source) => { window.driverSource = source; }", source)
        await page.evaluate(START)
        return driver

    async def call(self, **command: Any) -> Fields:
        answer: Fields = await asyncio.wait_for(self._page.evaluate(RUN, command), 20)
        if "error" in answer:
            raise SdkError(answer["error"]["code"], answer["error"]["message"])
        result: Fields = answer["result"]
        return result

    def register(self, client: Client) -> None:
        self._clients[client.name] = client

    async def stop(self) -> None:
        assert self._page.context.browser is not None
        await self._page.context.browser.close()
        await self._playwright.stop()

    def _report(self, events: str) -> None:
        for event in json.loads(events):
            self._clients[event["client"]].take(event)
