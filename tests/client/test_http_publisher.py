"""The publishers over HTTP, through real replicas: the same verbs, results, errors and retries as over Redis."""

import asyncio
import builtins
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis import Redis

from heliograph.backends.redis.keys import Keys
from heliograph.client.drafts import Drafting
from heliograph.client.http_transport import HttpTransport, ReplyError, read_response, requests_of
from heliograph.client.publisher import AsyncPublisher, Publisher
from heliograph.client.retrying import Failure, PartlyDone
from heliograph.clock import SystemClock
from heliograph.errors import BadData, BadSetting, BadUserId, NeedsRedis, PublishError
from heliograph.protocol.channel_options import Namespace
from heliograph.protocol.namespace import Namespaces
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.replicas import RunningReplica
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually

KEY = "a-key-for-these-tests-only"
API = {"key": KEY}


class Both:
    """One of the two publishers, with the same awaitable methods."""

    def __init__(self, kind: str, url: str, **options: Any) -> None:
        options = {"api_key": KEY, **options}
        self._publisher = Publisher(url, **options) if kind == "sync" else AsyncPublisher(url, **options)

    async def __call__(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        method = getattr(self._publisher, verb)
        if isinstance(self._publisher, AsyncPublisher):
            return await method(*args, **kwargs)
        return await asyncio.to_thread(method, *args, **kwargs)


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def replica(start_replica: StartReplica) -> RunningReplica:
    return await start_replica(api=API)


@pytest.fixture
async def publisher(kind: str, replica: RunningReplica) -> AsyncIterator[Both]:
    both = Both(kind, replica.url)
    yield both
    await both("close")


def kept(redis_url: str, namespace: str, channel: str) -> list[Any]:
    """The data in the channel's log."""
    with Redis.from_url(redis_url) as redis:
        found: Any = redis.xrange(f"{namespace}:{{{channel}}}:log")
    return [json.loads(b"{" + fields[b"b"])["message"] for _, fields in found]


def port_of(replica: RunningReplica) -> int:
    return int(replica.url.rpartition(":")[2])


async def test_every_verb_reaches_its_viewers(replica: RunningReplica, publisher: Both) -> None:
    """Fails if a verb does over HTTP what it does not do over Redis, or answers with another place."""
    async with (
        Client(replica.url, user="bob") as bob,
        Client(replica.url, user="eve", path="/ws/runs/42") as run,
        Client(replica.url, user="kim", path="/ws/logs/101") as logs,
    ):
        await run.next("initial_state")
        await logs.next("subscribed")
        await bob.say({"type": "subscribe", "channel": "news"})
        await bob.next("subscribed", channel="news")
        news = await publisher("publish", "news", {"text": "안녕"})
        frame = await bob.next("message", channel="news")
        assert (frame["data"], frame["cursor"]) == ({"text": "안녕"}, news.cursor)
        assert (news.channel, news.offset) == ("news", 1)
        await publisher("send_to_user", "bob", [1, 2.5, None])
        assert (await bob.next("message", channel="#bob"))["data"] == [1, 2.5, None]
        await publisher("publish_progress", "42", state="RUNNING", progress=40, log="half")
        frame = await run.next("progress")
        assert (frame["state"], frame["progress"], frame["message"]) == ("RUNNING", 40, "half")
        await publisher("publish_progress", "42", log="more")
        frame = await run.next("progress")
        assert (frame["state"], frame["progress"], frame["message"]) == ("RUNNING", 40, "more")
        await publisher("log", 101, "compiling…\n")
        assert await publisher("log_many", 101, []) == []
        await publisher("log_many", 101, [("a", "stdout"), ("b", "stderr")])
        assert await logs.messages(3) == [
            {"line": "compiling…", "stream": "stdout"},
            {"line": "a", "stream": "stdout"},
            {"line": "b", "stream": "stderr"},
        ]


async def test_many_lines_take_several_requests_and_keep_their_order(
    publisher: Both, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if a request grows beyond what the server takes, or a line is lost or moved where one ends."""
    short = [(str(number), "stdout") for number in range(205)]
    long = [(f"{number} {'x' * 30_000}", "stdout") for number in range(40)]
    results = await publisher("log_many", 7, short + long)
    assert [result.offset for result in results] == list(range(1, 246))
    # The log keeps the last hundred.
    assert [each["line"] for each in kept(redis_server.url, namespace, "logs:7")][-40:] == [line for line, _ in long]


async def test_a_key_that_was_seen_is_not_published_again(
    publisher: Both, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if a repetition doubles, over HTTP or, with the same key, over Redis."""
    first = await publisher("publish", "news", 1, idempotency_key="k")
    assert await publisher("publish", "news", 2, idempotency_key="k") == first
    with Publisher(redis_server.url, prefix=f"{namespace}:", bus_channel=f"{namespace}:events") as direct:
        again = await asyncio.to_thread(direct.publish, "news", 3, "k")
    assert (again.epoch, again.offset) == (first.epoch, first.offset)
    assert kept(redis_server.url, namespace, "news") == [1]


async def test_an_answer_that_was_lost_never_doubles(
    replica: RunningReplica, kind: str, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if the second attempt of a call has another key than the first, which was carried out."""
    async with TcpProxy(port_of(replica)) as proxy:
        publisher = Both(kind, f"http://127.0.0.1:{proxy.port}")
        proxy.cut_after = 10  # of the first answer
        call = asyncio.create_task(publisher("publish", "news", "once"))
        await eventually(lambda: proxy.cut_after == 0)
        proxy.cut_after = -1
        assert (await asyncio.wait_for(call, 10)).offset == 1
        await publisher("close")
    assert kept(redis_server.url, namespace, "news") == ["once"]


async def test_while_redis_is_away_it_tries_again(
    start_replica: StartReplica, own_redis: RedisServer, kind: str, namespace: str
) -> None:
    """Fails if what a replica cannot do now ends a call before its deadline, or is published twice after that."""
    replica = await start_replica(api=API, redis_url=own_redis.url)
    publisher = Both(kind, replica.url)
    own_redis.freeze()
    with pytest.raises(PublishError, match="cannot be reached") as caught:
        await publisher("publish_progress", "7", "RUNNING", idempotency_key="k", deadline_s=0)
    assert caught.value.is_unsure
    assert caught.value.idempotency_key == "k"
    call = asyncio.create_task(publisher("publish", "news", "frozen"))
    await asyncio.sleep(1.5)
    own_redis.thaw()
    await asyncio.wait_for(call, 10)
    assert kept(own_redis.url, namespace, "news") == ["frozen"]
    await publisher("close")


async def test_a_server_that_is_not_there(kind: str) -> None:
    """Fails if it is not tried until the deadline, or something is doubted that was never sent."""
    publisher = Both(kind, f"http://127.0.0.1:{free_port()}", deadline_s=0.3)
    with pytest.raises(PublishError, match=r"http://127\.0\.0\.1:\d+ cannot be reached \(\d+ attempts") as caught:
        await publisher("publish", "news", 1)
    assert not caught.value.is_unsure
    await publisher("close")


async def test_what_is_refused_is_not_tried_again(replica: RunningReplica, kind: str) -> None:
    """Fails if a wrong key, a wrong address or a wrong prefix is tried until the deadline, or not explained."""
    for url, key, match in (
        (replica.url, "not-the-key-of-this-cluster", "HTTP status 401: the X-API-Key header"),
        (f"{replica.url}/elsewhere", KEY, "/elsewhere refused: HTTP status 404"),
        (f"{replica.url}/static", KEY, "HTTP status 40"),
    ):
        publisher = Both(kind, url, api_key=key, deadline_s=100)
        with pytest.raises(PublishError, match=match) as caught:
            await asyncio.wait_for(publisher("publish", "news", 1), 3)
        assert not caught.value.is_unsure
        await publisher("close")


async def test_data_is_checked_before_it_is_sent(publisher: Both) -> None:
    """Fails if what cannot be published is an error of the server's here, and one of ours over Redis."""
    with pytest.raises(BadUserId):
        await publisher("send_to_user", "", 1)
    with pytest.raises(BadData, match="0 to 100"):
        await publisher("publish_progress", "7", progress=101)


async def test_ephemeral_is_tried_once(start_replica: StartReplica, kind: str) -> None:
    """Fails if what no key protects is repeated, or looks as if it were kept."""
    options = {"cursors": Namespace(ephemeral=True)}
    replica = await start_replica(api=API, namespaces=options)
    publisher = Both(kind, replica.url, namespaces=options)
    async with Client(replica.url, user="bob") as bob:
        await bob.say({"type": "subscribe", "channel": "cursors:7"})
        await bob.next("subscribed")
        result = await publisher("publish", "cursors:7", {"x": 1})
        assert (result.epoch, result.offset, result.cursor) == (None, 0, "")
        assert (await bob.next("message"))["data"] == {"x": 1}
    await publisher("close")
    away = Both(kind, f"http://127.0.0.1:{free_port()}", namespaces=options, deadline_s=100)
    with pytest.raises(PublishError, match="1 attempt in 0 s"):
        await asyncio.wait_for(away("publish", "cursors:7", 1), 3)
    await away("close")


def test_leases_of_runs_need_redis() -> None:
    """Fails if a worker that believes it holds a lease holds none."""
    with Publisher("https://live.example.org", api_key=KEY) as publisher:
        for verb in (
            lambda: publisher.lease_runs(["7"], 10),
            lambda: publisher.release_run("7"),
            publisher.reap_lost_runs,
        ):
            with pytest.raises(NeedsRedis, match="URL of Redis"):
                verb()


@pytest.mark.parametrize("kind", [Publisher, AsyncPublisher])
def test_settings_that_cannot_be_used(
    kind: type[Publisher | AsyncPublisher], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Fails if a missing key, or an option of Redis', is found out with the first publication only."""
    monkeypatch.delenv("HELIOGRAPH_API__KEY", raising=False)
    url = "https://live.example.org"
    with pytest.raises(BadSetting, match="HELIOGRAPH_API__KEY"):
        kind(url)
    with pytest.raises(BadSetting, match="ASCII"):
        kind(url, api_key="schlüssel")
    with pytest.raises(BadSetting, match="prefix: of no use"):
        kind(url, api_key=KEY, prefix="p:")
    with pytest.raises(BadSetting, match="api_key"):
        kind("redis://localhost", api_key=KEY)
    for wrong in ("https://", "https://host:port", "https://host/?query=1"):
        with pytest.raises(BadSetting, match="URL of the cluster"):
            kind(wrong, api_key=KEY)
    (tmp_path / "key").write_text(f"{KEY}\n")
    monkeypatch.setenv("HELIOGRAPH_API__KEY_FILE", str(tmp_path / "key"))
    kind(url)


def test_without_httpx_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a program that has only what Redis needs meets an ImportError, or needs httpx for Redis."""
    imported = builtins.__import__

    def without_httpx(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "httpx":
            raise ImportError("No module named 'httpx'")
        return imported(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "heliograph.client.http_transport", raising=False)
    import heliograph.client

    monkeypatch.delattr(heliograph.client, "http_transport", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_httpx)
    with pytest.raises(BadSetting, match=r"heliograph\[client\]"):
        Publisher("https://live.example.org", api_key=KEY)
    Publisher("redis://localhost").close()


@pytest.mark.parametrize("first", ["publish", "error"])
def test_some_of_several_lines_are_refused(first: str) -> None:
    """Fails if a caller is told that nothing has happened though some of the lines were published."""
    replies = [{"publish": {"epoch": "e", "offset": 1}}, {"error": {"code": 103, "message": "not allowed"}}]
    body = json.dumps({"replies": sorted(replies, key=lambda reply: first not in reply)}).encode()
    drafting = Drafting(Keys("", ""), Namespaces({}), 10, SystemClock())
    [request] = requests_of(drafting.lines(1, [("one", "stdout"), ("two", "stdout")]))
    with pytest.raises(PartlyDone) as caught:
        read_response(request, 200, body)
    assert HttpTransport.failure(caught.value) == Failure("not allowed", passes=False, may_be_done=True)
    refused = json.dumps({"replies": [replies[1]] * 2}).encode()
    with pytest.raises(ReplyError):
        read_response(request, 200, refused)
