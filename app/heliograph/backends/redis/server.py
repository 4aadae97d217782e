"""One Redis as one failure domain: what can be reached, lost or refused together is held together here.

A replica has one for the bus and the directory, and a second one if what is kept has a server of its own.
"""

from contextlib import suppress
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from heliograph.backends.redis.client import Client, as_bus_unavailable
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.scripts import Scripts
from heliograph.telemetry import Histogram

if TYPE_CHECKING:
    from heliograph.backends.redis.link import Link


class RedisServer:
    """Its client, links, scripts (behind the fence of the server's process) and names, and who asks it.

    `node_id`: of the replica that asks; empty for another program. `replica`: that replica's name, which its scripts
    carry; None for a program that needs no scripts of its own. `directed`: see `script_text`. `publish_time`
    takes how long Redis needs for what publishes; servers may share one.

    Nothing is opened before the first command. After `close` it may be used again.
    """

    def __init__(
        self,
        client: Client,
        keys: Keys,
        *,
        node_id: str = "",
        replica: str | None = None,
        directed: bool = False,
        publish_time: Histogram | None = None,
    ) -> None:
        self.client = client  # for what is rare
        self.link: Link = client.link  # for what comes with a message, or every second
        self.bulk: Link = client.bulk  # for reads whose answers may be large
        self.keys = keys
        self.node_id = node_id
        # Two clusters on one Redis may both have a replica-1.
        owner = "" if replica is None else f"{keys.bus_channel} {replica}"
        self.publish_time = publish_time or Histogram()
        self.scripts = Scripts(client, keys, owner, directed=directed, publish_time=self.publish_time)
        self.bulk_scripts = self.scripts.over(client.bulk)  # the same, over the link for large answers

    async def ping(self) -> None:
        """Make sure that both links answer. Raises what redis-py raises."""
        await self.link.ping()
        await self.bulk.ping()

    async def now_ms(self) -> int:
        """Return the time by the server's own clock, in ms since the epoch.

        Raises:
            BusUnavailable: it does not say.
        """
        with as_bus_unavailable():
            seconds, microseconds = await self.link.ask("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def close(self) -> None:
        """Give the claim to the replica's name back, and close every connection. May be called twice."""
        await self.scripts.release()
        with suppress(RedisError, OSError, TimeoutError):
            await self.client.aclose()
