"""The program beside a replica that kills it when it is silent: `watchdog.py PID SECONDS`.

The replica writes a byte to its standard input every half second. The input, and so this program, ends with the
replica. A Python that imports nothing runs it as a script, so it costs little.
"""

import os
import select
import signal
import sys
import time

STEP_S = 0.5


def watch(pid: int, patience_s: float) -> None:
    silent_s = 0.0
    while True:
        began = time.monotonic()
        readable, _, _ = select.select([0], [], [], STEP_S)
        if readable:
            if not os.read(0, 4096):
                return
            silent_s = 0.0
            continue
        # A paused machine or container pauses this program too; that counts as one step.
        silent_s += min(time.monotonic() - began, 2 * STEP_S)
        if silent_s >= patience_s:
            break
    if os.getppid() == pid:
        # Kill first and log afterwards: a log that blocks must not keep the replica alive.
        os.kill(pid, signal.SIGKILL)
        text = f"process {pid} has stood still for {silent_s:.0f} s (HELIOGRAPH_WATCHDOG_S) and was killed"
        os.write(2, f"heliograph: {text}; its clients are served elsewhere\n".encode())


if __name__ == "__main__":
    # Ctrl-C and a stopped service signal the whole group; the replica drains, and is watched meanwhile.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watch(int(sys.argv[1]), float(sys.argv[2]))
