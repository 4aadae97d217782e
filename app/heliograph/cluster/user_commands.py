"""Commands of a server for users on every replica: close their connections, subscribe and unsubscribe them."""

from dataclasses import dataclass

import msgspec

from heliograph.cluster.commands import Commands
from heliograph.cluster.per_shard import PerShard
from heliograph.cluster.stamp import Stamp
from heliograph.errors import BadChannel
from heliograph.ports import CommandLog
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.command import (
    ALL_CONNECTIONS,
    NOTHING,
    DisconnectUser,
    Only,
    RefreshUser,
    Selection,
    SubscribeUser,
    UnsubscribeUser,
    UserCommand,
)
from heliograph.protocol.envelope import Envelope
from heliograph.protocol.identity import check_channel, check_user_id, personal_channel, user_of
from heliograph.protocol.position import Position


@dataclass(frozen=True, slots=True)
class ShardCommands:
    """What executes, and what keeps, the commands for the users of one shard."""

    commands: Commands
    log: CommandLog


class UserCommands:
    """Give commands: this replica executes each at once, the others when they receive it."""

    def __init__(self, shards: PerShard[ShardCommands], stamp: Stamp) -> None:
        self._shards = shards
        self._stamp = stamp

    async def disconnect_user(
        self,
        user_id: str,
        *,
        code: int = CloseCode.FORCED,
        reason: str = "disconnected by the server",
        block_s: float | None = None,
        among: Selection = ALL_CONNECTIONS,
    ) -> None:
        """Close every connection that the user has now, on every replica: here at once, everywhere within 2 seconds.

        A replica that the bus does not reach executes it when it is back. The user may connect again if their token
        is still valid, unless they are blocked: for `block_s` seconds, on every replica (0: lift the block).

        `code`: 3000-4999, see `CloseCode`. `among`: the connections that are meant; a block is for the whole user.

        Raises:
            BadUserId: `user_id` is not valid.
            BusUnavailable: it was executed here; other replicas may not get it. It may be repeated without harm.
        """
        command = DisconnectUser(code, reason, msgspec.UNSET if block_s is None else block_s)
        await self._give(check_user_id(user_id), command, among)

    async def subscribe_user(
        self,
        user_id: str,
        channel: str,
        *,
        since: Position | None = None,
        info: msgspec.Raw | None = None,
        data: msgspec.Raw | None = None,
        expire_at: float | None = None,
        among: Selection = ALL_CONNECTIONS,
    ) -> None:
        """Subscribe the connections that the user has now to the channel, whatever the policy says of clients.

        A connection that is subscribed already, or has as many channels as it may have, is left as it is.
        For the arguments see `SubscribeUser`. Otherwise like `disconnect_user`.

        Raises:
            BadUserId, BadChannel: they are not valid; or it is a personal channel.
            BusUnavailable: as for `disconnect_user`.
        """
        if user_of(check_channel(channel)) is not None:
            raise BadChannel("a personal channel is its user's alone, who is always subscribed to it")
        await self._give(
            check_user_id(user_id), SubscribeUser(channel, since, info or NOTHING, data or NOTHING, expire_at), among
        )

    async def refresh_user(
        self, user_id: str, *, expire_at: float | None, among: Selection = ALL_CONNECTIONS
    ) -> None:
        """Let the connections that the user has now last until `expire_at`; otherwise like `disconnect_user`.

        `expire_at`: seconds since the epoch; None: they do not expire.

        Raises:
            BadUserId: `user_id` is not valid.
            BusUnavailable: as for `disconnect_user`.
        """
        await self._give(check_user_id(user_id), RefreshUser(expire_at), among)

    async def unsubscribe_user(self, user_id: str, channel: str, *, among: Selection = ALL_CONNECTIONS) -> None:
        """Take the connections that the user has now off the channel; otherwise like `disconnect_user`.

        Raises:
            BadUserId, BadChannel: they are not valid; or it is the user's own channel, which cannot be left.
            BusUnavailable: as for `disconnect_user`.
        """
        if user_of(check_channel(channel)) is not None:
            raise BadChannel("a personal channel cannot be left; the user can be disconnected")
        await self._give(check_user_id(user_id), UnsubscribeUser(channel), among)

    async def _give(self, user_id: str, command: UserCommand, among: Selection) -> None:
        envelope = Envelope(
            message=msgspec.Raw(b"null"),
            target_user_id=user_id,
            message_id=self._stamp.next_id(),
            sent_at=self._stamp.now(),
            origin=self._stamp.name,
            node_id=self._stamp.node_id,
            command=command if among == ALL_CONNECTIONS else Only(command, among),
        )
        shard = self._shards.of(personal_channel(user_id))
        shard.commands.carry_out(envelope)
        await shard.log.append(envelope)
