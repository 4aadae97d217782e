"""Commands in Redis: published on the bus, and kept in a stream for replicas that the bus does not reach."""

from typing import Final

from msgspec import UNSET

from heliograph.backends.redis.client import as_bus_unavailable
from heliograph.backends.redis.server import RedisServer
from heliograph.ports import COMMAND_TTL_S, CommandEntry
from heliograph.protocol.command import DisconnectUser
from heliograph.protocol.envelope import Envelope, encode_envelope

MOST_KEPT: Final = 10_000
PAGE: Final = 500  # commands in one read


class RedisCommands:
    """A `CommandLog` in Redis."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._redis = server.client
        self._stream = server.keys.commands
        self._blocked = server.keys.blocked_users
        self._bus_channel = server.keys.bus_channel
        self._begin: str | None = None  # earlier entries are ignored

    async def append(self, envelope: Envelope) -> None:
        payload = encode_envelope(envelope)
        # In one write, but not in a transaction: if the memory is full nothing can be kept, and the bus still reaches
        # nearly everyone.
        with as_bus_unavailable():
            block = await self._block_of(envelope)
            async with self._redis.pipeline(transaction=False) as pipeline:
                if block is not None:
                    user, now_ms, until_ms = block
                    pipeline.zadd(self._blocked, {user: until_ms})
                    pipeline.zremrangebyscore(self._blocked, "-inf", now_ms)
                pipeline.execute_command(self._server.verbs.publish, self._bus_channel, payload)
                pipeline.xadd(self._stream, {"e": payload}, maxlen=MOST_KEPT, approximate=True)
                pipeline.expire(self._stream, COMMAND_TTL_S)
                await pipeline.execute()

    async def after(self, entry: str | None, age_s: float) -> list[CommandEntry]:
        with as_bus_unavailable():
            if entry is None:
                # By Redis' own clock, which names the entries. The first value stays.
                self._begin = self._begin or str(max(0, await self._server.now_ms() - int(age_s * 1000)))
                entry = self._begin
            entries = await self._server.link.ask("XRANGE", self._stream, f"({entry}", "+", "COUNT", PAGE)
            now_ms = await self._server.now_ms() if entries else 0
        return [_entry_of(name, fields, now_ms) for name, fields in entries]

    async def blocked_users(self) -> dict[str, float]:
        with as_bus_unavailable():
            now_ms = await self._server.now_ms()
            found = await self._server.link.ask(
                "ZRANGE", self._blocked, f"({now_ms}", "+inf", "BYSCORE", "WITHSCORES"
            )
        return {name.decode(): (float(until_ms) - now_ms) / 1000 for name, until_ms in found}

    async def _block_of(self, envelope: Envelope) -> tuple[str, int, int] | None:
        """Return the block of a command: user, present and end in Redis' time; None if it blocks nobody."""
        command = envelope.command
        if not isinstance(command, DisconnectUser) or command.block_s is UNSET or envelope.target_user_id is None:
            return None
        now_ms = await self._server.now_ms()
        return envelope.target_user_id, now_ms, now_ms + int(command.block_s * 1000)


def _entry_of(name: bytes, fields: list[bytes], now_ms: int) -> CommandEntry:
    at_ms = int(name.partition(b"-")[0])
    payload = fields[fields.index(b"e") + 1]
    return CommandEntry(name.decode(), payload, max(0, now_ms - at_ms) / 1000)
