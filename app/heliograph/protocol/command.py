"""Commands of a server for a user's connections on every replica, and what one replica says to another.

They travel in an envelope, like a message.
"""

from typing import Annotated, Final

import msgspec

from heliograph.protocol.codes import CloseCode
from heliograph.protocol.position import Position

NOTHING: Final = msgspec.Raw(b"")  # no JSON; msgspec reads no `Raw | None`


class DisconnectUser(msgspec.Struct, frozen=True, tag="disconnect"):
    """Close every connection of the user. `block_s`: keep the user out for so many seconds (0: end the block)."""

    code: Annotated[int, msgspec.Meta(ge=1000, le=4999)] = CloseCode.FORCED
    reason: str = "disconnected by the server"
    block_s: float | msgspec.UnsetType = msgspec.UNSET


class UnsubscribeUser(msgspec.Struct, frozen=True, tag="unsubscribe"):
    """Take every connection of the user off the channel."""

    channel: str


class SubscribeUser(msgspec.Struct, frozen=True, tag="subscribe", omit_defaults=True):
    """Subscribe every connection of the user to the channel. `since`: from which position on; None: from now on.

    `info`: what presence says of the connection there (NOTHING: what its token says); `data`: for the client. Both
    are JSON. `expire_at`: when the subscription ends (seconds since the epoch; None: never).
    """

    channel: str
    since: Position | None = None
    info: msgspec.Raw = NOTHING
    data: msgspec.Raw = NOTHING
    expire_at: float | None = None


class RefreshUser(msgspec.Struct, frozen=True, tag="refresh"):
    """Let the user's connections last until `expire_at` (seconds since the epoch; None: until they are closed)."""

    expire_at: float | None = None


UserCommand = DisconnectUser | UnsubscribeUser | SubscribeUser | RefreshUser


class Selection(msgspec.Struct, frozen=True):
    """Some of a user's connections. `client`, `session`: the one with that id; '': any. `keep`: all but these ids."""

    client: str = ""
    session: str = ""
    keep: tuple[str, ...] = ()

    def has(self, client: str, session: str) -> bool:
        """Return whether the connection with these ids is selected."""
        return (
            (not self.client or self.client == client)
            and (not self.session or self.session == session)
            and client not in self.keep
        )


ALL_CONNECTIONS: Final = Selection()


class Only(msgspec.Struct, frozen=True, tag="only"):
    """Carry `command` out on the selected connections of the user.

    It is a command of its own, so that a replica that does not know it ignores it. Such a replica would ignore a new
    field too, and carry the command out on all connections.
    """

    command: UserCommand
    selection: Selection


class Forward(msgspec.Struct, frozen=True, tag="forward"):
    """Take these frames of the client with that session. The answer is `Forwarded`."""

    session: str
    frames: bytes


class Forwarded(msgspec.Struct, frozen=True, tag="forwarded"):
    """The answer to the `Forward` in the envelope `to`. `is_taken`: False if there is no such session."""

    to: str
    is_taken: bool


class Question(msgspec.Struct, frozen=True, tag="question"):
    """Answer this. `topic` says what it is about, and so what `body` (JSON) is. The answer is `Answer`."""

    topic: str
    body: msgspec.Raw


class Answer(msgspec.Struct, frozen=True, tag="answer", omit_defaults=True):
    """The answer to the `Question` in the envelope `to`. `body`: JSON, or `null` if there is none.

    `why`: why there is none; empty: the topic is unknown there.
    """

    to: str
    body: msgspec.Raw
    why: str = ""


BetweenReplicas = Forward | Forwarded | Question | Answer
Command = UserCommand | Only | BetweenReplicas
