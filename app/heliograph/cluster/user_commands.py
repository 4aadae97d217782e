"""What a server says about users, told to every replica: close their connections, take them off a channel."""

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
    """Gives commands: each is carried out here at once, and by the other replicas when they hear of it."""

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

        A replica that the bus does not reach carries it out when it is back. Whoever is disconnected may connect
        again if their token is still good, unless they are kept out: `block_s` seconds long, on every replica (0:
        from now on no longer).

        Raises:
            BadUserId: `user_id` cannot be one.
            BusUnavailable: it was carried out here; others may not hear of it. It may be told again without harm.
        """
        command = DisconnectUser(code, reason, msgspec.UNSET if block_s is None else block_s)
        await self._tell_all(check_user_id(user_id), command)

    async def unsubscribe_user(self, user_id: str, channel: str) -> None:
        """Take every connection that the user has now off the channel; otherwise like `disconnect_user`.

        Raises:
            BadUserId, BadChannel: they cannot be; or it is the user's own channel, which nobody leaves.
            BusUnavailable: as for `disconnect_user`.
        """
        if user_of(check_channel(channel)) is not None:
            raise BadChannel("a personal channel cannot be left; the user can be disconnected")
        await self._tell_all(check_user_id(user_id), UnsubscribeUser(channel))

    async def _tell_all(self, user_id: str, command: Command) -> None:
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
