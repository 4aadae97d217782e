"""Fixtures for pytest: `pytest_plugins = ["heliograph.testing.plugin"]` in the top `conftest.py`."""

from collections.abc import Iterator

import pytest

from heliograph.testing.recording import RecordingPublisher
from heliograph.testing.server import EmbeddedServer


@pytest.fixture(scope="session")
def heliograph_server() -> Iterator[EmbeddedServer]:
    """Provide one real server for all tests of the session. Let each test use channels of its own."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def heliograph_publisher() -> Iterator[RecordingPublisher]:
    """Provide a publisher that sends nothing and records its publications."""
    with RecordingPublisher() as publisher:
        yield publisher
