"""The publishers against a real Redis: what is kept, what is refused, and that no retry ever doubles."""

import asyncio
import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis import Redis

from heliograph.backends.redis import server
from heliograph.backends.redis.client import connect
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.link_errors import Held
from heliograph.backends.redis.run_leases import reap_lost_runs
from heliograph.backends.redis.sync import SyncScripts
from heliograph.client import drafts
from heliograph.client.publisher import AsyncPublisher, Published, Publisher
from heliograph.errors import BadChannel, BadData, BadSetting, BadUserId, DataTooDeep, PublishError
from heliograph.protocol.channel_options import Namespace
from heliograph.protocol.namespace import Namespaces
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually

RUN_ID = "20251105_1430_우주여행고양이"


class Both:
    """One of the two publishers, with the same awaitable methods for the tests of both."""

    def __init__(self, publisher: Publisher | AsyncPublisher) -> None:
        self.publisher = publisher

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.publisher, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if isinstance(self.publisher, AsyncPublisher):
                return await method(*args, **kwargs)
            return await asyncio.to_thread(method, *args, **kwargs)

        return call


def made(kind: str, url: str, namespace: str, **options: Any) -> Both:
    options = {"prefix": f"{namespace}:", "bus_channel": f"{namespace}:events", **options}
    return Both(Publisher(url, **options) if kind == "sync" else AsyncPublisher(url, **options))


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def publisher(kind: str, redis_server: RedisServer, namespace: str) -> AsyncIterator[Both]:
    both = made(kind, redis_server.url, namespace)
    yield both
    await both.close()


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    with Redis.from_url(redis_server.url) as client:
        yield client


def entries(redis: Redis, namespace: str, channel: str) -> list[dict[str, Any]]:
    """The envelopes in the channel's stream."""
    found: Any = redis.xrange(f"{namespace}:{{{channel}}}:log")
    return [json.loads(b"{" + fields[b"b"]) for _, fields in found]


async def test_every_verb_reaches_its_viewers(start_replica: StartReplica, publisher: Both) -> None:
    """Fails if what a publisher writes is not what a replica reads, for any of the four verbs."""
    replica = await start_replica(namespaces={})
    async with (
        Client(replica.url, user="bob") as bob,
        Client(replica.url, user="eve", path=f"/ws/runs/{RUN_ID}") as run,
        Client(replica.url, user="kim", path="/ws/logs/101") as logs,
    ):
        await run.next("initial_state")
        await logs.next("subscribed")
        await bob.say({"type": "subscribe", "channel": "news"})
        await bob.next("subscribed", channel="news")
        news = await publisher.publish("news", {"text": "안녕"})
        assert (news.channel, news.offset) == ("news", 1)
        frame = await bob.next("message", channel="news")
        assert (frame["data"], frame["cursor"], frame["message_id"]) == (
            {"text": "안녕"},
            news.cursor,
            news.message_id,
        )
        await publisher.send_to_user("bob", [1, 2.5, None])
        assert (await bob.next("message", channel="#bob"))["data"] == [1, 2.5, None]
        await publisher.publish_progress(RUN_ID, state="RUNNING", progress=40, log="half")
        frame = await run.next("progress")
        assert frame == {
            "type": "progress",
            "run_id": RUN_ID,
            "state": "RUNNING",
            "progress": 40,
            "message": "half",
        }
        await publisher.log(101, "compiling…\n")
        await publisher.log_many(101, [("a", "stdout"), ("b", "stderr")])
        assert await logs.messages(3) == [
            {"line": "compiling…", "stream": "stdout"},
            {"line": "a", "stream": "stdout"},
            {"line": "b", "stream": "stderr"},
        ]


async def test_ephemeral_is_not_kept(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str, kind: str, redis: Redis
) -> None:
    """Fails if an ephemeral namespace gets a log, or its subscribers nothing."""
    options = {"cursors": Namespace(ephemeral=True)}
    replica = await start_replica(namespaces=options)
    publisher = made(kind, redis_server.url, namespace, namespaces=options)
    async with Client(replica.url, user="bob") as bob:
        await bob.say({"type": "subscribe", "channel": "cursors:7"})
        await bob.next("subscribed")
        result = await publisher.publish("cursors:7", {"x": 1})
        assert (result.epoch, result.offset, result.cursor) == (None, 0, "")
        assert (await bob.next("message"))["data"] == {"x": 1}
    await publisher.close()
    assert entries(redis, namespace, "cursors:7") == []


