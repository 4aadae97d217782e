"""Commands in Redis: published on the bus, and kept in a stream for replicas that the bus does not reach."""

from typing import Any, Final

from redis.asyncio import Redis

from app.backends.keys import Keys
from app.backends.protocols import COMMAND_TTL_S, Told
from app.backends.redis_client import as_bus_unavailable
from app.protocol.envelope import Envelope, encode_envelope

MOST_KEPT: Final = 10_000
PAGE: Final = 500  # commands read at once


class RedisCommands:
    """A `CommandLog` in Redis. The client stays its owner's to close."""

    def __init__(self, client: Redis, keys: Keys, bus_channel: str) -> None:
        self._redis = client
        self._stream = keys.commands
        self._bus_channel = bus_channel

    async def tell(self, envelope: Envelope) -> None:
        payload = encode_envelope(envelope)
        # In one write, but no transaction: where memory is full nothing can be kept, and the bus still reaches
        # nearly everyone.
        with as_bus_unavailable():
            async with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.publish(self._bus_channel, payload)
                pipeline.xadd(self._stream, {"e": payload}, maxlen=MOST_KEPT, approximate=True)
                pipeline.expire(self._stream, COMMAND_TTL_S)
                await pipeline.execute()

    async def after(self, entry: str | None, age_s: float) -> list[Told]:
        with as_bus_unavailable():
            if entry is None:
                # By Redis' own clock: entries are named after it.
                entry = str(max(0, await self._now_ms() - int(age_s * 1000)))
            async with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.time()
                pipeline.xrange(self._stream, f"({entry}", "+", count=PAGE)
                now, entries = await pipeline.execute()
        return [_told(name, fields, _ms(now)) for name, fields in entries]

    async def _now_ms(self) -> int:
        return _ms(await self._redis.time())


def _ms(time: Any) -> int:
    seconds, microseconds = time
    return int(seconds) * 1000 + int(microseconds) // 1000


def _told(name: bytes, fields: dict[bytes, bytes], now_ms: int) -> Told:
    at_ms = int(name.partition(b"-")[0])
    return Told(name.decode(), fields[b"e"], max(0, now_ms - at_ms) / 1000)
