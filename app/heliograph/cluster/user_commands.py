"""Commands of a server for users on every replica: close their connections, take them off a channel."""

import msgspec

from heliograph.cluster.commands import Commands
from heliograph.cluster.stamp import Stamp
from heliograph.errors import BadChannel
from heliograph.ports import CommandLog
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.command import Command, DisconnectUser, UnsubscribeUser
from heliograph.protocol.envelope import Envelope
from heliograph.protocol.identity import check_channel, check_user_id, user_of


class UserCommands:
    """Give commands: this replica executes each at once, the others when they receive it."""

    def __init__(self, commands: Commands, log: CommandLog, stamp: Stamp) -> None:
        self._commands = commands
        self._log = log
        self._stamp = stamp

    async def disconnect_user(
        self,
        user_id: str,
        *,
        code: CloseCode = CloseCode.FORCED,
        reason: str = "disconnected by the server",
        block_s: float | None = None,
    ) -> None:
        """Close every connection that the user has now, on every replica: here at once, everywhere within 2 seconds.

        A replica that the bus does not reach executes it when it is back. The user may connect again if their token
        is still valid, unless they are blocked: for `block_s` seconds, on every replica (0: lift the block).

        Raises:
            BadUserId: `user_id` is not valid.
            BusUnavailable: it was executed here; other replicas may not get it. It may be repeated without harm.
        """
        command = DisconnectUser(code, reason, msgspec.UNSET if block_s is None else block_s)
        await self._give(check_user_id(user_id), command)

    async def unsubscribe_user(self, user_id: str, channel: str) -> None:
        """Take every connection that the user has now off the channel; otherwise like `disconnect_user`.

        Raises:
            BadUserId, BadChannel: they are not valid; or it is the user's own channel, which cannot be left.
            BusUnavailable: as for `disconnect_user`.
        """
        if user_of(check_channel(channel)) is not None:
            raise BadChannel("a personal channel cannot be left; the user can be disconnected")
        await self._give(check_user_id(user_id), UnsubscribeUser(channel))

    async def _give(self, user_id: str, command: Command) -> None:
        envelope = Envelope(
            message=msgspec.Raw(b"null"),
            target_user_id=user_id,
            message_id=self._stamp.next_id(),
            sent_at=self._stamp.now(),
            origin=self._stamp.name,
            node_id=self._stamp.node_id,
            command=command,
        )
        self._commands.carry_out(envelope)
        await self._log.append(envelope)