async def test_a_key_that_was_seen_is_not_published_again(publisher: Both, redis: Redis, namespace: str) -> None:
    """Fails if a caller's own repetition doubles, or is answered with another place than the first."""
    first: Published = await publisher.publish("news", 1, idempotency_key="일")
    again: Published = await publisher.publish("news", 2, idempotency_key="일")
    assert again == first
    assert [entry["message"] for entry in entries(redis, namespace, "news")] == [1]


async def test_a_retry_after_a_freeze_never_doubles(own_redis: RedisServer, namespace: str, kind: str) -> None:
    """Fails if the retries of a call do not share a key: when it thaws, Redis carries out the first try too."""
    publisher = made(kind, own_redis.url, namespace, deadline_s=15)
    await publisher.publish("news", "before")
    own_redis.freeze()
    call = asyncio.create_task(publisher.publish("news", "frozen"))
    batch = asyncio.create_task(publisher.log_many(7, [(str(i), "stdout") for i in range(20)]))
    await asyncio.sleep(2.5)  # at least two tries of each stand in Redis' socket buffers
    own_redis.thaw()
    result = await asyncio.wait_for(call, 10)
    await asyncio.wait_for(batch, 10)
    after = await publisher.publish("news", "after")
    await publisher.close()
    with Redis.from_url(own_redis.url) as redis:
        assert [each["message"] for each in entries(redis, namespace, "news")] == ["before", "frozen", "after"]
        assert [each["message"]["line"] for each in entries(redis, namespace, "logs:7")] == [
            str(i) for i in range(20)
        ]
    assert (result.offset, after.offset) == (2, 3)


async def test_the_deadline_holds(own_redis: RedisServer, namespace: str, kind: str) -> None:
    """Fails if a call hangs while Redis is frozen or gone, or ends in anything but PublishError with its key."""
    publisher = made(kind, own_redis.url, namespace, deadline_s=0.5)
    await publisher.publish("news", 0)
    own_redis.freeze()
    began = time.monotonic()
    with pytest.raises(PublishError, match="cannot be reached") as caught:
        await publisher.publish("news", 1, idempotency_key="k")
    assert time.monotonic() - began < 3
    assert caught.value.idempotency_key == "k"
    assert "may have been published" in str(caught.value)
    assert "'k'" in str(caught.value)
    own_redis.stop()
    with pytest.raises(PublishError, match="cannot be reached"):
        await publisher.publish("news", 1)
    await publisher.close()


@pytest.mark.parametrize("deadline_s", [-1, 241, float("nan")])
async def test_a_deadline_beyond_what_is_recognised(publisher: Both, namespace: str, deadline_s: float) -> None:
    """Fails if a call may try again when its first attempt is not recognised any more: it would double."""
    with pytest.raises(BadSetting, match="deadline_s"):
        await publisher.publish_progress("7", "RUNNING", deadline_s=deadline_s)
    with pytest.raises(BadSetting, match="deadline_s"):
        Publisher("redis://localhost", deadline_s=deadline_s)


def test_another_event_loop_is_refused(redis_server: RedisServer, namespace: str) -> None:
    """Fails if a call in another event loop waits for ever for an answer that the first one reads."""
    publisher = AsyncPublisher(redis_server.url, prefix=f"{namespace}:", bus_channel=f"{namespace}:events")

    async def publish(*, is_last: bool) -> None:
        try:
            await asyncio.wait_for(publisher.publish("news", 1), 5)
        finally:
            if is_last:
                await publisher.close()

    async def twice() -> None:
        await publish(is_last=False)
        with pytest.raises(RuntimeError, match="one event loop"):
            await asyncio.to_thread(asyncio.run, publish(is_last=False))
        await publish(is_last=True)

    asyncio.run(twice())


@pytest.mark.parametrize("is_socket_file", [False, True])
def test_it_does_not_doubt_what_was_never_sent(namespace: str, tmp_path: Path, is_socket_file: bool) -> None:
    """Fails if a caller is told that something may have been published that no server has been asked to."""
    url = f"unix://{tmp_path}/none.sock" if is_socket_file else f"redis://127.0.0.1:{free_port()}/0"
    publisher = Publisher(url, prefix=f"{namespace}:", deadline_s=0)
    with pytest.raises(PublishError, match="cannot be reached") as caught:
        publisher.publish("news", 1)
    assert "may have been" not in str(caught.value)


