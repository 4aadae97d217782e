"""Live publish and subscribe between any programs, with a prefix before each channel's name in Redis.

    live = Live("redis://localhost:6379/0")
    heard = await live.publish("weather", b'{"rain":true}')  # how many subscribers Redis has delivered it to

    async with await live.subscribe("weather") as subscription:
        while True:
            message = await subscription.next(timeout_s=1.0)

At most once: a program that is not subscribed at that moment never gets the message. `composite.py` adds recovery.
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
    """A message on a channel (named without the prefix)."""

    channel: str
    data: bytes


class Live:
    """Publish and subscribe over one Redis server. All calls raise BusUnavailable if it cannot be reached.

    `redis_url` defaults to `HELIOGRAPH_REDIS__URL`.
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
        """Send to the present subscribers. Return how many there were."""
        with as_bus_unavailable():
            return int(await self._redis.publish(f"{self._prefix}{channel}", data))

    async def subscribe(self, *channels: str) -> "Subscription":
        """Listen, on a separate connection. The subscription gets everything published after this returns."""
        client = connect(self._url, max_connections=1)
        subscription = Subscription(client, client.pubsub(), self._prefix)
        try:
            await subscription.begin(channels)
        except BaseException:
            await subscription.close()
            raise
        return subscription

    async def close(self) -> None:
        """Close the publishing connections. Close subscriptions yourself."""
        await self._redis.aclose()


class Subscription:
    """The result of `Live.subscribe`. An `async with` block closes it."""

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
        """Return the next message; None if none arrives within `timeout_s`.

        Raises:
            BusUnavailable: the connection is lost, with the messages published since then: subscribe again.
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
