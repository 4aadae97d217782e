"""`emit`: what a client says to the workers behind the cluster."""

import asyncio
import json

from app.backends.streams import Entry
from app.publish.consumer import Consumer
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually


async def test_a_worker_gets_what_a_client_emits(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if the ack comes without `id`, a field is missing, or a user's entries change their order."""
    one, two = await start_replica("replica-1"), await start_replica("replica-2")
    got: list[Entry] = []

    async def handle(entry: Entry) -> None:
        got.append(entry)

    async with Client(one.url, user="우주") as client, Client(two.url, user="우주") as other:
        await client.say({"type": "emit", "event": "주문", "data": {"n": 1}, "id": "a"})
        assert await client.next("ack") == {"type": "ack", "id": "a"}
        await other.say({"type": "emit", "event": "order", "data": [2], "id": 7})
        assert await other.next("ack") == {"type": "ack", "id": 7}
        consumer = Consumer(redis_server.url, "workers", handle, prefix=f"{namespace}:", block_s=0.05)
        task = asyncio.create_task(consumer.run())
        await eventually(lambda: len(got) == 2)
        consumer.stop()
        await task
        assert [entry.json("data") for entry in got] == [{"n": 1}, [2]]
        first = {name: value.decode() for name, value in got[0].fields.items()}
        assert (first["event"], first["user"], first["replica"]) == ("주문", "우주", "replica-1")
        assert first["session"] == client.connected["session"]
        assert first["message_id"]
        assert first["emitted_at"].endswith("Z")
        assert set(first) == {"event", "data", "user", "session", "replica", "emitted_at", "message_id"}


async def test_without_redis_it_says_what_is_missing(start_replica: StartReplica) -> None:
    """Fails if the memory backend acknowledges what no worker can ever read."""
    alone = await start_replica(redis_url=None)
    async with Client(alone.url, user="alice") as client:
        await client.say({"type": "emit", "event": "order", "data": 1, "id": 1})
        error = await client.next("error")
        assert (error["code"], error["id"]) == ("unavailable", 1)
        assert "HELIOGRAPH_REDIS__URL" in error["message"]
        await client.say({"type": "ping"})
        await client.next("pong")


async def test_what_cannot_be_stored_is_not_acknowledged(own_redis: RedisServer, start_replica: StartReplica) -> None:
    """Fails if a client is told that its emission is kept while Redis refuses it, or loses its socket over it."""
    one = await start_replica(redis_url=own_redis.url)
    async with Client(one.url, user="alice") as client:
        own_redis.command("CONFIG", "SET", "maxmemory", "1")
        await client.say({"type": "emit", "event": "order", "data": 1, "id": 1})
        error = await client.next("error", id=1)
        assert error["code"] == "unavailable"
        own_redis.command("CONFIG", "SET", "maxmemory", "0")
        await eventually(lambda: not one.replica.memory.is_full)
        await client.say({"type": "emit", "event": "order", "data": 1, "id": 2})
        await client.next("ack", id=2)


async def test_what_is_no_emission_is_refused(start_replica: StartReplica) -> None:
    """Fails if an emission without a name or with data that nobody can read gets as far as the stream."""
    one = await start_replica()
    async with Client(one.url, user="alice") as client:
        for frame, code in [
            ({"data": 1}, "bad_request"),
            ({"event": "", "data": 1}, "bad_request"),
            ({"event": "x" * 129, "data": 1}, "bad_request"),
            ({"event": "order"}, "bad_request"),
            ({"event": "order", "data": json.loads("[" * 40 + "]" * 40)}, "too_deep"),
        ]:
            await client.say({"type": "emit", **frame, "id": 3})
            assert (await client.next("error", id=3))["code"] == code
    async with Client(one.url) as stranger:
        await stranger.say({"type": "emit", "event": "order", "data": 1})
        await stranger.next("error")
        assert await stranger.close_code() == 3501
