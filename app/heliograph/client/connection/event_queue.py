"""What a program has not taken yet."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from heliograph.client.connection.events import ChannelEvent
from heliograph.errors import ClientError

# Full, a queue is paused; it goes on when the program has taken so much of it.
TAKEN: Final = 1 / 2


class EventQueue:
    """Events in order, for one reader at a time. It takes all that it is given; `on_full` asks for a pause."""

    def __init__(
        self,
        limit: int,
        on_full: Callable[[], None],
        on_taken: Callable[[], None],
        on_event: Callable[[ChannelEvent], None],
    ) -> None:
        """`limit`: with so many events `on_full` is called, and `on_taken` when half of them are taken again.

        `on_event` is called with each event that the program takes.
        """
        self._limit = limit
        self._on_full = on_full
        self._on_taken = on_taken
        self._on_event = on_event
        self._events: deque[ChannelEvent | ClientError] = deque()
        self._ended = False
        self._paused = False
        self._news = asyncio.Event()

    def put(self, event: ChannelEvent | ClientError) -> None:
        """Enter what comes next; an error is raised to the reader when its turn comes."""
        self._events.append(event)
        self._news.set()
        if len(self._events) >= self._limit and not self._paused:
            self._paused = True
            self._on_full()

    def end(self, error: ClientError | None = None) -> None:
        """End the queue, with an error if one is given. The reader gets what is there first."""
        if not self._ended and error is not None:
            self._events.append(error)
        self._ended = True
        self._news.set()

    async def take(self) -> ChannelEvent | None:
        """Return the next event; None at the end.

        Raises:
            ClientError: what `put` was given.
        """
        while not self._events:
            if self._ended:
                return None
            self._news.clear()
            await self._news.wait()
        event = self._events.popleft()
        if self._paused and len(self._events) <= self._limit * TAKEN:
            self._paused = False
            self._on_taken()
        if isinstance(event, ClientError):
            raise event
        self._on_event(event)
        return event
