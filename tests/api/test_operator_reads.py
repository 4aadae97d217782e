"""The methods with which operators look around, over HTTP: connections, blocked users, channels page by page."""

import base64
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.test_methods import KEY, OPTIONS, call, refused
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.http import http_client
from tests.support.redis_cluster import RedisCluster
from tests.support.replicas import RunningReplica
from tests.support.shards import RedisShards
from tests.support.waiting import eventually


@pytest.fixture(params=["memory", "redis"])
async def one(request: pytest.FixtureRequest, start_replica: StartReplica) -> RunningReplica:
    """A replica with an API, with and without Redis: both answer alike."""
    return await (start_replica(redis_url=None, **OPTIONS) if request.param == "memory" else start_replica(**OPTIONS))


@pytest.fixture
async def http(one: RunningReplica) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(one.url, headers={"X-API-Key": KEY}) as client:
        yield client


def forged(sort: str, value: float | str) -> str:
    """The cursor of a page that there cannot be."""
    return base64.urlsafe_b64encode(json.dumps([sort, [value, "x"]]).encode()).decode()


async def test_connections(one: RunningReplica, http: httpx.AsyncClient) -> None:
    """Fails if what is told of a connection is not so, or a page cannot be followed by the next."""
    async with (
        Client(one.url, user="alice") as alice,
        Client(one.url, user="bob"),
        http.stream("GET", "/sse?user=carl&channels=chat:1"),
    ):
        await alice.send("bob", 1)
        await alice.say({"type": "subscribe", "channel": "chat:1", "id": 9})
        await alice.next("subscribed")
        await eventually(lambda: one.replica.hub.connections == 3)
        answer = await call(http, "connections", limit=2)
        assert [each["user"] for each in answer["connections"]] == ["alice", "bob"]
        assert answer["total"] == 3
        assert answer["replicas"] == [{"name": "replica-1", "node_id": one.replica.bus.node_id, "matched": 3}]
        first, second = answer["connections"]
        assert first["client"] == alice.connected["session"]
        assert (first["transport"], first["protocol"], first["replica"]) == ("websocket", "plain", "replica-1")
        assert (first["channels"], first["received"], first["sent"], first["outbox_bytes"]) == (2, 2, 0, 0)
        assert (second["sent"], second["received"]) == (1, 0)
        rest = await call(http, "connections", limit=2, cursor=answer["next"])
        assert [(each["user"], each["transport"]) for each in rest["connections"]] == [("carl", "sse")]
        assert "next" not in rest
        on = await call(http, "connections", channel="chat:1", with_channels=True)
        assert [each["channel_names"] for each in on["connections"]] == [["#alice", "chat:1"], ["#carl", "chat:1"]]

        for params, text in (
            ({"cursor": "!"}, "no page has the cursor"),
            ({"cursor": "e30"}, "no page has the cursor"),
            ({"cursor": answer["next"], "sort": "sent"}, "'sort' is 'sent'"),
            ({"cursor": forged("user", 1.0)}, "no page has the cursor"),
            ({"cursor": forged("sent", "alice"), "sort": "sent"}, "no page has the cursor"),
            ({"sort": "age"}, "'sort'"),
            ({"limit": 501}, "'limit'"),
            ({"replica": "replica-9"}, "no replica 'replica-9'"),
        ):
            code, message = await refused(http, "connections", **params)
            assert (code, text in message) == (107, True), (params, message)


async def test_blocked_users(http: httpx.AsyncClient) -> None:
    """Fails if a user who is kept out is not listed, or still is when the block was lifted."""
    assert await call(http, "blocked") == {"users": [], "total": 0}
    for user in ("bob", "Alice", "안녕"):
        await call(http, "disconnect", user=user, block_s=60)
    answer = await call(http, "blocked", limit=2)
    assert (answer["users"], answer["total"]) == (
        [{"user": "Alice", "remaining_s": 60}, {"user": "bob", "remaining_s": 60}],
        3,
    )
    assert [each["user"] for each in (await call(http, "blocked", cursor=answer["next"]))["users"]] == ["안녕"]
    assert [each["user"] for each in (await call(http, "blocked", search="ALI"))["users"]] == ["Alice"]
    await call(http, "disconnect", user="bob", block_s=0)
    assert (await call(http, "blocked"))["total"] == 2
    assert (await refused(http, "blocked", cursor="WzFd"))[0] == 107


async def test_channels_page_by_page(one: RunningReplica, http: httpx.AsyncClient) -> None:
    """Fails if pages miss or repeat a channel, or the answer without pages is not as it was."""
    async with Client(one.url, user="alice", path="/ws") as alice, Client(one.url, user="bob") as bob:
        for channel in ("chat:1", "chat:2", "42", "news"):
            await alice.say({"type": "subscribe", "channel": channel, "id": 1})
            await alice.next("subscribed")
        await bob.say({"type": "subscribe", "channel": "news", "id": 1})
        await bob.next("subscribed")

        async def counted() -> bool:
            found = (await call(http, "channels"))["channels"]
            return len(found) == 6 and found["news"]["num_clients"] == 2

        await eventually(counted)
        assert set(await call(http, "channels")) == {"channels"}
        for sort in ("name", "clients"):
            names: list[str] = []
            cursor = ""
            while True:
                page = await call(http, "channels", pattern="[!#]*", limit=3, cursor=cursor, sort=sort)
                assert page["total"] == 4
                names += page["channels"]
                cursor = page.get("next", "")
                if not cursor:
                    break
            assert names == (
                ["42", "chat:1", "chat:2", "news"] if sort == "name" else ["news", "42", "chat:1", "chat:2"]
            )
        assert (await refused(http, "channels", limit=1, cursor="x"))[0] == 107


