"""Rights in jwt mode, over every endpoint: what a token does not give and no namespace opens is closed."""

import logging
from typing import Any

import pytest

from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.http import http_client
from tests.support.replicas import RunningReplica
from tests.support.tokens import JWT, bearer, token

CLOSED = ("logs:101", "run:7", "orders:acme", "chat:1", "secret", "#bob")


@pytest.fixture
async def one(start_replica: StartReplica) -> RunningReplica:
    replica = await start_replica(redis_url=None, auth=JWT)
    for channel in ("news", *CLOSED):
        data: Any = {"state": "RUNNING", "message": "secret"} if channel.startswith("run:") else "secret"
        await replica.replica.manager.publish(channel, data)
    return replica


async def test_a_socket(one: RunningReplica) -> None:
    """Fails if a token for `news` subscribes to another channel, reads its history, its presence, or writes to it."""
    async with Client(one.url) as alice:
        await alice.say({"type": "connect", "token": token("alice", channels=["news"])})
        await alice.next("subscribed", channel="news")
        for channel in CLOSED:
            for kind in ("subscribe", "history", "presence"):
                await alice.say({"type": kind, "channel": channel, "id": f"{kind} {channel}"})
                assert (await alice.next("error", id=f"{kind} {channel}"))["code"] == "not_allowed"
        for channel in ("news", *CLOSED):
            await alice.say({"type": "publish", "channel": channel, "data": 1, "id": channel})
            assert (await alice.next("error", id=channel))["code"] == "not_allowed"
        assert (await alice.send("bob", 1))["code"] == "not_allowed"
        assert (await alice.send("bob", 1, ephemeral=True))["code"] == "not_allowed"
        await alice.nothing_more()


@pytest.mark.parametrize("path", ["/ws/logs/101", "/ws/runs/7", "/ws?channels=orders:acme"])
async def test_a_channel_in_the_url_of_a_socket(one: RunningReplica, path: str) -> None:
    """Fails if a URL opens what a `subscribe` may not."""
    async with Client(one.url, path=path) as alice:
        await alice.say({"type": "connect", "token": token("alice", channels=["news"])})
        assert (await alice.next("error"))["code"] == "not_allowed"
        await alice.nothing_more()


async def test_a_cursor_opens_nothing(one: RunningReplica) -> None:
    """Fails if a channel that a cursor names is told what was missed on it."""
    async with Client(one.url) as alice:
        cursor = "logs%3A101=e.0&orders%3Aacme=e.0&secret=e.0"
        await alice.say({"type": "connect", "token": token("alice", channels=["news"]), "cursor": cursor})
        await alice.next("subscribed", channel="news")
        await alice.nothing_more()
        assert await alice.only("subscribed") == []


@pytest.mark.parametrize("path", ["/sse?channels={}", "/api/poll?channels={}", "/api/runs/7"])
async def test_an_http_endpoint(one: RunningReplica, path: str) -> None:
    """Fails if one of the endpoints without a socket is wider than the socket, or closed to who has the right."""
    async with http_client(one.url) as http:
        for channel in CLOSED:
            answer = await http.get(path.format(channel.replace("#", "%23")), headers=bearer(channels=["news"]))
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_allowed"), channel
        if path != "/api/runs/7":
            path += "&wait=0"
        allowed = bearer(channels={"run:7": ["subscribe"]})
        async with http.stream("GET", path.format("run:7"), headers=allowed) as stream:
            assert stream.status_code == 200


async def test_what_a_namespace_and_a_token_open(start_replica: StartReplica) -> None:
    """Fails if a right that was given is not there: to read, to publish, to send to one user or to all."""
    opened = {"logs": {"client_subscribe": True}, "chat": {"client_publish": True}}
    one = await start_replica(redis_url=None, auth=JWT, namespaces=opened)
    async with Client(one.url) as alice:
        await alice.say({"type": "connect", "token": token("alice", channels={"#bob": ["send"]})})
        await alice.next("connected")
        await alice.say({"type": "subscribe", "channel": "logs:101"})
        await alice.next("subscribed", channel="logs:101")
        await alice.say({"type": "publish", "channel": "chat:1", "data": 1, "id": 7})
        assert (await alice.next("ack", "error", id=7))["type"] == "ack"
        assert (await alice.send("bob", 1))["type"] == "ack"
        assert (await alice.send("carol", 1))["code"] == "not_allowed"
        assert "'carol'" in (await alice.send("carol", 1))["message"]


async def test_the_start_says_what_is_open(start_replica: StartReplica, caplog: pytest.LogCaptureFixture) -> None:
    """Fails if an operator who opened a namespace, or the mode, is not told so in the log."""
    with caplog.at_level(logging.INFO, "heliograph"):
        await start_replica(redis_url=None, auth=JWT, namespaces={"logs": {"client_subscribe": True}})
        await start_replica(redis_url=None)
    said = [record for record in caplog.records if record.name == "heliograph.composition.endpoints"]
    assert [record.levelname for record in said] == ["INFO", "WARNING"]
    assert "read logs:*" in said[0].getMessage()
    assert "anyone who can connect may be any user" in said[1].getMessage()
