"""Who is online, for a program that follows lifecycle events: where it begins, and after a gap."""

from heliograph.backends.redis.client import connect
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.lifecycle import read_online_users
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
    client = connect(settings.live_url)
    try:
        return await read_online_users(client, Keys(settings.prefix, settings.bus_channel))
    finally:
        await client.aclose()
