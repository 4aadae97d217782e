"""Presence in Redis."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import msgspec

from heliograph.backends.redis.call_batch import NOTHING, Call
from heliograph.backends.redis.client import as_bus_unavailable
from heliograph.backends.redis.server import RedisServer
from heliograph.ports import PresenceEntry

if TYPE_CHECKING:
    from heliograph.backends.redis.scripts import Argument

BATCH = 500  # entries in one round trip


class RedisPresence:
    """A `PresenceBackend` in Redis. Announcements go out on the channels' bus channels."""

    def __init__(self, server: RedisServer) -> None:
        self._redis = server.client
        self._scripts = server.scripts
        self._keys = server.keys

    async def enter(self, lease: str, entries: Sequence[PresenceEntry]) -> bool:
        held = True
        for i in range(0, len(entries), BATCH):
            calls = [self._call(lease, entry) for entry in entries[i : i + BATCH]]
            with as_bus_unavailable():
                held = all(await self._scripts.run_many("presence", calls)) and held
        return held

    async def members(self, channel: str) -> dict[str, int]:
        with as_bus_unavailable():
            found = cast("dict[bytes, bytes]", await self._redis.hgetall(self._keys.presence(channel)))
        return {user_id.decode(): int(count) for user_id, count in found.items()}

    async def reap(self, lease: str, announced: Callable[[str], bool]) -> None:
        with as_bus_unavailable():
            fields = cast("list[bytes]", await self._redis.hkeys(self._keys.present_by(lease)))
            for i in range(0, len(fields), BATCH):
                entries = [
                    PresenceEntry(channel, user, connections=0, announced=announced(channel))
                    for channel, user in map(_split, fields[i : i + BATCH])
                ]
                await self._scripts.run_many(
                    "presence", [self._call(lease, entry, reaping=True) for entry in entries]
                )

    def _call(self, lease: str, entry: PresenceEntry, *, reaping: bool = False) -> Call:
        keys = [self._keys.presence(entry.channel), self._keys.present_by(lease), self._keys.leases]
        arguments: list[Argument] = [
            lease,
            entry.user,
            msgspec.json.encode([entry.channel, entry.user]),
            entry.connections,
            self._keys.bus_channel_of(entry.channel) if entry.announced else "",
            _announcement(entry, "join"),
            _announcement(entry, "leave"),
            "1" if reaping else "",
        ]
        return keys, arguments, NOTHING


def _announcement(entry: PresenceEntry, kind: str) -> bytes:
    return msgspec.json.encode({"channel": entry.channel, "presence": kind, "message": entry.user})


def _split(field: bytes) -> tuple[str, str]:
    channel, user = msgspec.json.decode(field, type=tuple[str, str])
    return channel, user
