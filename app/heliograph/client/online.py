"""Who is online, for a program that follows lifecycle events: where it begins, and after a gap."""

from collections.abc import Sequence

from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.lifecycle import read_online_users
from heliograph.backends.redis.opening import layouts_of, open_servers
from heliograph.client.environment import cluster_settings


async def online_users(redis_url: str | Sequence[str] | None = None, *, prefix: str | None = None) -> set[str]:
    """Return the users who are online, as lifecycle events tell them.

    Later events, applied to this, lead to the present. Events that were told before may be applied once more.

    Args:
        redis_url: of the server with the bus, or those of all shards; None: `HELIOGRAPH_REDIS__URL` or `…__SHARDS`.
        prefix: of all keys; None: the cluster's.

    Raises:
        BadSetting: there is no URL, or it cannot be used.
        BusUnavailable: Redis cannot be reached.
    """
    settings = cluster_settings(redis_url, durable_url=None if redis_url is None else "", prefix=prefix)
    online: set[str] = set()
    layouts = iter(layouts_of(settings.urls))
    for url, bus_channel in zip(settings.urls, settings.bus_channels, strict=True):
        for server in open_servers(url, Keys(settings.prefix, bus_channel), layouts=layouts):
            try:
                online |= await read_online_users(server.client, server.keys)
            finally:
                await server.close()
    return online
