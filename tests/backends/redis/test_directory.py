"""What is Redis' own in the directory: outages, what is left in the keys, reaping that breaks off."""

import asyncio
import itertools
import json
import time
import traceback
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError

from heliograph.backends.redis import server
from heliograph.backends.redis.client import Client, connect
from heliograph.backends.redis.directory import SETTLE_MS, RedisDirectory
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.sync import connect_sync
from heliograph.client.publisher import Publisher
from heliograph.errors import BadSetting, BusUnavailable
from heliograph.redis_url import database_of
from heliograph.settings import Settings
from tests.support.redis_answers import text
from tests.support.redis_server import RedisServer
from tests.support.replica_info import replica_info
from tests.support.waiting import eventually

LONG_S = 30.0


@pytest.fixture
def directory(client: Client, keys: Keys) -> RedisDirectory:
    return RedisDirectory(server.RedisServer(client, keys))


async def left(client: Client, keys: Keys) -> set[str]:
    """The keys that stand in Redis under this test's prefix."""
    return {key.decode() async for key in client.scan_iter(f"{keys.prefix}*", count=1_000)}


class TestOutage:
    @pytest.mark.parametrize("call", ["take", "renew", "hold", "holders", "reap", "replicas"])
    async def test_every_call_says_so_at_once_when_redis_is_gone(
        self, own_redis: RedisServer, keys: Keys, call: str
    ) -> None:
        """Fails if an outage comes out as redis-py's own error, or after retries."""
        client = connect(own_redis.url)
        directory = RedisDirectory(server.RedisServer(client, keys))
        calls: dict[str, Any] = {
            "take": lambda: directory.take("a", replica_info(), LONG_S),
            "renew": lambda: directory.renew("a", replica_info(), LONG_S),
            "hold": lambda: directory.hold("a", {"bob": 1}),
            "holders": lambda: directory.holders("bob"),
            "reap": lambda: directory.reap("a"),
            "replicas": directory.replicas,
        }
        await directory.take("a", replica_info(), LONG_S)
        own_redis.stop()
        began = time.monotonic()
        with pytest.raises(BusUnavailable, match="storage cannot be reached"):
            await calls[call]()
        assert time.monotonic() - began < 0.5
        own_redis.start()
        await eventually(lambda: _works(calls[call]))
        await client.aclose()

    async def test_a_frozen_redis_costs_about_a_second(self, own_redis: RedisServer, keys: Keys) -> None:
        """Fails if a command waits for ever, or is tried again behind the caller's back."""
        client = connect(own_redis.url)
        directory = RedisDirectory(server.RedisServer(client, keys))
        await directory.take("a", replica_info(), LONG_S)
        own_redis.freeze()
        began = time.monotonic()
        with pytest.raises(BusUnavailable):
            await directory.hold("a", {"bob": 1})
        assert 0.5 < time.monotonic() - began < 1.8
        own_redis.thaw()
        assert await directory.hold("a", {"bob": 2}) == {"bob": 2}
        await client.aclose()

    async def test_forgotten_scripts_are_sent_again(self, own_redis: RedisServer, keys: Keys) -> None:
        """Fails if a SCRIPT FLUSH or a fail-over ends the directory."""
        client = connect(own_redis.url)
        directory = RedisDirectory(server.RedisServer(client, keys))
        await directory.take("a", replica_info(), LONG_S)
        await directory.hold("a", {"bob": 1})
        own_redis.command("SCRIPT", "FLUSH")
        assert (await directory.renew("a", replica_info(), LONG_S)).held
        assert await directory.hold("a", {"bob": 1}) == {"bob": 1}
        await client.aclose()

    async def test_more_callers_than_connections_wait_their_turn(self, redis_server: RedisServer, keys: Keys) -> None:
        """Fails if a busy moment is taken for an outage: redis-py's pool raises when it is empty."""
        client = connect(redis_server.url, max_connections=3)
        directory = RedisDirectory(server.RedisServer(client, keys))
        await directory.take("a", replica_info(), LONG_S)
        answers = await asyncio.gather(*(directory.holders("bob") for _ in range(60)), return_exceptions=True)
        assert answers == [{}] * 60
        await client.aclose()


