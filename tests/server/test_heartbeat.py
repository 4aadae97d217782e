"""A replica that stands still is killed by its watchdog, whatever else is wrong."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

FROZEN = (
    "import os, signal; from heliograph.server.heartbeat import Watchdog;"
    "watchdog = Watchdog(0.5); os.kill(os.getpid(), signal.SIGSTOP)"
)


@pytest.fixture(params=["good", "full", "not read"])
def log(request: pytest.FixtureRequest) -> Iterator[int]:
    """Where the replica and its watchdog write what is to be said."""
    if request.param == "not read":
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        os.write(writing, bytes(fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)))
        os.set_blocking(writing, True)
        yield writing
        os.close(reading)
    else:
        writing = os.open("/dev/full" if request.param == "full" else os.devnull, os.O_WRONLY)
        yield writing
    os.close(writing)


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full, and the size of a pipe")
def test_a_frozen_process_is_killed(log: int) -> None:
    """Fails if a watchdog that cannot say what it does (a full disk, a log that nobody reads) does not do it."""
    frozen = subprocess.Popen([sys.executable, "-c", FROZEN], stderr=log)
    try:
        assert frozen.wait(timeout=20) == -signal.SIGKILL
    finally:
        frozen.kill()
        frozen.wait()
