"""What a server may have every replica do with a user's connections. It travels in an envelope, like a message."""

import msgspec

from heliograph.protocol.codes import CloseCode


class DisconnectUser(msgspec.Struct, frozen=True, tag="disconnect"):
    """Close every connection of the user. `block_s`: keep them out for so many seconds (0: no longer)."""

    code: CloseCode = CloseCode.FORCED
    reason: str = "disconnected by the server"
    block_s: float | msgspec.UnsetType = msgspec.UNSET


class UnsubscribeUser(msgspec.Struct, frozen=True, tag="unsubscribe"):
    """Take every connection of the user off the channel."""

    channel: str


Command = DisconnectUser | UnsubscribeUser
