"""The ends of subscriptions whose tokens expire."""

import asyncio
import time
from collections.abc import Callable


class SubscriptionExpiries:
    """When the subscriptions of one connection end. `expired` is called with the channel of each that has.

    `grace_s`: how long a client has to show its next token once the present one has expired.
    """

    def __init__(self, expired: Callable[[str], object], grace_s: float) -> None:
        self._expired = expired
        self._grace_s = grace_s
        self._timers: dict[str, asyncio.TimerHandle] = {}  # of the few channels that have an end

    def set(self, channel: str, expires_at: float | None) -> None:
        """Let the subscription end the grace time after `expires_at` (seconds since the epoch; None: never)."""
        self.forget(channel)
        if expires_at is not None:
            in_s = expires_at + self._grace_s - time.time()
            self._timers[channel] = asyncio.get_running_loop().call_later(in_s, self._end, channel)

    def forget(self, channel: str) -> None:
        """Note that the client has left the channel."""
        if (timer := self._timers.pop(channel, None)) is not None:
            timer.cancel()

    def forget_all(self) -> None:
        for channel in list(self._timers):
            self.forget(channel)

    def _end(self, channel: str) -> None:
        del self._timers[channel]
        self._expired(channel)
