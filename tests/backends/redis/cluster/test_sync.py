"""Virtual shards for programs without an event loop, where servers do not answer."""

import threading
import time

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from heliograph.backends.redis.cluster.sync import SyncNodes, SyncShardClient
from heliograph.backends.redis.cluster.topology import NoOwner
from heliograph.redis_url import read_cluster_address
from tests.support.ports import free_port


def test_an_error_stays_what_it_is_though_nobody_knows_the_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a command that perhaps was carried out is said not to have been sent, because the cluster is away."""
    port = free_port()
    address = read_cluster_address(f"redis+cluster://127.0.0.1:{port}")
    assert address is not None
    nodes = SyncNodes(address, max_connections=1)
    client = SyncShardClient(nodes, "tag")
    nodes._owners.read([[0, 16383, [b"127.0.0.1", port]]], ("127.0.0.1", port))

    def lost(self: object, *args: object, **options: object) -> None:
        nodes.doubt(("127.0.0.1", port))  # by another thread, meanwhile
        raise RedisConnectionError("the connection was lost")

    monkeypatch.setattr("redis.Redis.execute_command", lost)
    with pytest.raises(RedisConnectionError, match="was lost") as raised:
        client.execute_command("SPUBLISH", "channel", "message")
    assert not isinstance(raised.value, NoOwner)
    assert nodes._owners.must_be_read(client.slot)
    client.close()


def test_those_who_wait_for_a_cluster_that_is_away_end_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if each thread asks dead servers again, one after the other, and the last one waits for all."""
    address = read_cluster_address("redis+cluster://127.0.0.1:1,127.0.0.1:2")
    assert address is not None
    nodes = SyncNodes(address, max_connections=1)
    asked: list[object] = []

    def silent(self: object, node: object, commands: object) -> list[Exception]:
        asked.append(node)
        time.sleep(0.1)
        return [RedisConnectionError("no answer")]

    monkeypatch.setattr(SyncNodes, "answers", silent)
    errors: list[NoOwner] = []

    def look() -> None:
        try:
            nodes.owner(1)
        except NoOwner as error:
            errors.append(error)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 8
    assert len(asked) < 8
    with pytest.raises(NoOwner, match=r"127\.0\.0\.1:1: no answer"):
        nodes.owner(1)  # whoever comes later asks again
    nodes.close()
