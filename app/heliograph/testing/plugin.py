"""Fixtures for pytest: `pytest_plugins = ["heliograph.testing.plugin"]` in the top `conftest.py`."""

from collections.abc import Iterator

import pytest

from heliograph.testing.recording import RecordingPublisher
from heliograph.testing.server import EmbeddedServer


@pytest.fixture(scope="session")
def heliograph_server() -> Iterator[EmbeddedServer]:
    """A real server for all tests of the session; let each test use channels of its own."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def heliograph_publisher() -> Iterator[RecordingPublisher]:
    """A publisher that reaches nobody and remembers what it was given."""
    with RecordingPublisher() as publisher:
        yield publisher
