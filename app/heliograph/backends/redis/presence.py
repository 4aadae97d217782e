"""Presence in Redis."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import msgspec

from heliograph.backends.redis.call_batch import NOTHING, Call
from heliograph.backends.redis.client import as_bus_unavailable
from heliograph.backends.redis.server import RedisServer
from heliograph.ports import PresenceEntry
from heliograph.protocol.client_info import ClientInfo

if TYPE_CHECKING:
    from heliograph.backends.redis.scripts import Argument

BATCH = 500  # entries in one round trip

_to_json = msgspec.json.Encoder().encode
_read_record = msgspec.json.Decoder(ClientInfo).decode
_read_entry = msgspec.json.Decoder(tuple[str, str]).decode  # channel, user
_read_place = msgspec.json.Decoder(tuple[str, str, str]).decode  # channel, user, client


class RedisPresence:
    """A `PresenceBackend` in Redis. Announcements go out on the channels' bus channels."""

    def __init__(self, server: RedisServer) -> None:
        self._redis = server.client
        self._scripts = server.scripts
        self._keys = server.keys
        self._node_id = server.node_id

    async def enter(self, lease: str, entries: Sequence[PresenceEntry]) -> bool:
        held = True
        for i in range(0, len(entries), BATCH):
            with as_bus_unavailable():
                held = await self._set(lease, entries[i : i + BATCH]) and held
        return held

    async def _set(self, lease: str, entries: Sequence[PresenceEntry], *, reaping: bool = False) -> bool:
        calls = [self._call(lease, entry, reaping=reaping) for entry in entries]
        return all(await self._scripts.run_many("presence", calls))

    async def members(self, channel: str) -> dict[str, int]:
        with as_bus_unavailable():
            found = cast("dict[bytes, bytes]", await self._redis.hgetall(self._keys.presence(channel)))
        return {user_id.decode(): int(count) for user_id, count in found.items()}

    async def clients(self, channel: str) -> dict[str, ClientInfo]:
        with as_bus_unavailable():
            found = cast("dict[bytes, bytes]", await self._redis.hgetall(self._keys.clients(channel)))
        return {client.decode(): _read_record(record) for client, record in found.items()}

    async def reap(self, lease: str, announced: Callable[[str], bool]) -> None:
        with as_bus_unavailable():
            gone: dict[tuple[str, str], list[tuple[str, None]]] = {}
            for field in cast("list[bytes]", await self._redis.hkeys(self._keys.present_by(lease))):
                gone[_read_entry(field)] = []
            for place in cast("set[bytes]", await self._redis.smembers(self._keys.clients_by(lease))):
                channel, user, client = _read_place(place)
                gone.setdefault((channel, user), []).append((client, None))
            entries = [
                PresenceEntry(channel, user, 0, announced(channel), clients)
                for (channel, user), clients in gone.items()
            ]
            for i in range(0, len(entries), BATCH):
                await self._set(lease, entries[i : i + BATCH], reaping=True)

    def _call(self, lease: str, entry: PresenceEntry, *, reaping: bool) -> Call:
        channel, user = entry.channel, entry.user
        keys = [
            self._keys.presence(channel),
            self._keys.present_by(lease),
            self._keys.leases,
            self._keys.clients(channel),
            self._keys.clients_by(lease),
        ]
        arguments: list[Argument] = [
            lease,
            user,
            _to_json([channel, user]),
            entry.connections,
            *self._announcements(entry, "1" if reaping else ""),
        ]
        for client, info in entry.clients:
            arguments += [client, _to_json([channel, user, client]), "" if info is None else _to_json(info)]
        return keys, arguments, NOTHING

    def _announcements(self, entry: PresenceEntry, reaping: str) -> "list[Argument]":
        """Return where to publish what, as the script takes it; nothing if nobody is told."""
        if not entry.announced:
            return ["", "", "", reaping, "", ""]
        users = [_announcement(entry, kind) for kind in ("join", "leave")]
        clients = [self._client_announcement(entry, kind) for kind in ("join", "leave")]
        return [self._keys.bus_channel_of(entry.channel), *users, reaping, *clients]

    def _client_announcement(self, entry: PresenceEntry, kind: str) -> bytes:
        """Return an envelope up to the client's record; see `Envelope.client`. It ends unlike those of messages."""
        said = {
            "node_id": self._node_id,
            "channel": "",
            "presence": kind,
            "message": entry.user,
            "on": entry.channel,
        }
        return _to_json(said)[:-1] + b',"client":'


def _announcement(entry: PresenceEntry, kind: str) -> bytes:
    return _to_json({"channel": entry.channel, "presence": kind, "message": entry.user})