class TestKeys:
    async def test_nothing_is_left_of_a_lease_that_was_reaped(
        self, directory: RedisDirectory, client: Client, keys: Keys
    ) -> None:
        """Fails if every replica that ever lived leaves something in Redis."""
        await directory.take("a", replica_info(), LONG_S)
        await directory.hold("a", {f"user-{number}": 1 for number in range(700)})
        assert len(await left(client, keys)) > 700
        await directory.reap("a")
        assert await left(client, keys) == {keys.settled_at, keys.server}

    async def test_nothing_is_left_of_a_user_who_has_gone(
        self, directory: RedisDirectory, client: Client, keys: Keys
    ) -> None:
        """Fails if every user who was ever connected leaves something in Redis."""
        await directory.take("a", replica_info(), LONG_S)
        before = await left(client, keys)
        await directory.hold("a", {"bob": 1, "김철수": 2})
        await directory.hold("a", {"bob": 0, "김철수": 0})
        assert await left(client, keys) == before

    async def test_all_keys_begin_with_the_prefix(self, own_redis: RedisServer) -> None:
        """Fails if two installations on one Redis share a key."""
        client = connect(own_redis.url)
        directory = RedisDirectory(server.RedisServer(client, Keys("mine:", "mine:events")))
        await directory.take("a", replica_info(), LONG_S)
        await directory.hold("a", {"bob": 1})
        names = [key.decode() async for key in client.scan_iter()]
        assert len(names) == 6
        assert [name for name in names if not name.startswith("mine:")] == []
        await client.aclose()

    async def test_the_directory_is_believed_a_while_after_its_first_lease(
        self, directory: RedisDirectory, client: Client, keys: Keys
    ) -> None:
        """Fails if each new lease puts the moment off, or if a directory that began empty is believed at once."""
        before = (await client.time())[0] * 1000
        await directory.take("a", replica_info(), LONG_S)
        settled_at = await client.get(keys.settled_at)
        assert before + SETTLE_MS <= int(text(settled_at).split(".")[1]) <= before + SETTLE_MS + 3_000
        await directory.take("b", replica_info(), LONG_S)
        await directory.renew("b", replica_info(), LONG_S)
        assert await client.get(keys.settled_at) == settled_at

    async def test_a_lease_has_run_out_or_is_alive_and_never_both(
        self, directory: RedisDirectory, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if the console shows a replica as alive that others count as dead in the same millisecond."""
        await directory.take("a", replica_info(), LONG_S)
        runs_out_ms = int(await client.zscore(keys.leases, "a") or 0)

        async def then() -> int:
            return runs_out_ms

        monkeypatch.setattr(directory._server, "now_ms", then)
        assert await directory.replicas() == []


class TestReaping:
    async def test_one_that_breaks_off_anywhere_is_finished_by_the_next(
        self, redis_server: RedisServer, client: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if a reaper that dies between two commands leaves something that nobody finds again."""
        for at in itertools.count():
            keys = Keys(f"{namespace}-{at}:", f"{namespace}:events")
            directory = RedisDirectory(server.RedisServer(client, keys))
            await directory.take("dead", replica_info("dead"), LONG_S)
            await directory.hold("dead", {f"user-{number}": 1 for number in range(600)})
            with monkeypatch.context() as patch:
                _break_off(patch, after=at)
                try:
                    await directory.reap("dead")
                    finished = True
                except BusUnavailable:
                    finished = False
            await directory.take("alive", replica_info("alive"), LONG_S)
            for lease in (await directory.renew("alive", replica_info("alive"), LONG_S)).expired:
                await directory.reap(lease)
            if at:  # the first command is the one that begins the reaping
                assert not (await directory.renew("dead", replica_info(), LONG_S)).held
                expected = {keys.leases, keys.replicas, keys.settled_at, keys.server}
                assert await left(client, keys) == expected, f"broken off after {at} commands"
                assert [info.name for info in await directory.replicas()] == ["alive"]
                assert await client.hlen(keys.replicas) == 1, f"broken off after {at} commands"
            if finished:
                assert at > 6
                return

    async def test_more_dead_leases_than_lua_can_return_at_once(
        self, directory: RedisDirectory, client: Client, keys: Keys
    ) -> None:
        """Fails if thousands of leases that nobody reaped (a crash loop) keep every replica from joining."""
        await client.zadd(keys.leases, {f"crashed-{number}": 1 for number in range(9_000)})
        await directory.take("a", replica_info(), LONG_S)
        renewal = await directory.renew("a", replica_info(), LONG_S)
        assert renewal.held
        assert len(renewal.expired) > 0
        assert await directory.hold("a", {"bob": 1}) == {"bob": 1}


class TestUrl:
    @pytest.mark.parametrize("url", ["redis://host:port/0", "ftp://host"])
    async def test_one_that_cannot_be_used_names_the_variable(self, url: str) -> None:
        """Fails if an operator's typing error comes out as a stack trace of redis-py."""
        for make in (connect, connect_sync):
            with pytest.raises(BadSetting, match="HELIOGRAPH_REDIS__URL"):
                make(url)

    @pytest.mark.parametrize(
        "url",
        [
            "redis://:S3cret/tail@host:6379/0",
            "redis://:S3cret?tail@host/0",
            "redis://:S3cret#tail@host/0",
            "redis://:[S3cret@host/0",
            "redis://user:50123/S3cret@host",
            "redis://user:50123?S3cret@host",
            "redis://:S3cret\u2460/@host",
            "unix://:S3cret/tail@/run/redis.sock",
            "rediss://:pass@host/S3cret",
            "redis://:pass@host/0?socket_timeout=S3cret",
        ],
    )
    async def test_no_part_of_a_password_is_said(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Fails if the error about a password that is not escaped repeats a piece of it, wherever it is given."""
        for variable in ("REDIS__URL", "REDIS__DURABLE_URL"):
            monkeypatch.setenv(f"HELIOGRAPH_{variable}", url)
        monkeypatch.setenv("HELIOGRAPH_AUTH__MODE", "open")
        makers: list[Any] = [
            connect,
            connect_sync,
            lambda url: Publisher(url, durable_url="").close(),
            lambda url: Publisher(),
        ]
        if "socket_timeout" not in url:
            makers.append(lambda _: Settings.load())
        for make in makers:
            with pytest.raises(BadSetting) as caught:
                make(url)
            text = "".join(traceback.format_exception(caught.value))
            assert not any(piece in text for piece in ("S3cret", "tail", "50123"))
        if "socket_timeout" not in url:
            assert "%2F" in text, "how it is escaped"

    @pytest.mark.parametrize(
        ("url", "database"),
        [
            ("redis://host", 0),
            ("redis://user:a%2Fb@host:6380/3", 3),
            ("unix:///run/redis.sock?db=2", 2),
            ("unix://user:pass@/run/redis.sock", 0),
            ("rediss://[::1]:6379/1?db=4", 4),
        ],
    )
    async def test_the_database_is_the_one_that_redis_py_reads(self, url: str, database: int) -> None:
        """Fails if the name of the bus channel is that of another database than the keys are in."""
        assert database_of(url) == database
        assert int(connect(url).connection_pool.connection_kwargs.get("db", 0)) == database


def _break_off(patch: pytest.MonkeyPatch, *, after: int) -> None:
    """Have the connection break after so many commands (a pipeline is one)."""
    left = iter(range(after))

    def counted(function: Any) -> Any:
        async def carried_out(*arguments: Any, **options: Any) -> Any:
            if next(left, None) is None:
                raise RedisConnectionError("broken off by the test")
            return await function(*arguments, **options)

        return carried_out

    patch.setattr(Redis, "execute_command", counted(Redis.execute_command))
    patch.setattr(Pipeline, "execute", counted(Pipeline.execute))


async def _works(call: Any) -> bool:
    try:
        await call()
    except BusUnavailable:
        return False
    return True


class TestVersions:
    async def test_what_an_older_replica_says_of_itself_is_understood(self, client: Client, keys: Keys) -> None:
        """Fails if a cluster cannot be seen while replicas of two versions are in it."""
        directory = RedisDirectory(server.RedisServer(client, keys))
        await directory.take("old.0", replica_info("old"), LONG_S)
        await directory.renew("old.0", replica_info("old"), LONG_S)
        said = json.loads(text(await client.hget(keys.replicas, "old.0")))
        for later in ("messages_in_per_second", "messages_out_per_second", "bus_lag_ms", "canary_age_ms"):
            del said[later]
        await client.hset(keys.replicas, "old.0", json.dumps({**said, "of_a_later_version": 1}))
        [info] = await directory.replicas()
        assert info == replica_info("old")
