"""Which channels are behind the log, as far as anybody has noticed."""

import asyncio


class Gaps:
    """Whoever finds that something is missing notes it here, which wakes the repair."""

    def __init__(self) -> None:
        self.behind: dict[str, None] = {}  # channels of which something is missing, in order
        self.is_unsure = False  # anything may be missing: look at all channels
        self.due = asyncio.Event()  # there is something to repair

    def note(self, channel: str) -> None:
        """Something is missing on this channel."""
        self.behind[channel] = None
        self.due.set()

    def doubt_all(self) -> None:
        """Something may be missing on any channel."""
        self.is_unsure = True
        self.due.set()
