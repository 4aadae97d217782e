"""Undelivered messages of whole replicas: users who are there, away, back in time, or on a replica that is killed."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from heliograph.application import Replica
from heliograph.backends.redis.server import RedisServer
from heliograph.codecs.plain.cursor import format_cursor
from heliograph.protocol.lifecycle import LifecycleEvent
from heliograph.protocol.position import Position
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.cluster import ROOT
from tests.support.http import http_client
from tests.support.lifecycle import told
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer as OwnRedis
from tests.support.replicas import RunningReplica
from tests.support.shards import RedisShards
from tests.support.waiting import eventually

AFTER_S = 2.0
KEY = "a key of more than sixteen bytes"
OPTIONS: dict[str, Any] = {
    "events": {"kinds": ["message_undelivered"]},
    "namespaces": {"#": {"undelivered_after_s": AFTER_S}},
    "api": {"key": KEY},
}


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[RedisShards]:
    started = RedisShards(tmp_path).start()
    yield started
    started.stop()


async def undelivered(replica: Replica) -> list[LifecycleEvent]:
    found: list[LifecycleEvent] = []
    for shard in replica.shards:
        redis = shard.backends.servers[0]
        assert isinstance(redis, RedisServer)
        found += [each for each in await told(redis.client, redis.keys) if each.event == "message_undelivered"]
    return found


@asynccontextmanager
async def process(shards: RedisShards, namespace: str) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """A replica in a process of its own."""
    port = free_port()
    variables = {
        "HELIOGRAPH_AUTH__MODE": "open",
        "HELIOGRAPH_REDIS__SHARDS": json.dumps(shards.urls),
        "HELIOGRAPH_REDIS__PREFIX": f"{namespace}:",
        "HELIOGRAPH_BUS__CHANNEL": f"{namespace}:events",
        "HELIOGRAPH_EVENTS__KINDS": json.dumps(OPTIONS["events"]["kinds"]),
        "HELIOGRAPH_NAMESPACES": json.dumps(OPTIONS["namespaces"]),
    }
    command = [sys.executable, "-m", "heliograph", "serve", "--port", str(port), "--name", "killed"]
    quiet = asyncio.subprocess.DEVNULL
    started = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env={**os.environ, **variables}, stdout=quiet, stderr=quiet
    )
    try:
        yield f"http://127.0.0.1:{port}", started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def serves(url: str) -> bool:
    async with http_client(url) as http:
        try:
            return (await http.get("/ready")).status_code == 200
        except httpx.TransportError:
            return False


async def test_who_took_what(shards: RedisShards, start_replica: StartReplica, namespace: str) -> None:
    """Fails if a message is told that was written to any device in time, also on a replica that was killed; or if one
    that was not is not told, or is told twice."""
    one, two = [await start_replica(name, **shards.options, **OPTIONS) for name in ("replica-1", "replica-2")]
    async with (
        process(shards, namespace) as (url, killed),
        Client(one.url, user="alice") as alice,
        Client(two.url, user="bob") as bob,
    ):
        await eventually(lambda: serves(url), within_s=20)
        async with Client(url, user="zoe") as zoe:
            sent = {}
            for user in ("bob", "zoe", "eve", "eve", "al", "dan"):
                sent[user] = await alice.send(user, "x")
            assert await bob.messages(1) == await zoe.messages(1) == ["x"]
            cursor = await before(one, "al")
            async with (
                Client(two.url, path=f"/ws?user=al&device=phone&cursor={quote(cursor)}") as al,
                Client(one.url, user="dan") as dan,
                Client(one.url, path="/ws?user=flo&device=old") as flo,
            ):
                assert await al.messages(1) == ["x"]
                await flo.next("connected")
                await alice.send("dan", "y")
                await alice.send("flo", "y")
                assert await dan.messages(1) == await flo.messages(1) == ["y"], "dan came without a cursor"
            await asyncio.sleep(1.5)  # longer than a replica needs to say what it has written
            killed.kill()
        expected = [("dan", 1), ("eve", 1), ("eve", 2)]

        async def all_told() -> bool:
            return len(await undelivered(one.replica)) >= len(expected)

        await eventually(all_told, within_s=20)
        await asyncio.sleep(1.5)  # nothing more
        events = await undelivered(one.replica)
        assert sorted((each.user or "", each.offset or 0) for each in events) == expected
        last = next(each for each in events if (each.user, each.offset) == ("eve", 2))
        assert (last.message_id, last.channel) == (sent["eve"]["message_id"], "#eve")


async def before(replica: RunningReplica, user: str) -> str:
    """The cursor of a client that was there before the user's first message."""
    for shard in replica.replica.shards:
        if (position := (await shard.backends.log.tops([f"#{user}"]))[0]) is not None:
            break
    assert position is not None
    return format_cursor({f"#{user}": Position(position.epoch, 0)})


async def test_without_the_option_nothing_watches(start_replica: StartReplica, own_redis: OwnRedis) -> None:
    """Fails if other replicas have another trace, service or key."""
    one = await start_replica(redis_url=own_redis.url)
    assert one.replica.backends.undelivered is None
    assert type(one.replica.hub.trace).__name__ == "TraceRing"
    async with Client(one.url, user="alice") as alice:
        await alice.send("bob", 1)
    assert not [key async for key in one.redis.client.scan_iter("*untaken*")]
