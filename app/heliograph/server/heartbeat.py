"""Whether the event loop runs: requests that may have waited while it did not are refused, and a watchdog kills a
replica whose loop stands still."""

import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

STOOD_STILL_S: Final = 5.0  # without a beat; a request that is read then may be that old
DOUBT_S: Final = 2.0  # after the loop runs again, until everything that waited has been read
BEAT_INTERVAL_S: Final = 0.5  # between two beats for the watchdog, at least
WATCHDOG: Final = Path(__file__).with_name("watchdog.py")


class Heartbeat:
    """Remember when the event loop last ran. `now`: seconds, from a clock that runs while the loop stands still."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._last: float | None = None
        self._doubtful_until = 0.0

    def beat(self) -> None:
        """Note that the loop runs."""
        now = self._now()
        if self._last is not None and now - self._last > STOOD_STILL_S:
            self._doubtful_until = now + DOUBT_S
            logger.warning("the event loop was blocked for %.1f s; nothing was delivered meanwhile", now - self._last)
        self._last = now

    @property
    def stood_still(self) -> bool:
        """Whether a request that is read now may have been sent long ago."""
        now = self._now()
        return now < self._doubtful_until or (self._last is not None and now - self._last > STOOD_STILL_S)


class Watchdog:
    """A process that kills this one after `patience_s` without a beat, because a frozen process cannot end itself.

    It is a separate program, so that a signal that stops this process does not stop it. It ends with this process.
    """

    def __init__(self, patience_s: float) -> None:
        reading, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        command = [sys.executable, "-I", "-S", str(WATCHDOG), str(os.getpid()), f"{patience_s:g}"]
        try:
            self._process = subprocess.Popen(command, stdin=reading, stdout=subprocess.DEVNULL)  # noqa: S603
        except OSError:
            os.close(self._pipe)
            raise
        finally:
            os.close(reading)
        self._beat_at = 0.0

    def beat(self) -> None:
        """Send a beat."""
        now = time.monotonic()
        if now - self._beat_at >= BEAT_INTERVAL_S:
            self._beat_at = now
            with contextlib.suppress(OSError):  # it is gone, or has not read for a long time
                os.write(self._pipe, b".")

    def stop(self) -> None:
        os.close(self._pipe)
        self._process.wait()
