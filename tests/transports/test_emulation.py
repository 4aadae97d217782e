"""Centrifuge clients without a WebSocket: streams, posted commands, and clients that only listen."""

import json

import pytest

from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.emulated import EmulatedClient
from tests.support.http import http_client
from tests.support.replicas import RunningReplica
from tests.support.waiting import eventually

PATHS = ["http_stream", "sse"]


@pytest.fixture
async def one(start_replica: StartReplica) -> RunningReplica:
    return await start_replica(redis_url=None, namespaces={"cursors": {"ephemeral": True}})


class TestStreams:
    @pytest.mark.parametrize("path", PATHS)
    async def test_commands_and_publications(self, one: RunningReplica, path: str) -> None:
        """Fails if a client without a WebSocket cannot do what one with it can."""
        async with EmulatedClient(one.url, path, user="alice") as alice, Client(one.url, user="bob") as bob:
            assert alice.connected["subs"].keys() == {"#alice"}
            assert alice.connected["node"] == one.replica.bus.node_id
            subscribed = await alice.call("subscribe", channel="news")
            assert subscribed["recoverable"]
            await alice.call("publish", channel="news", data={"글": "안녕\n🚀"})
            assert await alice.publications("news", 1) == [{"글": "안녕\n🚀"}]
            await bob.send("alice", "hello")
            assert await alice.publications("#alice", 1) == ["hello"]
            history = await alice.call("history", channel="news", limit=10)
            assert [each["data"] for each in history["publications"]] == [{"글": "안녕\n🚀"}]
            await alice.call("unsubscribe", channel="news")
        await eventually(lambda: not one.replica.hub.count("alice"))

    async def test_several_commands_in_one_post(self, one: RunningReplica) -> None:
        """Fails if the commands of one post are not carried out in order."""
        async with EmulatedClient(one.url, user="alice") as alice:
            commands = [{"id": 90, "subscribe": {"channel": "news"}}]
            commands += [{"id": 100 + n, "publish": {"channel": "news", "data": n}} for n in range(20)]
            assert await alice.post("\n".join(map(json.dumps, commands))) == 204
            assert await alice.publications("news", 20) == list(range(20))

    async def test_the_session_is_a_secret_of_its_client(self, one: RunningReplica) -> None:
        """Fails if a name that others are told lets them send for a client, or a wrong one is taken."""
        async with EmulatedClient(one.url, user="alice") as alice:
            assert alice.connected["session"] != alice.connected["client"]
            frame = json.dumps({"id": 5, "publish": {"channel": "#bob", "data": 1}})
            assert await alice.post(frame, session=alice.connected["client"]) == 404
            assert await alice.post(frame, node="0123456789abcdef") == 404
            assert await alice.post(frame, session="") == 400
            assert await alice.post("") == 400
        assert await_status(one) is None

    async def test_it_ends_when_the_client_goes(self, one: RunningReplica) -> None:
        """Fails if the session outlives its stream."""
        async with EmulatedClient(one.url, user="alice") as alice:
            session, node = alice.connected["session"], alice.connected["node"]
        await eventually(lambda: not one.replica.hub.count("alice"))
        async with http_client(one.url) as http:
            body = {"session": session, "node": node, "data": "{}"}
            answer = await http.post("/emulation", json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert not one.replica.forwarding._takers


def await_status(one: RunningReplica) -> None:
    return None
