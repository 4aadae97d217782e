"""The channels that are known to be behind the log."""

import asyncio


class Gaps:
    """Notes of gaps; each note wakes the repair."""

    def __init__(self) -> None:
        self.behind: dict[str, None] = {}  # channels with missing publications, in order
        self.is_unsure = False  # publications may be missing on any channel: look at all
        self.due = asyncio.Event()  # a repair is due

    def note(self, channel: str) -> None:
        """Note that publications are missing on this channel."""
        self.behind[channel] = None
        self.due.set()

    def doubt_all(self) -> None:
        """Note that publications may be missing on any channel."""
        self.is_unsure = True
        self.due.set()
