"""One socket or stream, as the hub sees it: its user, its encoding, and where to write."""

import time
from typing import TYPE_CHECKING, Any, Final

from heliograph.hub.frames import Encoding
from heliograph.hub.outbox import Outbox
from heliograph.protocol.events import Event

if TYPE_CHECKING:
    from collections.abc import Callable

    from heliograph.protocol.command import UserCommand


NONE: Final[frozenset[str]] = frozenset()  # shared: few connections have any


class Connection:
    """Compared by identity: a user may have any number of them.

    `on_dropped` is called with it if it does not read, and must remove it everywhere, from the hub too; without it
    only the hub knows the connection. `on_command` is called with other commands for the user than to close it.
    `on_gap` is called with a channel of which publications are lost, before the client is told by an event, or whose
    epoch has changed: in some wire formats it must subscribe again, and so is not on the channel any more when this
    returns.
    """

    __slots__ = (
        "by_client",
        "channels",
        "close_code",
        "device",
        "encoding",
        "id",
        "info",
        "on_command",
        "on_dropped",
        "on_gap",
        "outbox",
        "protocol",
        "read_bytes",
        "received",
        "sent",
        "since",
        "told_of",
        "transport",
        "user",
    )

    def __init__(
        self,
        connection_id: str,
        user: str,
        encoding: Encoding[Any],
        outbox: Outbox[Any],
        *,
        transport: str = "",
        protocol: str = "",
        on_dropped: "Callable[[Connection], object] | None" = None,
        on_command: "Callable[[UserCommand], object] | None" = None,
        on_gap: "Callable[[str], object] | None" = None,
    ) -> None:
        self.id = connection_id
        self.user = user
        self.encoding = encoding
        self.outbox = outbox
        outbox.owner = connection_id
        self.device = ""  # which of the user's devices it is, if the client has said so
        self.transport = transport
        self.protocol = protocol
        self.sent = 0  # messages that its outbox has taken
        self.received = 0  # operations of its client
        self.by_client = False  # it is told of clients that join and leave, and not of users
        self.info: bytes | None = None  # what presence says of it on every channel, JSON
        self.channels: set[str] = set()  # its subscriptions
        self.told_of: frozenset[str] = NONE  # those where it is told of each client that joins or leaves
        self.since = time.monotonic()
        self.on_dropped = on_dropped
        self.on_command = on_command
        self.on_gap = on_gap
        self.close_code: int | None = None  # why this replica closed it
        self.read_bytes = 0  # bytes read from the log for it; reset when they are charged

    def open(self, greeting: Event) -> None:
        """Send the greeting, and let events out from now on; see `Outbox`."""
        self.outbox.open(self.encoding.frame(greeting))

    def close(self, code: int, reason: str) -> None:
        self.close_code = self.close_code or code
        self.outbox.close(self.encoding.close_code(code), reason)
