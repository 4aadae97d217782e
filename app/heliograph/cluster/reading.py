"""Reads for connections: their subscriptions, and the history and presence of channels."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from heliograph.cluster.history import read_history
from heliograph.cluster.joining import Joining
from heliograph.cluster.per_shard import PerShard
from heliograph.cluster.presence import ClientRoster, Presence, Roster
from heliograph.hub.connection import Connection
from heliograph.ports import LogReader, ReadRequest, ReadResult
from heliograph.protocol.events import Subscribed
from heliograph.protocol.operations import Incomplete, RequestId
from heliograph.protocol.position import Position
from heliograph.protocol.subscription import NO_OPTIONS, SubscribeOptions


@dataclass(frozen=True)
class ShardReading:
    """What reads the channels of one shard."""

    joining: Joining
    presence: Presence
    log: LogReader


class Reading:
    """Subscribe connections, and update presence; read what is kept."""

    def __init__(self, shards: PerShard[ShardReading]) -> None:
        self._shards = shards

    async def subscribe(
        self,
        connection: Connection,
        channel: str,
        since: Position | None = None,
        *,
        replay: bool = False,
        request_id: RequestId | None = None,
        keep: bool = False,
        incomplete: Incomplete = Incomplete.DELIVER_REST,
        announce: Callable[[Subscribed], object] | None = None,
        options: SubscribeOptions = NO_OPTIONS,
    ) -> bool:
        """Subscribe the connection: see `Joining.join`. False if it was taken off the channel meanwhile.

        Raises:
            BusUnavailable: not now; with `keep` it is subscribed as soon as possible.
            Unrecoverable: `incomplete` is REFUSE, and it is.
        """
        shard = self._shards.of(channel)
        return await shard.joining.join(
            connection,
            channel,
            since,
            replay=replay,
            request_id=request_id,
            keep=keep,
            incomplete=incomplete,
            announce=announce,
            options=options,
            on_joined=partial(shard.presence.came, connection, channel, options.info),
        )

    def subscribe_soon(
        self, connection: Connection, channel: str, since: Position | None, options: SubscribeOptions
    ) -> None:
        """Subscribe the connection in the background: as soon as the log can be read, at once if it can."""
        shard = self._shards.of(channel)
        on_joined = partial(shard.presence.came, connection, channel, options.info)
        shard.joining.join_soon(connection, channel, since, options=options, on_joined=on_joined)

    async def listen(self, connection: Connection, channel: str) -> Position | None:
        """Subscribe the connection to its user's own channel. Return the channel's position.

        Without a log, an event says the position later; ephemeral messages arrive all the same.
        """
        return await self._shards.of(channel).joining.listen(connection, channel)

    def unsubscribe(self, connection: Connection, channel: str) -> None:
        """Take the connection off the channel at once, also while it is still joining."""
        shard = self._shards.of(channel)
        if shard.joining.leave(connection, channel):
            shard.presence.went(connection, channel)

    async def history(self, channel: str, since: Position | None, limit: int) -> ReadResult:
        """Return what is kept of the channel after `since` (or from the start), oldest first, at most `limit`.

        Raises:
            BusUnavailable: the log cannot be read.
        """
        request = ReadRequest(channel, after=since, replay=since is None, limit=limit)
        [result] = await self._shards.of(channel).log.read([request])
        return result

    async def whole_history(
        self, channel: str, since: Position | None, limit: int | None, *, reverse: bool
    ) -> ReadResult:
        """Return what is kept of the channel, over any number of pages: see `read_history`."""
        return await read_history(self._shards.of(channel).log, channel, since, limit, reverse=reverse)

    async def state(self, channel: str) -> ReadResult:
        """Return the latest state of the channel, and its position.

        Raises:
            BusUnavailable: the log cannot be read.
        """
        [result] = await self._shards.of(channel).log.read([ReadRequest(channel, with_state=True)])
        return result

    async def presence(self, channel: str) -> Roster:
        """Return who is on the channel, over all replicas: see `Presence.roster`."""
        return await self._shards.of(channel).presence.roster(channel)

    async def clients(self, channel: str) -> ClientRoster:
        """Return which clients are on the channel, over all replicas: see `Presence.clients`."""
        return await self._shards.of(channel).presence.clients(channel)

    async def tops(self, channels: Iterable[str]) -> dict[str, Position]:
        """Return how far each of the channels has come; one that has no log, or no reliable one, is left out.

        Raises:
            BusUnavailable: the log cannot be read.
        """
        of_shards: dict[ShardReading, list[str]] = {}
        for channel in channels:
            of_shards.setdefault(self._shards.of(channel), []).append(channel)
        found: dict[str, Position] = {}
        for shard, names in of_shards.items():
            tops = await shard.log.tops(names)
            found |= {name: top for name, top in zip(names, tops, strict=True) if top is not None}
        return found

    def positions_of(self, connection: Connection) -> dict[str, Position]:
        """Return the connection's positions in all of its channels: see `Joining.positions_of`."""
        positions: dict[str, Position] = {}
        for shard in self._shards.all:
            positions |= shard.joining.positions_of(connection)
        return positions

    def leave_all(self, connection: Connection) -> None:
        """Take the connection off all of its channels."""
        for shard in self._shards.all:
            for channel in shard.joining.channels_of(connection):
                self.unsubscribe(connection, channel)
