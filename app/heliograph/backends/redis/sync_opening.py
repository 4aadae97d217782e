"""Open what a URL of Redis names, for programs without an event loop: see `opening.py`."""

from typing import Any

from redis import Redis

from heliograph.backends.redis.client import unusable
from heliograph.backends.redis.cluster.sync import SyncNodes, SyncShardClient
from heliograph.backends.redis.cluster.sync_scripts import SyncShardScripts
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.sync import SyncScripts, connect_sync
from heliograph.redis_url import check_redis_url, read_cluster_address


class SyncClients:
    """Makes clients, for any number of threads; nothing is opened before the first command.

    The virtual shards of one cluster share `max_connections` connections to each of its servers.
    """

    def __init__(self, *, max_connections: int = 10) -> None:
        self._max_connections = max_connections
        self._nodes: dict[str, SyncNodes] = {}

    def open(self, url: str, tag: str = "") -> Redis:
        """Return a client of one server, or of the slot of a cluster that has this tag or key.

        Raises:
            BadSetting: the URL cannot be used.
        """
        try:
            cluster = read_cluster_address(check_redis_url(url))
        except ValueError as error:
            raise unusable(str(error)) from None
        if cluster is None:
            return connect_sync(url, max_connections=self._max_connections)
        if url not in self._nodes:
            self._nodes[url] = SyncNodes(cluster, max_connections=self._max_connections)
        return SyncShardClient(self._nodes[url], tag)


def sync_scripts(client: Redis, keys: Keys, **options: Any) -> SyncScripts:
    """Return the scripts of one server, or of one virtual shard. `options`: see `SyncScripts`."""
    make = SyncShardScripts if isinstance(client, SyncShardClient) else SyncScripts
    return make(client, keys, **options)  # type: ignore[arg-type] # of the kind that was looked at
