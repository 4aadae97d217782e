"""Whether the event loop turns: what may have waited while it did not is not carried out, and a replica whose loop
does not turn any more is killed by its watchdog."""

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

STOOD_STILL_S: Final = 5.0  # without a beat; what was read then may be that old
DOUBT_S: Final = 2.0  # after the loop turns again, until all that has waited for it has been read
BEAT_INTERVAL_S: Final = 0.5  # at most so often is the watchdog told
WATCHDOG: Final = Path(__file__).with_name("watchdog.py")


class Heartbeat:
    """Remembers when the event loop last turned. `now`: seconds, from a clock that goes on while the loop stands."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._last: float | None = None
        self._doubtful_until = 0.0

    def beat(self) -> None:
        """The loop turns."""
        now = self._now()
        if self._last is not None and now - self._last > STOOD_STILL_S:
            self._doubtful_until = now + DOUBT_S
            logger.warning("the event loop was blocked for %.1f s; nothing was delivered meanwhile", now - self._last)
        self._last = now

    @property
    def stood_still(self) -> bool:
        """True if what is read now may have been sent long ago."""
        now = self._now()
        return now < self._doubtful_until or (self._last is not None and now - self._last > STOOD_STILL_S)


class Watchdog:
    """A process that kills this one when it is told nothing for `patience_s`: one that is frozen cannot do it itself.

    It is a program of its own, so that a signal that stops this one does not stop it, and it ends with this one.
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
        self._told_at = 0.0

    def tell(self) -> None:
        """All is well."""
        now = time.monotonic()
        if now - self._told_at >= BEAT_INTERVAL_S:
            self._told_at = now
            with contextlib.suppress(OSError):  # it is gone, or has not read for long
                os.write(self._pipe, b".")

    def stop(self) -> None:
        os.close(self._pipe)
        self._process.wait()
