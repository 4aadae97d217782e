"""What the program has taken, said to the server now and then, in the background."""

import asyncio
from collections.abc import Callable
from typing import Final

from heliograph.client.connection.events import ChannelEvent, Message

INTERVAL_S: Final = 1.0  # one frame in so long, however many messages come


class ReceiptSender:
    """Gather the newest position of each channel, and say it at most once a second.

    `say` gets the cursors by channel, and returns whether it could say them; otherwise they are said later.
    """

    def __init__(self, say: Callable[[dict[str, str]], bool]) -> None:
        self._say = say
        self._due: dict[str, str] = {}
        self._timer: asyncio.TimerHandle | None = None

    def taken(self, event: ChannelEvent) -> None:
        """Note that the program has taken the event."""
        if isinstance(event, Message) and event.cursor:
            self._due[event.channel] = event.cursor
            self._arm()

    def stop(self) -> None:
        """Say what is due, and nothing more after that."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._say(self._due)

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._on_due)

    def _on_due(self) -> None:
        self._timer = None
        if self._say(self._due):
            self._due = {}
        else:
            self._arm()
