"""The JavaScript client without a server: `client_cases.js`, in a real Chromium."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Route, sync_playwright

from heliograph.console.page import CLIENT, STATIC

pytestmark = pytest.mark.e2e

CASES = Path(__file__).parent / "client_cases.js"
NAMES = re.findall(r"^export async function (\w+)", CASES.read_text(encoding="utf-8"), re.MULTILINE)


def serve(route: Route) -> None:
    """The console's files and the cases, as if there was a server."""
    path = route.request.url.removeprefix("http://page.test/")
    if path.startswith("static/"):
        name = path.removeprefix("static/")
        route.fulfill(path=next(directory / name for directory in (STATIC, CLIENT) if (directory / name).is_file()))
    elif path == CASES.name:
        route.fulfill(path=CASES)
    else:
        route.fulfill(body="<!doctype html><title>cases</title>", content_type="text/html")


RUN = """async (name) => {
    const errors = [];
    const onError = (event) => errors.push(String(event.error ?? event.reason));
    addEventListener("error", onError);
    addEventListener("unhandledrejection", onError);
    const late = new Promise((_, reject) => setTimeout(() => reject(new Error("not done in 10 s")), 10_000));
    try {
        await Promise.race([late, import("/client_cases.js").then((cases) => cases[name]())]);
    } catch (error) {
        errors.push(error.stack);
    }
    removeEventListener("error", onError);
    removeEventListener("unhandledrejection", onError);
    return errors.join("\\n");
}"""


@pytest.fixture(scope="module")
def failures() -> dict[str, str]:
    """What went wrong in each case; empty where nothing did."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = chromium.new_page()
        page.route("**/*", serve)
        page.goto("http://page.test/")
        found = {name: page.evaluate(RUN, name) for name in NAMES}
        chromium.close()
    return found


@pytest.mark.parametrize("name", NAMES)
def test_case(failures: dict[str, str], name: str) -> None:
    """Fails where the client does not do what the name says."""
    assert failures[name] == ""


def test_the_cases_are_found() -> None:
    """Fails if the cases are looked for in the wrong way, so that none of them would ever run."""
    assert len(NAMES) >= 20
