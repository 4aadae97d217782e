"""What the program has taken, said to the server now and then, in the background, until it is noted."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum, auto
from typing import Final

from heliograph.client.connection.events import ChannelEvent, Message

INTERVAL_S: Final = 1.0  # one frame or request in so long, however many messages come


class Said(Enum):
    """What became of a receipt."""

    NOTED = auto()
    REFUSED = auto()  # it never will be noted
    LATER = auto()  # it is to be said again


class ReceiptSender:
    """Gather the newest position of each channel, and say it at most once a second.

    `say` gets the cursors by channel. It does not raise.
    """

    def __init__(self, say: Callable[[Mapping[str, str]], Awaitable[Said]]) -> None:
        self._say = say
        self._due: dict[str, str] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._saying: asyncio.Task[None] | None = None
        self._is_stopped = False

    def taken(self, event: ChannelEvent) -> None:
        """Note that the program has taken the event."""
        if isinstance(event, Message) and event.cursor:
            self._due[event.channel] = event.cursor
            self._arm()

    async def stop(self, within_s: float) -> None:
        """Say what is due, as far as that is answered in time, and nothing more after that."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due and self._saying is None:
            self._start()
        if (saying := self._saying) is not None:
            await asyncio.wait([saying], timeout=within_s)
            saying.cancel()
            await asyncio.gather(saying, return_exceptions=True)

    def _arm(self) -> None:
        if self._timer is None and not self._is_stopped:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._on_due)

    def _on_due(self) -> None:
        self._timer = None
        if self._saying is None:
            self._start()
        else:
            self._arm()

    def _start(self) -> None:
        self._saying = asyncio.get_running_loop().create_task(self._say_all(), name="heliograph-receipts")

    async def _say_all(self) -> None:
        due, self._due = self._due, {}
        again = await self._not_noted(due)
        self._due = {**again, **self._due}  # what was taken meanwhile is newer
        if self._is_stopped and self._due and not again:
            await self._not_noted(self._due)
        self._saying = None
        if self._due:
            self._arm()

    async def _not_noted(self, due: Mapping[str, str]) -> dict[str, str]:
        """Say what is due. Return what is to be said again."""
        said = await self._say(due)
        if said is Said.LATER:
            return dict(due)
        again: dict[str, str] = {}
        if said is Said.REFUSED and len(due) > 1:
            # All is refused because of one channel, whose epoch may have ended: the others are said each by itself.
            for channel, cursor in due.items():
                if await self._say({channel: cursor}) is Said.LATER:
                    again[channel] = cursor
        return again
