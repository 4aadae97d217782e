"""Whether Redis accepts this replica's writes: ready means that real work succeeds, not only that a token returns.

One task tries the work on a server every second. A refusal counts at once; silence counts after some time. If nothing
is ever answered, not even with a time-out, this process is at fault: it gives up.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from heliograph.clock import Clock
from heliograph.ports import Fault, Probe, ProbeFailure
from heliograph.tasks import end

logger = logging.getLogger(__name__)

RETRY_S: Final = 0.25  # until the next probe after a failed one
GIVE_UP_S: Final = 30.0  # without any answer; each command has a time-out of about a second
STEPS: Final = 30  # steps of that wait

WHAT_TO_DO: Final = {
    Fault.UNREACHABLE: "check that it runs, and that this host can reach it",
    Fault.READ_ONLY: "it is a replica, or still loading: let HELIOGRAPH_REDIS__URL lead to the master",
    Fault.MEMORY_FULL: "raise maxmemory, or keep less",
    Fault.NOT_DURABLE: "the text says what to set",
    Fault.UNCONFIRMED: "look at its replicas: HELIOGRAPH_REDIS__ACK_REPLICAS of them must follow it",
    Fault.DENIED: "look at the user and the password in its URL, and at the rights that docs/operations.md names",
    Fault.REFUSED: "the text says why",
    Fault.LAYOUT: "let all programs of the cluster have the same shards (docs/operations.md, Shards)",
}


class WriteProbe:
    """The write probe of one server. `timeout_s`: how long it may be silent.

    `is_vital`: the shard does not work without this server. `name`: of the server, for the log; `without`: what the
    replica is without it, likewise. `give_up` is called with the reason if this process must be restarted.
    """

    def __init__(
        self,
        server: Probe,
        *,
        is_vital: bool,
        interval_s: float,
        timeout_s: float,
        clock: Clock,
        name: str = "Redis",
        without: str = "unready",
        give_up: Callable[[str], object] = logger.critical,
        give_up_s: float = GIVE_UP_S,
    ) -> None:
        self._server = server
        self.is_vital = is_vital
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._name = name
        self._without = without
        self._give_up_s = give_up_s
        self._give_up = give_up
        self._succeeded_at: float | None = None  # monotonic seconds
        self._answers_since = 0.0  # when the first success after the last failure was; likewise
        self._silent_s = 0.0  # how long there was no answer, without the time that this process stood still
        self._failure: ProbeFailure | None = None  # of the last probe
        self._is_said = False  # the failure was logged
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._silent_s = 0.0
            self._task = asyncio.create_task(self._loop(), name="write-probe")

    async def stop(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            await end([task])
            self._succeeded_at = None

    @property
    def failure(self) -> ProbeFailure | None:
        """Why the last probe failed; None if it succeeded."""
        return self._failure

    def answered_s(self, age_s: float) -> float:
        """Return for how long probes have succeeded by now, of the last `age_s` seconds."""
        if self._succeeded_at is None:
            return 0.0
        began_at = max(self._answers_since, self._clock.monotonic() - age_s)
        return max(0.0, self._succeeded_at - began_at)

    @property
    def fault(self) -> Fault | None:
        """Why the server fails; None if it works."""
        if self._failure is not None and self._failure.fault is not Fault.UNREACHABLE:
            return self._failure.fault
        at = self._succeeded_at
        if at is None or self._clock.monotonic() - at > self._timeout_s:
            return Fault.UNREACHABLE
        return None

    async def _loop(self) -> None:
        while True:
            try:
                self._note(await self._ask())
            except Exception:
                logger.exception("the write probe of %s failed with an unexpected error; retrying", self._name)
            if self._silent_s >= self._give_up_s:
                self._give_up(f"{self._name} has answered nothing for {self._give_up_s:g} s")
            pause_s = self._interval_s if self._failure is None else RETRY_S
            self._silent_s += pause_s
            await asyncio.sleep(pause_s)

    async def _ask(self) -> ProbeFailure | None:
        """Return the answer. Silence is counted in steps, not in seconds: a frozen process loses one step.

        Raises TimeoutError: there is no answer.
        """
        step_s = self._give_up_s / STEPS
        asked = asyncio.create_task(self._server.probe(), name="write-probe-ask")
        try:
            while True:
                await asyncio.wait([asked], timeout=step_s)
                if asked.done():
                    return asked.result()
                self._silent_s += step_s
                if self._silent_s >= self._give_up_s:
                    raise TimeoutError(f"no answer for {self._give_up_s:g} s")
        finally:
            await end([asked])

    def _note(self, failure: ProbeFailure | None) -> None:
        before, self._failure = self._failure, failure
        self._silent_s = 0.0
        if failure is None:
            now = self._clock.monotonic()
            if before is not None or self._succeeded_at is None:
                self._answers_since = now
            self._succeeded_at = now
            if self._is_said:
                self._is_said = False
                logger.info("%s accepts writes again", self._name)
        elif self.fault is not None and not (self._is_said and before is not None and before.fault is failure.fault):
            self._is_said = True
            logger.error(
                "%s because %s refuses or fails a write: %s: %s",
                self._without,
                self._name,
                failure.text,
                WHAT_TO_DO[failure.fault],
            )
