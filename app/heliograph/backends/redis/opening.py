"""Open what a URL of Redis names: one server, the master that Sentinels name, or the virtual shards of a cluster."""

from collections.abc import Iterator, Sequence
from typing import Any

from heliograph.backends.redis.acknowledgement import IN_MEMORY, Acknowledgement
from heliograph.backends.redis.client import TIMEOUT_S, Client, connect, unusable
from heliograph.backends.redis.cluster.client import ShardClient
from heliograph.backends.redis.cluster.nodes import Nodes
from heliograph.backends.redis.cluster.server import ShardServer
from heliograph.backends.redis.cluster.tags import balanced_tags
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.layout import Layout, layouts_among
from heliograph.backends.redis.server import RedisServer
from heliograph.redis_url import ClusterAddress, check_redis_url, read_cluster_address
from heliograph.telemetry import Histogram


class Clients:
    """Makes clients. The virtual shards of one cluster share connections to its servers. See `connect`."""

    def __init__(self, *, max_connections: int = 50, timeout_s: float = TIMEOUT_S) -> None:
        self._max_connections = max_connections
        self._timeout_s = timeout_s
        self._nodes: dict[str, Nodes] = {}

    def open(self, url: str, tag: str = "") -> Client:
        """Return a client of one server, or of the slot of a cluster that has this tag or key.

        Raises:
            BadSetting: the URL cannot be used.
        """
        cluster = _cluster_of(url)
        if cluster is None:
            return connect(url, max_connections=self._max_connections, timeout_s=self._timeout_s)
        if url not in self._nodes:
            self._nodes[url] = Nodes(cluster, max_connections=self._max_connections, timeout_s=self._timeout_s)
        return ShardClient(self._nodes[url], tag)


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
    clients = Clients(max_connections=max_connections)
    return [
        server_of(
            clients.open(url, tag),
            keys.in_slot(tag) if tag else keys,
            node_id=node_id,
            replica=replica,
            layout=next(layouts),
            directed=directed,
            publish_time=publish_time,
            ack=ack,
        )
        for tag in tags_of(url)
    ]


def server_of(client: Client, keys: Keys, **options: Any) -> RedisServer:
    """Return the server that a client leads to. `options`: see `RedisServer`."""
    make = ShardServer if isinstance(client, ShardClient) else RedisServer
    return make(client, keys, **options)  # type: ignore[arg-type] # of the kind that was looked at


def tags_of(url: str) -> tuple[str, ...]:
    """Return the tag of each virtual shard of a cluster, in order; otherwise an empty one.

    Raises:
        BadSetting: the URL cannot be used.
    """
    cluster = _cluster_of(url)
    return ("",) if cluster is None else balanced_tags(cluster.virtual_shards)


def layouts_of(urls: Sequence[str]) -> list[Layout]:
    """Return the layout of each shard of these URLs, in order: one for each, or for each virtual shard of a cluster.

    Raises:
        BadSetting: a URL cannot be used.
    """
    return layouts_among(sum(len(tags_of(url)) for url in urls))


def open_server(url: str, keys: Keys, **options: Any) -> RedisServer:
    """Return the only one of `open_servers`.

    Raises:
        BadSetting: the URL names a cluster with several virtual shards.
    """
    servers = open_servers(url, keys, **options)
    if len(servers) > 1:
        raise unusable("names a cluster with more than one virtual shard: add ?virtual_shards=1")
    return servers[0]


def _cluster_of(url: str) -> ClusterAddress | None:
    try:
        return read_cluster_address(check_redis_url(url))
    except ValueError as error:
        raise unusable(str(error)) from None
