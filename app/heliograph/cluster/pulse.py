"""This replica's pulse: how late its event loop is, and how many messages pass in a second."""

import asyncio
from collections import deque

from heliograph.clock import Clock
from heliograph.tasks import end
from heliograph.telemetry import Telemetry

INTERVAL_S = 0.5
BEATS = 4  # intervals over which rates are computed


class Pulse:
    """One task that wakes twice a second, and measures how late it wakes, and the message rates."""

    def __init__(self, telemetry: Telemetry, clock: Clock) -> None:
        self._telemetry = telemetry
        self._clock = clock
        self._beats: deque[tuple[float, int, int]] = deque(maxlen=BEATS + 1)  # when, messages in, messages out
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._loop(), name="pulse")

    async def stop(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            await end([task])
            self._beats.clear()

    @property
    def messages_per_second(self) -> tuple[float, float]:
        """Return the rates in and out, over the last two seconds; 0 before the second beat."""
        if len(self._beats) < 2:
            return 0.0, 0.0
        (began, first_in, first_out), (ended, last_in, last_out) = self._beats[0], self._beats[-1]
        return (last_in - first_in) / (ended - began), (last_out - first_out) / (ended - began)

    def beat(self) -> None:
        """Note the counters."""
        self._beats.append((self._clock.monotonic(), self._telemetry.messages_in, self._telemetry.messages_out))

    async def _loop(self) -> None:
        self.beat()
        while True:
            due = self._clock.monotonic() + INTERVAL_S
            await asyncio.sleep(INTERVAL_S)
            self._telemetry.loop_lag.observe(max(0.0, self._clock.monotonic() - due))
            self.beat()
