"""One call for an entry of a durable stream, the latest state of its key, and a live message.

    composite = Composite("redis://live:6379/0", "redis://durable:6379/0")
    stored = await composite.publish("sensor-7", {"celsius": 21.5})
    latest = await composite.latest("sensor-7")
    async for item in composite.follow("sensor-7", after=latest.id):
        print(item.data)

Durable and live Redis may be one server or two. The durable one writes each command to disk (appendonly yes,
appendfsync always); the live one keeps nothing and is fast. When one of them dies:

- **The durable one is dead**: `publish` raises BusUnavailable and sends nothing live, so no subscriber gets a message
  that was not kept. (After a time-out it may have been kept; it was not sent.) Followers wait until it is back.
- **The live one is dead**: `publish` succeeds and says so (`heard` is None). The entry and the latest state are kept.
  Followers find the entry in the stream, at most `poll_s` late.
- **Both are alive**: followers get the entry at once, or `poll_s` late if the live message was lost on the way.

A follower gets every entry of its key, in order and once. If it is so far behind that MAXLEN has dropped entries, the
next item says so (`gap`).
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import msgspec

from heliograph.backends.redis.acknowledgement import Acknowledgement
from heliograph.backends.redis.call_batch import NOTHING
from heliograph.backends.redis.client import as_bus_unavailable, connect
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.server import RedisServer
from heliograph.backends.redis.streams import MAXLEN, ShardedStream
from heliograph.client.drafts import as_json
from heliograph.client.environment import cluster_settings
from heliograph.client.forks import leave_alone, renew_in_children
from heliograph.client.live import CHANNEL_PREFIX, Live, Subscription
from heliograph.errors import BusUnavailable

if TYPE_CHECKING:
    from heliograph.backends.redis.script_texts import Argument

logger = logging.getLogger(__name__)

LATEST_TTL_S = 86_400.0
PAGE = 500  # entries read at once


@dataclass(frozen=True, slots=True)
class Stored:
    """The entry is kept as `id`. `heard`: how many live subscribers got it; None: it was not sent."""

    id: str
    heard: int | None


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of a key. `gap`: entries before this one may be missing, because MAXLEN has dropped them."""

    id: str
    key: str
    data: Any
    gap: bool = False


class Composite:
    """Publish entries and read them, with the guarantees above. Without `durable_url` one server is both.

    URLs and the prefix default to the cluster's (`HELIOGRAPH_REDIS__URL`, `…__DURABLE_URL`, `…__PREFIX`).
    All programs that use the same stream need the same `stream`, `prefix`, `shards` and `channel_prefix`. Workers can
    read it in a group with `Consumer(durable_url, …, stream=stream)`; entries have the fields `key` and `data`.
    """

    def __init__(
        self,
        live_url: str | None = None,
        durable_url: str | None = None,
        *,
        stream: str = "composite",
        prefix: str | None = None,
        shards: int = 4,
        maxlen: int = MAXLEN,
        latest_ttl_s: float = LATEST_TTL_S,
        channel_prefix: str = CHANNEL_PREFIX,
    ) -> None:
        settings = cluster_settings(live_url, durable_url=durable_url, prefix=prefix)
        self._live = Live(settings.live_url, channel_prefix=channel_prefix)
        self._kept_url = settings.kept_url
        self._ack = Acknowledgement(settings.ack, settings.ack_replicas)
        self._keys = Keys(settings.prefix, settings.bus_channel)
        self._latest_ttl_s = latest_ttl_s
        self._make_stream = partial(ShardedStream, keys=self._keys, name=stream, shards=shards, maxlen=maxlen)
        self._connect()
        renew_in_children(self)

    def _connect(self) -> None:
        self._durable = RedisServer(connect(self._kept_url), self._keys, ack=self._ack)
        self._stream = self._make_stream(self._durable.client)

    def renew_in_child(self) -> None:
        """See `heliograph.client.forks`."""
        leave_alone(self._durable)
        self._connect()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._live.close()
        await self._durable.close()

    async def publish(self, key: str, data: object) -> Stored:
        """Keep `data` (anything that encodes to JSON), make it the latest state of its key, then send it live.

        Raises:
            BadData: it cannot be written as JSON.
            BusUnavailable: it was not kept (after a time-out it may have been, or it is and `HELIOGRAPH_REDIS__ACK`
                has not been met), and not sent.
        """
        encoded = bytes(as_json(data))
        shard_key = self._stream.shard_keys[self._stream.shard_of(key)]
        keys = [shard_key, self._keys.latest(self._stream.name, key)]
        arguments: list[Argument] = [self._stream.maxlen, int(self._latest_ttl_s * 1000), encoded, "key", key]
        with as_bus_unavailable():
            [answer] = await self._durable.keep("remember", [(keys, arguments, NOTHING)])
        entry_id = cast("bytes", answer).decode()
        message = msgspec.json.encode({"id": entry_id, "key": key, "data": msgspec.Raw(encoded)})
        try:
            heard = await self._live.publish(key, message)
        except BusUnavailable as error:
            logger.warning("%s of %r is kept but was not sent live: %s", entry_id, key, error)
            return Stored(entry_id, heard=None)
        return Stored(entry_id, heard)

    async def latest(self, key: str) -> Item | None:
        """Return the last item of the key; None if it is older than `latest_ttl_s`."""
        with as_bus_unavailable():
            found = await self._durable.client.hmget(self._keys.latest(self._stream.name, key), "id", "data")
        entry_id, data = cast("list[bytes | None]", found)
        if entry_id is None or data is None:
            return None
        return Item(entry_id.decode(), key, msgspec.json.decode(data))

    async def follow(self, key: str, *, after: str | None = None, poll_s: float = 1.0) -> AsyncIterator[Item]:
        """Yield every entry of the key behind `after` ("0-0": all that are kept; None: from now on), without end.

        Live messages are only hints: items are read from the stream. Close the generator with `contextlib.aclosing`.
        """
        position = after
        gap = False  # noted until there is an item to report it with
        subscription: Subscription | None = None
        try:
            while True:
                try:
                    if subscription is None:  # subscribe before reading, so that no entry falls in between
                        subscription = await self._subscribe(key)
                    if position is None:
                        position = await self._stream.last_id(self._stream.shard_of(key))
                    entries, trimmed = await self._stream.scan(self._stream.shard_of(key), position, count=PAGE)
                except BusUnavailable as error:
                    logger.warning("%r cannot be read (%s); retrying", key, error)
                    await asyncio.sleep(poll_s)
                    continue
                gap = gap or trimmed
                for entry in entries:
                    position = entry.id
                    if entry["key"] == key:
                        yield Item(entry.id, key, entry.json("data"), gap)
                        gap = False
                if len(entries) < PAGE:
                    subscription = await _wait(subscription, poll_s)
        finally:
            if subscription is not None:
                await subscription.close()

    async def _subscribe(self, key: str) -> Subscription | None:
        try:
            return await self._live.subscribe(key)
        except BusUnavailable as error:
            logger.debug("live subscription to %r failed, retrying: %s", key, error)
            return None


async def _wait(subscription: Subscription | None, poll_s: float) -> Subscription | None:
    """Wait until there may be an entry to read. Return the subscription, or None if it is lost."""
    if subscription is None:
        await asyncio.sleep(poll_s)
        return None
    try:
        await subscription.next(timeout_s=poll_s)
    except BusUnavailable:
        await subscription.close()
        return None
    return subscription
