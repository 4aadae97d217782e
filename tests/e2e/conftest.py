"""One cluster for the tests that leave it as they found it; those that break it start their own."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, async_playwright, expect

from tests.support.cluster import ROOT, LocalClusterProcess

ARTIFACTS = ROOT / "artifacts"

expect.set_options(timeout=15_000)  # other tests run beside

QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync")


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=[*QUIET])
        yield chromium
        await chromium.close()


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """Where screenshots are kept."""
    ARTIFACTS.mkdir(exist_ok=True)
    return ARTIFACTS


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalClusterProcess]:
    with LocalClusterProcess(tmp_path_factory.mktemp("cluster") / "log") as running:
        yield running


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[LocalClusterProcess]:
    """A cluster for one test, to be hurt."""
    with LocalClusterProcess(tmp_path / "log") as running:
        yield running
