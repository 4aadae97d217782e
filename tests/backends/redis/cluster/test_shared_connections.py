"""Virtual shards share connections: one to each server for calls, one for large reads, one to listen on."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from redis import Redis
from redis.exceptions import RedisError

from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.opening import open_servers
from heliograph.backends.redis.server import RedisServer as Shard
from heliograph.callbacks import await_callback
from heliograph.cluster.pubsub_manager import PubSubManager
from heliograph.ports import BusState, new_node_id
from heliograph.protocol.envelope import Envelope
from heliograph.protocol.shard_map import ShardMap
from heliograph.settings import BusSettings
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.redis_cluster import RedisCluster
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from heliograph.backends.redis.cluster.client import ShardClient

V = 16


def url_of(cluster: RedisCluster) -> str:
    return cluster.url.replace("virtual_shards=1", f"virtual_shards={V}")


def connections(cluster: RedisCluster) -> list[tuple[int, int]]:
    """Of each server: connections of programs that send commands, and of those that listen."""
    found = []
    for server in cluster.servers:
        with Redis.from_url(server.url) as redis:
            own = redis.client_id()
            clients = [each for each in redis.client_list() if int(each["id"]) != own and "O" not in each["flags"]]
        listening = sum(int(each.get("ssub", 0)) > 0 for each in clients)
        found.append((len(clients) - listening, listening))
    return found


def kill_connections(cluster: RedisCluster) -> None:
    for server in cluster.servers:
        for kind in ("normal", "pubsub"):
            server.command("CLIENT", "KILL", "TYPE", kind)


@asynccontextmanager
async def shards_behind_a_proxy(cluster: RedisCluster, namespace: str) -> AsyncIterator[tuple[list[Shard], TcpProxy]]:
    """The virtual shards whose slots the first master owns. The proxy stands before it, for shared connections."""
    servers = open_servers(url_of(cluster), Keys(f"{namespace}:", f"{namespace}:events"), node_id=new_node_id())
    port = cluster.servers[0].port
    async with TcpProxy(port) as proxy:
        there = []
        for server in servers:
            client = cast("ShardClient", server.client)
            if (await client.nodes.topology.owner(client.slot))[1] == port:
                there.append(server)
        client.nodes.pool(("127.0.0.1", port)).connection_kwargs["port"] = proxy.port
        yield there, proxy
        for server in servers:
            await server.close()
    assert len(there) in (5, 6)


async def test_how_many_connections_there_are(
    redis_cluster: RedisCluster, start_replica: StartReplica, namespace: str
) -> None:
    """Fails if connections grow with the virtual shards, or a dead one is not opened again for all on it."""
    shards = ShardMap(V)
    names = list({shards.of(f"#user-{number}"): f"user-{number}" for number in range(400)}.values())
    assert len(names) == V
    one, two = [await start_replica(f"replica-{number}", redis_url=url_of(redis_cluster)) for number in (1, 2)]
    async with AsyncExitStack() as stack:
        alice = await stack.enter_async_context(Client(one.url, user="alice"))
        users = [await stack.enter_async_context(Client(two.url, user=name)) for name in names]

        async def send_all(number: int) -> None:
            for name in names:

                async def sent(name: str = name) -> bool:
                    return bool((await alice.send(name, number, idempotency_key=f"k{number}"))["type"] == "ack")

                await eventually(sent, within_s=10)
            assert [await user.messages(1) for user in users] == [[number]] * V

        await send_all(1)
        # Of each replica: for calls, for large reads, two for rare calls.
        assert all(calling <= 2 * 4 and listening == 2 for calling, listening in connections(redis_cluster))
        await asyncio.to_thread(kill_connections, redis_cluster)
        await send_all(2)
        await eventually(lambda: one.replica.node.ready and two.replica.node.ready, within_s=10)
        await eventually(lambda: all(n == 2 for _, n in connections(redis_cluster)), within_s=10)
        await send_all(3)
        assert all(calling <= 2 * 4 for calling, _ in connections(redis_cluster))
        for user in users:
            await user.nothing_more()


async def test_a_connection_that_is_frozen(redis_cluster: RedisCluster, namespace: str) -> None:
    """Fails if a virtual shard stays on a dead connection, sends something twice, or mixes up its order."""
    async with shards_behind_a_proxy(redis_cluster, namespace) as (shards, proxy):

        async def push(shard: Shard, number: int) -> Any:
            return await shard.link.ask("RPUSH", f"{shard.keys.prefix}list", number)

        async def push_all(numbers: Sequence[int]) -> list[Any]:
            calls = [push(shard, number) for number in numbers for shard in shards]
            return await asyncio.gather(*calls, return_exceptions=True)

        assert not any(isinstance(each, Exception) for each in await push_all(range(10)))
        assert proxy.deafen(b"RPUSH") == 1
        # One of them finds out; an idle one must not run into it after that.
        with pytest.raises(RedisError):
            await push(shards[0], 10)
        await eventually(lambda: all(shard.link.connections == 1 for shard in shards))
        busy = shards[0]

        async def works() -> bool:
            try:
                await busy.link.ask("PING")
            except RedisError:
                return False
            return True

        await eventually(works, within_s=10)
        assert not any(isinstance(each, Exception) for each in await push_all(range(11, 20)))
        assert {shard.link.connections for shard in shards} == {2}
        for shard in shards:
            found = [int(each) for each in await shard.link.ask("LRANGE", f"{shard.keys.prefix}list", 0, -1)]
            assert found == [*range(10), *([10] if shard is busy else []), *range(11, 20)]


async def test_a_bus_that_is_frozen(
    redis_cluster: RedisCluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if the bus of some virtual shard stays deaf, or one that ends takes the others with it."""
    monkeypatch.setattr("heliograph.cluster.pubsub_manager.BACKOFF_FIRST_S", 0.01)
    got: dict[int, list[bytes]] = {}

    def hear(number: int, envelope: Envelope) -> None:
        got.setdefault(number, []).append(bytes(envelope.message))

    async with shards_behind_a_proxy(redis_cluster, namespace) as (shards, proxy):
        settings = BusSettings(canary_interval_s=0.1, canary_timeout_s=2)
        buses = [PubSubManager(shard, bus=settings) for shard in shards]
        for number, bus in enumerate(buses):
            await bus.initialize()
            bus.start_listening(partial(hear, number))
        await eventually(lambda: all(bus.state is BusState.RUNNING for bus in buses))
        for bus in buses:
            await bus.follow("chat:1")

        async def reaches_all(word: bytes) -> None:
            got.clear()
            for bus in buses:
                await await_callback(partial(bus.relay_on, Envelope(message=msgspec.Raw(word), channel="chat:1")))
            await eventually(lambda: got == {number: [word] for number in range(len(buses))}, within_s=10)

        try:
            await reaches_all(b'"before"')
            assert proxy.deafen(b"SSUBSCRIBE") == 1
            await eventually(lambda: all(bus.stats.resubscriptions > 0 for bus in buses), within_s=20)
            await reaches_all(b'"after"')
            await buses.pop().close()
            before = [bus.stats.resubscriptions for bus in buses]
            await reaches_all(b'"without one"')
            assert [bus.stats.resubscriptions for bus in buses] == before
        finally:
            for bus in buses:
                await bus.close()