async def test_coroutines_share_commands(own_redis: RedisServer, namespace: str) -> None:
    """Fails if publications of one moment wait for each other, a few at a time, or lose their order."""
    async with AsyncPublisher(own_redis.url, prefix=f"{namespace}:") as publisher:
        await publisher.publish("news", 0)
        before = own_redis.calls("EVALSHA")
        published = await asyncio.gather(*(publisher.publish("news", number) for number in range(1, 201)))
        assert own_redis.calls("EVALSHA") - before <= 4
        assert [each.offset for each in published] == list(range(2, 202))


async def test_more_coroutines_than_may_be_under_way(own_redis: RedisServer, namespace: str) -> None:
    """Fails if what waits for its turn is refused or lost, kept or not, while Redis answers nothing for a moment."""
    namespaces = {"brief": Namespace(ephemeral=True)}
    async with AsyncPublisher(own_redis.url, prefix=f"{namespace}:", namespaces=namespaces) as publisher:
        await publisher.publish("news", 0)
        own_redis.freeze()
        calls = [publisher.publish(f"{kind}:1", number) for number in range(1_000) for kind in ("news", "brief")]
        gathered = asyncio.gather(*calls)
        await asyncio.sleep(0.2)
        own_redis.thaw()
        published = await gathered
        assert [each.offset for each in published[::2]] == list(range(1, 1_001))


@pytest.mark.parametrize("refused", [slice(1), slice(99)], ids=["the first", "all but the last"])
async def test_some_of_several_lines_are_refused(
    publisher: Both, redis: Redis, namespace: str, monkeypatch: pytest.MonkeyPatch, refused: slice
) -> None:
    """Fails if a caller is told that nothing has happened though some of the lines were published."""
    keys = [secrets.token_hex(16) for _ in range(100)]  # more than one command takes
    monkeypatch.setattr(drafts, "_message_id", iter(keys).__next__)
    for key in keys[refused]:
        redis.rpush(Keys(f"{namespace}:", "").idempotency("logs:1", key), "no answer")
    with pytest.raises(PublishError, match=r"refused: .*WRONGTYPE") as caught:
        await publisher.log_many(1, [(f"{number}", "stdout") for number in range(100)])
    assert caught.value.is_unsure
    assert len(entries(redis, namespace, "logs:1")) == 100 - len(keys[refused])


