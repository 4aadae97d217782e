"""Virtual shards for programs without an event loop, where servers do not answer."""

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
