"""Others' clients against our API, unchanged: `cent`, and a tester that reads the OpenAPI document."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path

import cent
import pytest

from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.replicas import RunningReplica

SUPPORT = Path(__file__).parents[1] / "support"
ROOT = SUPPORT.parents[1]
KEY = "a key of more than sixteen bytes"


@pytest.fixture
async def one(start_replica: StartReplica) -> RunningReplica:
    return await start_replica(
        api={"key": KEY}, namespaces={"chat": {"presence": True}}, poll={}, limits={"messages_per_second": 0}
    )


@pytest.fixture
async def api(one: RunningReplica) -> AsyncIterator[cent.AsyncClient]:
    async with cent.AsyncClient(f"{one.url}/api", api_key=KEY) as client:
        yield client


async def test_every_method_of_cent(one: RunningReplica, api: cent.AsyncClient) -> None:
    """Fails if a program that is written for that API gets something it cannot read."""
    async with Client(one.url, path="/ws?user=김철수&channels=chat:1") as client:
        await client.next("subscribed")
        published = await api.publish(cent.PublishRequest(channel="chat:1", data={"글": "안녕"}, idempotency_key="k"))
        again = await api.publish(cent.PublishRequest(channel="chat:1", data={"글": "안녕"}, idempotency_key="k"))
        assert (published.offset, published.epoch) == (again.offset, again.epoch) == (1, published.epoch)
        broadcast = await api.broadcast(cent.BroadcastRequest(channels=["chat:1", "#김철수"], data=2))
        assert [each.result.offset for each in broadcast.responses if each.result] == [2, 1]
        assert await client.messages(3) == [{"글": "안녕"}, 2, 2]

        history = await api.history(cent.HistoryRequest(channel="chat:1", limit=10))
        assert [each.data for each in history.publications] == [{"글": "안녕"}, 2]
        since = cent.StreamPosition(offset=1, epoch=history.epoch)
        history = await api.history(cent.HistoryRequest(channel="chat:1", limit=10, since=since, reverse=False))
        assert [each.offset for each in history.publications] == [2]

        stats = await api.presence_stats(cent.PresenceStatsRequest(channel="chat:1"))
        presence = await api.presence(cent.PresenceRequest(channel="chat:1"))
        assert (stats.num_clients, stats.num_users) == (1, 1)
        assert [info.user for info in presence.presence.values()] == ["김철수"]
        assert isinstance((await api.channels(cent.ChannelsRequest(pattern="chat:*"))).channels, dict)
        info = await api.info(cent.InfoRequest())
        assert [node.name for node in info.nodes] == ["replica-1"]

        batch = await api.batch(
            cent.BatchRequest(
                requests=[
                    cent.PublishRequest(channel="chat:1", data=3),
                    cent.BroadcastRequest(channels=["chat:2"], data=4),
                    cent.PresenceStatsRequest(channel="chat:1"),
                ],
                parallel=True,
            )
        )
        assert [type(reply).__name__ for reply in batch.replies] == [
            "PublishResult",
            "BroadcastResult",
            "PresenceStatsResult",
        ]
        assert await client.messages(1) == [3]
        tagged = cent.PublishRequest(channel="chat:1", data=5, tags={"t": "1"}, skip_history=False)
        assert (await api.publish(tagged)).offset == 4
        history = await api.history(cent.HistoryRequest(channel="chat:1", limit=1, reverse=True))
        assert [each.tags for each in history.publications] == [{"t": "1"}]
        await api.publish(cent.PublishRequest(channel="chat:1", data=6, skip_history=True))
        await api.publish(cent.PublishRequest(channel="chat:1", data=None, b64data=b64encode(b"7").decode()))
        assert await client.messages(3) == [5, 6, 7]
        await api.history_remove(cent.HistoryRemoveRequest(channel="chat:1"))
        history = await api.history(cent.HistoryRequest(channel="chat:1", limit=-1))
        assert (history.publications, history.offset) == ([], 5)

        me = (await client.next("connected"))["session"]
        await api.subscribe(cent.SubscribeRequest(user="김철수", channel="chat:3", client=me))
        assert (await client.next("subscribed"))["channel"] == "chat:3"
        await api.refresh(cent.RefreshRequest(user="김철수", client=me, expire_at=int(time.time()) + 60))
        assert (await client.next("refreshed"))["expires_in"] in (59, 60)
        await api.unsubscribe(cent.UnsubscribeRequest(user="김철수", channel="chat:1", session="another"))
        await api.unsubscribe(cent.UnsubscribeRequest(user="김철수", channel="chat:1"))
        assert (await client.next("unsubscribed"))["channel"] == "chat:1"
        await api.disconnect(cent.DisconnectRequest(user="김철수", whitelist=[me]))
        await client.nothing_more()
        await api.disconnect(
            cent.DisconnectRequest(user="김철수", disconnect=cent.Disconnect(code=3503, reason="out"))
        )
        assert await client.close_code() == 3503


async def test_the_errors_of_cent(one: RunningReplica, api: cent.AsyncClient) -> None:
    """Fails if a mistake reaches a program as anything but the error that its client has for it."""
    with pytest.raises(cent.CentApiResponseError) as refused:
        await api.presence(cent.PresenceRequest(channel="news"))
    assert refused.value.code == 108
    async with cent.AsyncClient(f"{one.url}/api", api_key="another key altogether") as stranger:
        with pytest.raises(cent.CentUnauthorizedError):
            await stranger.info(cent.InfoRequest())


async def test_the_plain_client_of_cent(one: RunningReplica) -> None:
    """Fails if a program that waits (Django, a script) gets something else than one that does not."""
    async with Client(one.url, path="/ws?user=alice&channels=chat:1") as alice:
        await alice.next("subscribed")
        await asyncio.to_thread(ask_and_wait, cent.Client(f"{one.url}/api", api_key=KEY))
        assert await alice.messages(3) == [1, 2, 3]
        assert (await alice.next("subscribed"))["channel"] == "chat:2"
        await alice.next("refreshed")
        await alice.next("unsubscribed")
        assert await alice.close_code() == 3503


def ask_and_wait(api: cent.Client) -> None:
    """Every method."""
    assert api.publish(cent.PublishRequest(channel="chat:1", data=1)).offset == 1
    broadcast = api.broadcast(cent.BroadcastRequest(channels=["chat:1", "chat:2"], data=2))
    assert [each.result.offset for each in broadcast.responses if each.result] == [2, 1]
    history = api.history(cent.HistoryRequest(channel="chat:1", limit=-1, reverse=True))
    assert [each.data for each in history.publications] == [2, 1]
    assert api.presence_stats(cent.PresenceStatsRequest(channel="chat:2")).num_users == 0
    assert api.presence(cent.PresenceRequest(channel="chat:2")).presence == {}
    assert api.channels(cent.ChannelsRequest(pattern="nonesuch*")).channels == {}
    assert [node.name for node in api.info(cent.InfoRequest()).nodes] == ["replica-1"]
    publish = cent.PublishRequest(channel="chat:1", data=3)
    [reply] = api.batch(cent.BatchRequest(requests=[publish])).replies
    assert isinstance(reply, cent.PublishResult)
    assert reply.offset == 3
    api.history_remove(cent.HistoryRemoveRequest(channel="chat:1"))
    assert api.history(cent.HistoryRequest(channel="chat:1", limit=-1)).publications == []
    with pytest.raises(cent.CentApiResponseError) as refused:
        api.block_user(cent.BlockUserRequest(user="alice"))
    assert refused.value.code == 104
    api.subscribe(cent.SubscribeRequest(user="alice", channel="chat:2"))
    api.refresh(cent.RefreshRequest(user="alice", expire_at=int(time.time()) + 3600))
    api.unsubscribe(cent.UnsubscribeRequest(user="alice", channel="chat:1"))
    api.disconnect(cent.DisconnectRequest(user="alice"))


@pytest.mark.slow
async def test_a_tester_that_reads_the_document_finds_nothing(one: RunningReplica, api: cent.AsyncClient) -> None:
    """Fails if an answer is not as the OpenAPI document says, or something that is allowed breaks the server.

    Also if what the document allows is refused, or what it forbids is done. `tests/support/schemathesis.toml` and
    `schemathesis_hooks.py` say to the tester what it cannot know. A stream does not end, so it is left out.
    """
    await api.publish(cent.PublishRequest(channel="run:42", data={"state": "RUNNING"}))
    status, output = await run(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(SUPPORT / "schemathesis.toml")),
        *("run", f"{one.url}/api/openapi.json", "--exclude-path", "/sse", "--header", f"X-API-Key: {KEY}"),
        *("--max-examples", "25", "--seed", "1", "--request-timeout", "30", "--no-color"),
    )
    assert status == 0, output


async def run(*command: str) -> tuple[int, str]:
    """Exit status and output of a program that may not leave anything behind."""
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as directory:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()
