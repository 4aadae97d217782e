"""One socket or stream, as the hub sees it: whose it is, how to encode for it, where to write."""

import time
from typing import TYPE_CHECKING, Any

from heliograph.hub.frames import Encoding
from heliograph.hub.outbox import Outbox
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.events import Event

if TYPE_CHECKING:
    from collections.abc import Callable


class Connection:
    """Compared by identity: a user may have any number of them.

    `on_dropped` is called with it if it does not read what it is sent, and is to forget it wherever it is known, in
    the hub too; without one it is known in the hub alone. `on_unsubscribed_by_server` is told which channel it is to
    leave, whatever it wants.
    """

    __slots__ = (
        "channels",
        "close_code",
        "encoding",
        "id",
        "on_dropped",
        "on_unsubscribed_by_server",
        "outbox",
        "read_bytes",
        "since",
        "user",
    )

    def __init__(
        self,
        connection_id: str,
        user: str,
        encoding: Encoding[Any],
        outbox: Outbox[Any],
        *,
        on_dropped: "Callable[[Connection], object] | None" = None,
        on_unsubscribed_by_server: "Callable[[str], object] | None" = None,
    ) -> None:
        self.id = connection_id
        self.user = user
        self.encoding = encoding
        self.outbox = outbox
        self.channels: set[str] = set()  # what it listens to
        self.since = time.monotonic()
        self.on_dropped = on_dropped
        self.on_unsubscribed_by_server = on_unsubscribed_by_server
        self.close_code: CloseCode | None = None  # why it was closed here
        self.read_bytes = 0  # of what is kept, on its behalf; whoever charges it for that begins anew

    def open(self, greeting: Event) -> None:
        """The client may be told now; see `Outbox`."""
        self.outbox.open(self.encoding.frame(greeting))

    def close(self, code: CloseCode, reason: str) -> None:
        self.close_code = self.close_code or code
        self.outbox.close(code, reason)
