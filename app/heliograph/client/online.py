"""Who is online, for a program that follows lifecycle events: where it begins, and after a gap."""

from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.lifecycle import read_online_users
from heliograph.backends.redis.opening import open_servers
from heliograph.client.environment import cluster_settings


async def online_users(redis_url: str | None = None, *, prefix: str | None = None) -> set[str]:
    """Return the users who are online, as lifecycle events tell them.

    Later events, applied to this, lead to the present. Events that were told before may be applied once more.

    Args:
        redis_url: of the server with the bus; None: `HELIOGRAPH_REDIS__URL`.
        prefix: of all keys; None: the cluster's.

    Raises:
        BadSetting: there is no URL, or it cannot be used.
        BusUnavailable: Redis cannot be reached.
    """
    settings = cluster_settings(redis_url, durable_url=None if redis_url is None else "", prefix=prefix)
    online: set[str] = set()
    for server in open_servers(settings.live_url, Keys(settings.prefix, settings.bus_channel)):
        try:
            online |= await read_online_users(server.client, server.keys)
        finally:
            await server.close()
    return online
