"""One virtual shard of a cluster as one failure domain."""

from collections.abc import Callable
from typing import Any

from heliograph.backends.redis.bus_verbs import SHARDED
from heliograph.backends.redis.cluster.client import ShardClient
from heliograph.backends.redis.cluster.scripts import ClusterScripts
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.scripts import Scripts
from heliograph.backends.redis.server import RedisServer
from heliograph.backends.redis.wire import BusWire


class ShardServer(RedisServer):
    """A `RedisServer` that is one slot of a cluster. `keys`: those in that slot."""

    verbs = SHARDED

    def __init__(
        self,
        client: ShardClient,
        keys: Keys,
        **options: Any,
    ) -> None:
        self._shard = client
        super().__init__(client, keys, **options)

    def _make_scripts(self, owner: str, *, directed: bool) -> tuple[Scripts, Scripts, Scripts]:
        shard, (link, bulk, kept) = self._shard, self._shard.cluster_links
        made = ClusterScripts(
            shard,
            shard.nodes,
            shard.slot,
            self.keys,
            link,
            owner,
            layout=self.layout,
            directed=directed,
            publish_time=self.publish_time,
            ack=self.ack,
        )
        return made, made.on(bulk), made.on(kept)

    async def open_bus(self, receive: Callable[[Any], object], lost: Callable[[Exception], object]) -> BusWire:
        return await self._shard.nodes.open_bus(self._shard.tag, self._shard.slot, receive, lost)