async def test_kept_channels(http: httpx.AsyncClient) -> None:
    """Fails if a run, or a log, is not listed with its latest, or one that is too large is sent with it."""
    await call(http, "publish", channel="run:우주", data={"state": "RUNNING", "progress": 42.5, "message": "hi"})
    await call(http, "publish", channel="logs:1", data="x" * 3000, idempotency_key="k")
    found = (await call(http, "kept_channels", prefix="run:"))["channels"]
    assert [(each["channel"], each["offset"]) for each in found] == [("run:우주", 1)]
    assert found[0]["latest"]["data"] == {"state": "RUNNING", "progress": 42.5, "message": "hi"}
    assert found[0]["latest"]["sent_at"].endswith("Z")
    [log] = (await call(http, "kept_channels", prefix="logs:"))["channels"]
    assert "data" not in log["latest"]
    history = await call(http, "history", channel="logs:1", limit=1, with_ids=True)
    assert history["publications"][0]["message_id"] == log["latest"]["message_id"]
    plain = await call(http, "history", channel="logs:1", limit=1)
    assert set(plain["publications"][0]) == {"offset", "data"}


async def all_kept(http: httpx.AsyncClient, **params: Any) -> tuple[list[str], list[str]]:
    """Return the names on all pages of what is kept, and the errors of these pages."""
    names: list[str] = []
    errors: list[str] = []
    cursor = ""
    while True:
        page = await call(http, "kept_channels", cursor=cursor, **params)
        names += [each["channel"] for each in page["channels"]]
        errors += [page["error"]] if "error" in page else []
        cursor = page.get("next", "")
        if not cursor:
            return sorted(names), errors


async def test_what_is_kept_in_a_redis_cluster(redis_cluster: RedisCluster, start_replica: StartReplica) -> None:
    """Fails if a virtual shard's channels are missing, or another one's on the same server come with them."""
    url = redis_cluster.url.replace("virtual_shards=1", "virtual_shards=5")
    one = await start_replica(redis_url=url, **OPTIONS)
    names = sorted([*(f"logs:{number}" for number in range(20)), "news", "{odd}:1"])
    async with http_client(one.url, headers={"X-API-Key": KEY}) as http:
        for name in names:
            await call(http, "publish", channel=name, data="x")
        assert await all_kept(http, limit=3) == (names, [])
        assert await all_kept(http, limit=500, prefix="logs:1") == (
            ["logs:1", *(f"logs:1{n}" for n in range(10))],
            [],
        )


class TestShards:
    @pytest.fixture
    def shards(self, tmp_path: Path) -> Iterator[RedisShards]:
        started = RedisShards(tmp_path).start()
        yield started
        started.stop()

    async def test_a_shard_that_is_gone_is_named(self, shards: RedisShards, start_replica: StartReplica) -> None:
        """Fails if one dead Redis of three takes every list away, or a list leaves its part out in silence."""
        two = [await start_replica(f"replica-{number}", **shards.options, **OPTIONS) for number in (1, 2)]
        kept, users = shards.names("news:"), shards.names("#user-")
        async with (
            http_client(two[0].url, headers={"X-API-Key": KEY}) as http,
            Client(two[0].url, user=users[0]) as first,
            Client(two[1].url, user=users[1]),
            Client(two[1].url, user=users[2]),
        ):
            await call(http, "broadcast", channels=kept, data="x")
            for channel in kept:
                await first.say({"type": "subscribe", "channel": channel, "id": 1})
                await first.next("subscribed")
            await eventually(lambda: all_channels_are_counted(http, 6))
            assert await all_kept(http) == (sorted(kept), [])

            shards.servers[1].stop()

            async def is_missing() -> bool:
                rows = (await http.get("/api/cluster")).json()["shards"]
                return [each["works"] for each in rows] == [True, False, True] and rows[1]["unheard_ms"] > 2000

            await eventually(is_missing, within_s=20)
            names, errors = await all_kept(http)
            assert names == sorted([kept[0], kept[2]])
            assert [each.partition(":")[0] for each in errors] == ["without shard 2 of 3"]
            page = await call(http, "channels", limit=10)
            assert page["error"].startswith("without shard 2 of 3: ")
            assert set(page["channels"]) == {kept[0], kept[2], f"#{users[0]}", f"#{users[2]}"}
            found = await call(http, "connections")
            assert ({each["user"] for each in found["connections"]}, found.get("error")) == (set(users), None)


async def all_channels_are_counted(http: httpx.AsyncClient, count: int) -> bool:
    return len((await call(http, "channels"))["channels"]) == count
