"""The server in a thread, and the fixtures, as a user's tests have them."""

import asyncio

import pytest

from heliograph.client.publisher import Publisher
from heliograph.testing import EmbeddedServer, RecordingPublisher
from heliograph.testing.plugin import heliograph_publisher, heliograph_server
from tests.support.client import Client

__all__ = ["heliograph_publisher", "heliograph_server"]


async def test_what_is_published_reaches_its_clients(heliograph_server: EmbeddedServer) -> None:
    """Fails if the fixture's server is no whole one: sockets, or the server API with its key, are missing."""
    async with Client(heliograph_server.url, user="bob") as bob:
        with Publisher(heliograph_server.url, api_key=heliograph_server.api_key) as publisher:
            await asyncio.to_thread(publisher.send_to_user, "bob", {"text": "hello"})
        assert (await bob.next("message"))["data"] == {"text": "hello"}


def test_it_starts_and_stops_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if it joins the cluster of the machine's settings, or its port stays taken."""
    monkeypatch.setenv("HELIOGRAPH_REDIS__URL", "redis://production:6379/0")
    monkeypatch.setenv("HELIOGRAPH_REDIS__DURABLE_URL", "redis://kept:6379/0")
    with EmbeddedServer(namespaces={"cursors": {"ephemeral": True}}) as server:
        with Publisher(server.url, api_key=server.api_key) as publisher:
            assert publisher.publish("cursors:1", 1).epoch is None
            assert publisher.publish("news", 1).offset == 1
        server.stop()
    server.stop()


def test_one_that_cannot_start_says_why() -> None:
    """Fails if a test waits half a minute for a server that has failed at once."""
    with pytest.raises(RuntimeError, match="has not started") as caught:
        EmbeddedServer(drain={"deadline_s": "soon"}).start()
    assert "deadline_s" in str(caught.value.__cause__).lower()


def test_a_group_that_is_misspelt_is_refused() -> None:
    """Fails if a server starts without the settings that it was given: a test would try something else."""
    with pytest.raises(RuntimeError) as caught:
        EmbeddedServer(namespace={"chat": {"presence": True}}).start()
    assert str(caught.value.__cause__) == "there is no such group of settings: namespace"


def test_the_recording_fixture(heliograph_publisher: RecordingPublisher) -> None:
    """Fails if the fixture is not a fresh publisher."""
    heliograph_publisher.publish("news", 1)
    assert heliograph_publisher.data("news") == [1]