def test_an_attempt_that_ends_half_way(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a caller is told that nothing has happened though only the rest of the lines waited for a slot."""
    publisher = Publisher("redis://127.0.0.1:1/0", prefix=f"{namespace}:", deadline_s=0)

    def evaluate(scripts: SyncScripts, name: str, calls: object, results: dict[int, Any]) -> None:
        results.update(answered)
        raise Held("slot 7 was moving for more than 1 s")

    monkeypatch.setattr(SyncScripts, "_evaluate", evaluate)
    answered: dict[int, Any] = {}
    for is_unsure in (False, True):
        with pytest.raises(PublishError, match="slot 7") as caught:
            publisher.log_many(1, [("line", "stdout")] * 100)
        assert caught.value.is_unsure is is_unsure
        answered[0] = [b"1-1"] * 64


@pytest.mark.parametrize("verb", ["publish", "send_to_user", "publish_progress"])
async def test_what_was_published_is_not_published_again_by_its_key(
    own_redis: RedisServer, namespace: str, kind: str, verb: str
) -> None:
    """Fails if the key that comes with the error does not make repeating safe, for each verb."""
    arguments = {"publish": ("news", 1), "send_to_user": ("bob", 1), "publish_progress": ("7", "RUNNING")}[verb]
    channel = {"publish": "news", "send_to_user": "#bob", "publish_progress": "run:7"}[verb]
    publisher = made(kind, own_redis.url, namespace, deadline_s=0.2)
    await getattr(publisher, verb)(*arguments)
    own_redis.freeze()
    with pytest.raises(PublishError) as caught:
        await getattr(publisher, verb)(*arguments)
    own_redis.thaw()  # and it carries out what it was sent
    with Redis.from_url(own_redis.url) as redis:
        await eventually(lambda: len(entries(redis, namespace, channel)) == 2)
        again = await getattr(publisher, verb)(*arguments, idempotency_key=caught.value.idempotency_key)
        assert again.offset == len(entries(redis, namespace, channel)) == 2
    await publisher.close()


async def test_it_heals_when_its_server_is_a_master_again(own_redis: RedisServer, namespace: str, kind: str) -> None:
    """Fails if a publisher that has met a read-only replica goes on failing after that."""
    publisher = made(kind, own_redis.url, namespace)
    await publisher.publish("news", 1)
    own_redis.command("REPLICAOF", "127.0.0.1", str(free_port()))
    with pytest.raises(PublishError, match="cannot be reached") as caught:
        await publisher.publish_progress("7", progress=2, deadline_s=0.3)
    assert "may have been" not in str(caught.value)
    own_redis.command("REPLICAOF", "NO", "ONE")
    assert (await publisher.publish("news", 3)).offset >= 1
    await publisher.close()


async def test_it_leaves_a_server_that_has_become_a_replica(
    own_redis: RedisServer, redis_server: RedisServer, namespace: str, kind: str
) -> None:
    """Fails if connections to the old master are used on, although its address leads to the new one by now."""
    async with TcpProxy(own_redis.port) as address:
        publisher = made(kind, address.url, namespace, deadline_s=3)
        await publisher.publish("news", 1)
        own_redis.command("REPLICAOF", "127.0.0.1", str(free_port()))
        address._target_port = redis_server.port
        await publisher.publish("news", 2)
        await publisher.close()
    with Redis.from_url(redis_server.url) as redis:
        assert [entry["message"] for entry in entries(redis, namespace, "news")] == [2]


async def test_a_restart_without_persistence_changes_the_epoch(
    own_redis: RedisServer, namespace: str, kind: str
) -> None:
    """Fails if the scripts outlive the server they were loaded into: offsets would be given twice in one epoch."""
    publisher = made(kind, own_redis.url, namespace)
    first: Published = await publisher.publish("news", 1)
    own_redis.restart()
    second: Published = await publisher.publish("news", 2)
    await publisher.close()
    assert first.offset == second.offset == 1
    assert first.epoch != second.epoch


async def test_full_memory_is_said_at_once(own_redis: RedisServer, namespace: str, kind: str) -> None:
    """Fails if a refusal is tried again until the deadline, or leaves half a publication behind."""
    publisher = made(kind, own_redis.url, namespace)
    await publisher.publish("news", 1)
    own_redis.command("CONFIG", "SET", "maxmemory", "1")
    began = time.monotonic()
    with pytest.raises(PublishError, match="refused"):
        await publisher.publish("news", 2)
    assert time.monotonic() - began < 1
    own_redis.command("CONFIG", "SET", "maxmemory", "0")
    assert (await publisher.publish("news", 3)).offset == 2
    await publisher.close()


@pytest.mark.parametrize(
    ("verb", "arguments", "error"),
    [
        ("publish", ("", 1), BadChannel),
        ("publish", ("a\nb", 1), BadChannel),
        ("publish", ("a" * 513, 1), BadChannel),
        ("publish", ("#", 1), BadUserId),
        ("publish", ("news", object()), BadData),
        ("publish", ("news", "\ud800"), BadData),
        ("publish", ("news", msgspec.Raw(b"[1e999]")), BadData),
        ("publish", ("news", json.loads("[" * 100 + "]" * 100)), DataTooDeep),
        ("publish", ("news", 1, ""), BadData),
        ("publish", ("run:1", "forty"), BadData),
        ("publish", ("run:1", {"progress": "forty"}), BadData),
        ("send_to_user", ("", 1), BadUserId),
        ("send_to_user", ("a\x00", 1), BadUserId),
        ("publish_progress", ("", "RUNNING"), BadChannel),
        ("publish_progress", ("r" * 510, "RUNNING"), BadChannel),
        ("publish_progress", ("7",), BadData),
        ("publish_progress", ("7", None, float("nan")), BadData),
        ("publish_progress", ("7", None, 100.5), BadData),
        ("publish_progress", ("7", None, 10**400), BadData),
        ("publish_progress", ("7", None, "40"), BadData),
        ("publish_progress", ("7", None, object()), BadData),
        ("publish_progress", ("7", 7), BadData),
        ("publish_progress", ("7", None, None, ["line"]), BadData),
        ("publish_progress", (7, "RUNNING"), BadChannel),
        ("log", ("a\nb", "line"), BadChannel),
        ("log", ("7", b"line"), BadData),
        ("log", ("7", "line", None), BadData),
        ("publish", (7, 1), BadChannel),
        ("publish", ("news", 1, 7), BadData),
        ("publish", ("news\ud800", 1), BadChannel),
        ("send_to_user", (7, 1), BadUserId),
    ],
)
async def test_what_cannot_be_published(
    publisher: Both, verb: str, arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    """Fails if something gets into the log at which a replica or a browser would choke."""
    with pytest.raises(error):
        await getattr(publisher, verb)(*arguments)


class Scalar(float):
    """As NumPy's: a float of another class."""


async def test_numbers_of_other_libraries(publisher: Both, redis: Redis, namespace: str) -> None:
    """Fails if a number that is no plain int or float is refused, or published as something else."""
    for progress in (Scalar(12.5), Decimal("25.5"), Fraction(1, 2), 40):
        await publisher.publish_progress("7", progress=progress)
    assert [entry["message"]["progress"] for entry in entries(redis, namespace, "run:7")] == [12.5, 25.5, 0.5, 40]
    await publisher.publish("news", {"loss": Scalar(0.25), "part": Fraction(1, 4)})
    assert entries(redis, namespace, "news")[0]["message"] == {"loss": 0.25, "part": 0.25}


async def test_lines_of_any_bytes(publisher: Both, redis: Redis, namespace: str) -> None:
    """Fails if a line that is no valid text, or far too long, is an error instead of a line."""
    await publisher.log("7", b"caf\xe9".decode("utf-8", "surrogateescape"))
    await publisher.log("7", "x" * 40_000 + "\r\n")
    first, second = (entry["message"]["line"] for entry in entries(redis, namespace, "logs:7"))
    assert first == "caf\\udce9"
    assert second.endswith("x… (7232 characters more)")


def test_threads_share_one(redis_server: RedisServer, namespace: str, redis: Redis) -> None:
    """Fails if threads that publish through one Publisher lose, double or mix up anything."""
    with (
        Publisher(redis_server.url, prefix=f"{namespace}:", bus_channel=f"{namespace}:events") as publisher,
        ThreadPoolExecutor(20) as pool,
    ):
        results = list(pool.map(lambda i: publisher.publish("news", i), range(400)))
    assert sorted(result.offset for result in results) == list(range(1, 401))
    kept = {offset: i for i, offset in enumerate(result.offset for result in results)}
    messages = [entry["message"] for entry in entries(redis, namespace, "news")]
    assert messages == [kept[401 - len(messages) + i] for i in range(len(messages))]


async def test_tasks_wait_for_a_connection(redis_server: RedisServer, namespace: str) -> None:
    """Fails if more tasks than connections get an error instead of a turn."""
    publisher = made("async", redis_server.url, namespace)
    results = await asyncio.gather(*(publisher.publish("news", i) for i in range(200)))
    await publisher.close()
    assert sorted(result.offset for result in results) == list(range(1, 201))


def test_it_survives_a_fork(redis_server: RedisServer, namespace: str, redis: Redis) -> None:
    """Fails if a child writes on its parent's connection, as Celery's prefork children would."""
    publisher = Publisher(redis_server.url, prefix=f"{namespace}:", bus_channel=f"{namespace}:events")
    publisher.publish("news", "parent")
    child = os.fork()
    if child == 0:
        try:
            publisher.publish("news", "child")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    publisher.publish("news", "parent again")
    publisher.close()
    assert [each["message"] for each in entries(redis, namespace, "news")] == ["parent", "child", "parent again"]


async def test_close_wakes_who_waits(own_redis: RedisServer, namespace: str, kind: str) -> None:
    """Fails if a program that ends waits for the deadline of another call, or that one connects once more."""
    publisher = made(kind, own_redis.url, namespace, deadline_s=60)
    own_redis.stop()
    waiting = asyncio.create_task(publisher.publish("news", 1))
    await asyncio.sleep(0.3)
    await publisher.close()
    with pytest.raises(PublishError, match="closed while"):
        await asyncio.wait_for(waiting, 5)


def test_settings_come_from_the_environment(
    redis_server: RedisServer, namespace: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a publisher needs more than the cluster's own variables, such as its secret."""
    monkeypatch.delenv("HELIOGRAPH_REDIS__URL", raising=False)
    with pytest.raises(BadSetting, match="HELIOGRAPH_REDIS__URL"):
        Publisher()
    monkeypatch.setenv("HELIOGRAPH_REDIS__URL", redis_server.url)
    monkeypatch.setenv("HELIOGRAPH_REDIS__PREFIX", f"{namespace}:")
    monkeypatch.setenv("HELIOGRAPH_NAMESPACES", '{"job": {"run": true, "history_size": 7}}')
    with Publisher() as publisher:
        publisher.publish("job:1", {"progress": 7})
    assert entries(redis, namespace, "job:1")[0]["message"] == {"state": None, "progress": 7.0, "message": None}
    monkeypatch.setenv("HELIOGRAPH_REDIS__URL", "http://localhost")
    with pytest.raises(BadSetting, match="HELIOGRAPH_REDIS__URL"):
        Publisher()


async def test_lost_runs_are_reaped_once(redis_server: RedisServer, namespace: str) -> None:
    """Fails if a run without a worker stays as it was, is declared lost twice, or although it has ended."""
    publisher = made("sync", redis_server.url, namespace)
    for run_id, state in ((RUN_ID, "RUNNING"), ("ended", "END"), ("alive", "RUNNING")):
        await publisher.publish_progress(run_id, state=state, progress=40)
    await publisher.lease_runs([RUN_ID, "ended"], 0.05)
    await publisher.lease_runs(["alive"], 60)
    client = connect(redis_server.url)
    keys = Keys(f"{namespace}:", f"{namespace}:events")
    said = 0

    async def reap() -> bool:
        nonlocal said
        counts = await asyncio.gather(
            *(reap_lost_runs(server.RedisServer(client, keys), Namespaces()) for _ in range(5)),
            *(publisher.reap_lost_runs() for _ in range(5)),
        )
        said += sum(counts)
        return bool(said > 0)

    await eventually(reap)
    await reap()
    with Redis.from_url(redis_server.url) as redis:
        states = {
            run: [e["message"]["state"] for e in entries(redis, namespace, f"run:{run}")]
            for run in (RUN_ID, "ended", "alive")
        }
        last = entries(redis, namespace, f"run:{RUN_ID}")[-1]["message"]
        assert redis.zrange(f"{namespace}:runs:leases", 0, -1) == [b"alive"]
    await client.aclose()
    await publisher.close()
    assert states == {RUN_ID: ["RUNNING", "FAILED"], "ended": ["END"], "alive": ["RUNNING"]}
    assert last == {"state": "FAILED", "progress": 40.0, "message": "worker lost"}
    assert said == 1


async def test_two_servers(
    own_redis: RedisServer, redis_server: RedisServer, namespace: str, kind: str, redis: Redis
) -> None:
    """Fails if with a durable server what is kept is not kept there, or not announced on the live one."""
    publisher = made(kind, redis_server.url, namespace, durable_url=own_redis.url)
    with redis.pubsub() as listener:  # type: ignore[no-untyped-call]
        listener.subscribe(f"{namespace}:events:news", f"{namespace}:events")
        while listener.get_message(timeout=1):
            pass
        await publisher.publish("news", 1)
        await publisher.send_to_user("bob", 2)
        heard: list[Any] = [listener.get_message(timeout=2) for _ in range(2)]
    await publisher.close()
    assert [json.loads(each["data"])["message"] for each in heard] == [1, 2]
    assert all(json.loads(each["data"])["offset"] == 1 for each in heard)
    assert entries(redis, namespace, "news") == []
    with Redis.from_url(own_redis.url) as durable:
        assert [each["message"] for each in entries(durable, namespace, "news")] == [1]


async def test_what_passes_needs_no_durable_server(
    own_redis: RedisServer, redis_server: RedisServer, namespace: str, kind: str
) -> None:
    """Fails if an ephemeral message waits for, or fails with, the server that has no part in it."""
    own_redis.stop()
    options: Any = {"durable_url": own_redis.url, "namespaces": {"chat": Namespace(ephemeral=True)}}
    publisher = made(kind, redis_server.url, namespace, **options)
    async with asyncio.timeout(3):
        await publisher.publish("chat:1", 1)
    await publisher.close()
