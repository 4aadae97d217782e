"""Live publish and subscribe between any programs, with a prefix of one's own before each channel's Redis name.

    live = Live("redis://localhost:6379/0")
    heard = await live.publish("weather", b'{"rain":true}')  # how many subscribers Redis has handed it to

    async with await live.subscribe("weather") as subscription:
        while True:
            message = await subscription.next(timeout_s=1.0)

At most once: who is not subscribed at that moment never hears of it. `composite.py` adds what makes up for that.
"""

from dataclasses import dataclass
from types import TracebackType
from typing import Self

from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from heliograph.backends.redis.client import as_bus_unavailable, connect
from heliograph.client.environment import cluster_settings
from heliograph.client.forks import leave_alone, renew_in_children

CHANNEL_PREFIX = "live:"


@dataclass(frozen=True, slots=True)
class LiveMessage:
    """What was published on a channel (here without the prefix)."""

    channel: str
    data: bytes


class Live:
    """Publishes and subscribes over one Redis server. All calls raise BusUnavailable if that cannot be reached.

    Without `redis_url` that is `HELIOGRAPH_REDIS__URL`.
    """

    def __init__(self, redis_url: str | None = None, *, channel_prefix: str = CHANNEL_PREFIX) -> None:
        self._url = cluster_settings(redis_url, durable_url="").live_url
        self._prefix = channel_prefix
        self._redis: Redis = connect(self._url)
        renew_in_children(self)

    def renew_in_child(self) -> None:
        """See `heliograph.client.forks`."""
        leave_alone(self._redis)
        self._redis = connect(self._url)

    async def publish(self, channel: str, data: str | bytes) -> int:
        """Send to whoever listens at this moment; returns how many that were."""
        with as_bus_unavailable():
            return int(await self._redis.publish(f"{self._prefix}{channel}", data))

    async def subscribe(self, *channels: str) -> "Subscription":
        """Listen, on a connection of its own. What is published after this returns is heard."""
        client = connect(self._url, max_connections=1)
        subscription = Subscription(client, client.pubsub(), self._prefix)
        try:
            await subscription.begin(channels)
        except BaseException:
            await subscription.close()
            raise
        return subscription

    async def close(self) -> None:
        """Close the publishing connections; subscriptions are closed by those who made them."""
        await self._redis.aclose()


class Subscription:
    """What `Live.subscribe` gives: an `async with` block closes it."""

    def __init__(self, client: Redis, pubsub: PubSub, prefix: str) -> None:
        self._client = client
        self._pubsub = pubsub
        self._prefix = prefix

    async def begin(self, channels: tuple[str, ...]) -> None:
        """Subscribe, and wait until Redis has confirmed each channel."""
        with as_bus_unavailable():
            await self._pubsub.subscribe(*(f"{self._prefix}{channel}" for channel in channels))
            for _ in channels:
                if await self._pubsub.get_message(timeout=1.0) is None:
                    raise TimeoutError("the subscription is not confirmed")

    async def next(self, timeout_s: float) -> LiveMessage | None:
        """The next message; None if there was none for so long.

        Raises:
            BusUnavailable: the connection is lost, and with it what was published since: subscribe anew.
        """
        with as_bus_unavailable():
            message = await self._pubsub.get_message(timeout=timeout_s)
        if message is None or message["type"] != "message":
            return None
        return LiveMessage(message["channel"].decode().removeprefix(self._prefix), message["data"])

    async def close(self) -> None:
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
