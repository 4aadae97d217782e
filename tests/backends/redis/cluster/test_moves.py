"""What a virtual shard does when its slot moves, or its connection ends, at the worst moment."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError

from heliograph.backends.redis.cluster.link import ClusterLink
from heliograph.backends.redis.cluster.nodes import Nodes
from heliograph.backends.redis.cluster.scripts import ClusterScripts
from heliograph.backends.redis.cluster.topology import Node, Topology
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.link import Command
from heliograph.backends.redis.link_errors import LinkFull
from heliograph.backends.redis.opening import open_server
from heliograph.backends.redis.server import RedisServer as Shard
from heliograph.callbacks import await_callback
from heliograph.ports import new_node_id
from tests.support.redis_cluster import RedisCluster
from tests.support.waiting import eventually

ONE, TWO, THREE = ("127.0.0.1", 1), ("127.0.0.1", 2), ("127.0.0.1", 3)


@pytest.fixture
async def shard(redis_cluster: RedisCluster, namespace: str) -> AsyncIterator[Shard]:
    made = open_server(redis_cluster.url, Keys(f"{namespace}:", f"{namespace}:events"), node_id=new_node_id())
    yield made
    await made.close()


async def test_who_watches_a_slot_late_hides_no_change_from_the_others() -> None:
    """Fails if a bus stays at a server that the slot has left, because another connection was opened just then."""
    answers: list[list[Any]] = [[[0, 16383, [b"127.0.0.1", ONE[1]]]]]

    async def ask(node: Node, *question: object) -> list[Any]:
        return answers[-1]

    topology = Topology([ONE], ask)
    told: list[Node | None] = []
    try:
        assert await topology.owner(7) == ONE
        topology.watch(7, lambda: told.append(topology.known_owner(7)))
        topology.refused(7, MovedError("7 127.0.0.1:2"), ONE)
        topology.watch(7, lambda: None)
        await eventually(lambda: told == [TWO])
        answers.append([[0, 6, [b"127.0.0.1", ONE[1]]]])  # for a while nobody has the slot
        await topology._read()
        answers.append([[0, 16383, [b"127.0.0.1", THREE[1]]]])
        await topology._read()
        assert told == [TWO, THREE]
    finally:
        await topology.close()


async def test_a_connection_that_ends_between_loading_and_calling(shard: Shard) -> None:
    """Fails if a call goes to a server that was not asked whether it has everything of the last one."""
    scripts, link = shard.scripts, shard.link
    assert isinstance(scripts, ClusterScripts)
    assert isinstance(link, ClusterLink)
    keys, arguments = (shard.keys.leases, shard.keys.holders("bob")), ("lease",)
    call: Command = (len(keys), *keys, *arguments)
    assert await scripts.run("channel_counts", keys, arguments) == 0
    shas = scripts._shas
    assert link._wire is not None
    link._wire.fail(RedisConnectionError("cut here"))
    await eventually(lambda: link._wire is None)

    def repeat(done: Any) -> None:
        scripts._again.append(("channel_counts", call, done, 1))
        scripts._loaded(shas, None)

    assert await await_callback(repeat) == 0
    assert link.connections == 2
    assert scripts._loaded_over == 2


async def test_a_rare_command_that_was_held(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if what is sent even if the link is full is refused because its slot was moving meanwhile."""
    link = shard.link
    assert isinstance(link, ClusterLink)
    await link.ping()
    link._is_leaving = True
    done: list[Any] = []
    link.call(("PING",), done.append, is_rare=True)
    link._is_leaving = False
    link._unsent_bytes = 2**40
    link._resume()
    link.call(("PING",), done.append)
    assert [type(each) for each in done] == [LinkFull]
    await eventually(lambda: len(done) == 2)
    assert done[1] == b"PONG"


async def test_a_new_owner_is_asked_over_the_connection_that_there_is(
    redis_cluster: RedisCluster, shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if virtual shards that move at once wait for the few connections for rare calls, until it is too late."""
    asked: list[tuple[Node, int]] = []
    answers = Nodes.answers

    async def note(nodes: Nodes, node: Node, commands: Sequence[Command]) -> list[Any]:
        if commands[0][0] == "INFO":
            asked.append((node, len(commands)))
        return await answers(nodes, node, commands)

    monkeypatch.setattr(Nodes, "answers", note)
    slot = redis_cluster.slots[0]
    source, target = redis_cluster.owner(slot), redis_cluster.another(slot)
    call = [shard.keys.leases, shard.keys.holders("bob")], ["lease"]
    assert await shard.scripts.run("channel_counts", *call) == 0
    name = await shard.link.ask("HGET", shard.keys.server, "name")
    try:
        redis_cluster.move(slot, target)
        assert await shard.scripts.run("channel_counts", *call) == 0
        assert await shard.link.ask("HGET", shard.keys.server, "name") == name
        assert set(asked) == {(("127.0.0.1", source.port), 3)}
    finally:
        redis_cluster.move(slot, source)
