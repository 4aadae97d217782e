"""Open what a URL of Redis names: one server, the master that Sentinels name, or the virtual shards of a cluster."""

from collections.abc import Iterator, Sequence
from typing import Any

from heliograph.backends.redis.acknowledgement import IN_MEMORY, Acknowledgement
from heliograph.backends.redis.client import TIMEOUT_S, Client, connect, unusable
from heliograph.backends.redis.cluster.client import ShardClient, shard_clients
from heliograph.backends.redis.cluster.nodes import Nodes
from heliograph.backends.redis.cluster.server import ShardServer
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.layout import Layout, layouts_among
from heliograph.backends.redis.server import RedisServer
from heliograph.redis_url import check_redis_url, read_cluster_address
from heliograph.telemetry import Histogram


def open_clients(url: str, *, max_connections: int = 50, timeout_s: float = TIMEOUT_S) -> list[Client]:
    """Return a client for each virtual shard of a cluster, in order; otherwise one. See `connect`."""
    try:
        cluster = read_cluster_address(check_redis_url(url))
    except ValueError as error:
        raise unusable(str(error)) from None
    if cluster is None:
        return [connect(url, max_connections=max_connections, timeout_s=timeout_s)]
    nodes = Nodes(cluster, max_connections=max_connections, timeout_s=timeout_s)
    return list(shard_clients(nodes, cluster.virtual_shards))


def open_servers(
    url: str,
    keys: Keys,
    *,
    layouts: Iterator[Layout] | None = None,
    max_connections: int = 50,
    node_id: str = "",
    replica: str | None = None,
    directed: bool = False,
    publish_time: Histogram | None = None,
    ack: Acknowledgement = IN_MEMORY,
) -> list[RedisServer]:
    """Return a server for each virtual shard of a cluster, in order; otherwise one. See `RedisServer`.

    `layouts`: of these servers and perhaps others after them; by default they are all that there is.
    """
    layouts = layouts or iter(layouts_of([url]))
    publish_time = publish_time or Histogram()
    servers: list[RedisServer] = []
    for client in open_clients(url, max_connections=max_connections):
        make = ShardServer if isinstance(client, ShardClient) else RedisServer
        servers.append(
            make(
                client,  # type: ignore[arg-type] # of the kind that was looked at
                keys,
                node_id=node_id,
                replica=replica,
                layout=next(layouts),
                directed=directed,
                publish_time=publish_time,
                ack=ack,
            )
        )
    return servers


def layouts_of(urls: Sequence[str]) -> list[Layout]:
    """Return the layout of each shard of these URLs, in order: one for each, or for each virtual shard of a cluster.

    Raises:
        BadSetting: a URL cannot be used.
    """
    try:
        clusters = [read_cluster_address(check_redis_url(url)) for url in urls]
    except ValueError as error:
        raise unusable(str(error)) from None
    return layouts_among(sum(1 if cluster is None else cluster.virtual_shards for cluster in clusters))


def open_server(url: str, keys: Keys, **options: Any) -> RedisServer:
    """Return the only one of `open_servers`.

    Raises:
        BadSetting: the URL names a cluster with several virtual shards.
    """
    servers = open_servers(url, keys, **options)
    if len(servers) > 1:
        raise unusable("names a cluster with more than one virtual shard: add ?virtual_shards=1")
    return servers[0]
