"""Commands of a server for a user's connections on every replica. They travel in an envelope, like a message."""

import msgspec

from heliograph.protocol.codes import CloseCode


class DisconnectUser(msgspec.Struct, frozen=True, tag="disconnect"):
    """Close every connection of the user. `block_s`: keep the user out for so many seconds (0: end the block)."""

    code: CloseCode = CloseCode.FORCED
    reason: str = "disconnected by the server"
    block_s: float | msgspec.UnsetType = msgspec.UNSET


class UnsubscribeUser(msgspec.Struct, frozen=True, tag="unsubscribe"):
    """Take every connection of the user off the channel."""

    channel: str


Command = DisconnectUser | UnsubscribeUser
