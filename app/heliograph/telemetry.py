"""The counters of a replica: plain integers that cost nothing to raise. `api/metrics.py` shows them."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from heliograph.errors import ErrorCode

TRANSPORTS: Final = ("websocket", "sse", "poll", "api")
WRITE_REFUSALS: Final = ("user_messages", "user_bytes", "recipient_messages", "memory", "emit_full")
# Of the process, which has many clients.
REDIS_ERRORS: Final = {"timeout": 0, "connection": 0, "refused": 0, "unconfirmed": 0}
FAST_S: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)

SLOW_S: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Histogram:
    """How many observations (in seconds) were below each bound, and their sum."""

    __slots__ = ("bounds", "counts", "total_s")

    def __init__(self, bounds: Sequence[float] = FAST_S) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)  # one for each bound, and one for observations above all of them
        self.total_s = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += times
        self.total_s += seconds * times


@dataclass(slots=True)
class Traffic:
    """Counters of one transport."""

    connections: int = 0  # at present
    messages_in: int = 0  # operations read from clients
    messages_out: int = 0  # messages passed to connections


@dataclass(slots=True)
class BusStats:
    """Counters of a bus since it was created."""

    received: int = 0  # envelopes passed to the handler, and bus messages with this replica's own
    malformed: int = 0  # bus messages that were not envelopes
    handler_errors: int = 0  # envelopes on which the handler raised
    published: int = 0  # envelopes that Redis accepted, whether or not other replicas needed them
    publish_errors: int = 0  # envelopes that Redis did not accept, or not in time
    connection_losses: int = 0  # times the listening connection was lost
    resubscriptions: int = 0  # subscriptions after the first: messages before them may have been missed
    publish_time: Histogram = field(default_factory=Histogram)  # of a message, from the call to Redis to its answer
    lag: Histogram = field(default_factory=Histogram)  # of each canary, from publishing to receiving it


@dataclass(slots=True)
class HookStats:
    """Counters of one hook of the user's backend."""

    denied: int = 0  # answers that said no
    failed: int = 0  # calls without an answer that could be used
    refused: int = 0  # calls that were not made, because the backend fails or too many waited
    time: Histogram = field(default_factory=Histogram)  # of each answered call, with its wait for others


@dataclass(slots=True)
class WebhookStats:
    """Counters of the webhooks of this replica: only the one that pushes them counts."""

    delivered: int = 0  # events that the receiver has taken
    dead: int = 0  # events that were moved to the dead letters
    failed: int = 0  # requests that the receiver has not taken
    waiting_s: dict[object, float] = field(default_factory=dict)  # by pusher, of which there is one for each server
    time: Histogram = field(default_factory=lambda: Histogram(SLOW_S))  # of each request that it has taken

    @property
    def oldest_s(self) -> float:
        """Age of the oldest event that the receiver has not taken, when it was last tried; 0: none waits."""
        return max(self.waiting_s.values(), default=0.0)


@dataclass(slots=True)
class Telemetry:
    """All counters of one replica."""

    traffic: dict[str, Traffic] = field(default_factory=lambda: {name: Traffic() for name in TRANSPORTS})
    frames_refused: dict[ErrorCode, int] = field(default_factory=lambda: dict.fromkeys(ErrorCode, 0))
    client_writes_refused: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WRITE_REFUSALS, 0))
    closes: dict[int, int] = field(default_factory=dict)  # by close code; 0: unknown
    slow_closes: int = 0  # connections closed because they did not read
    failed_attempts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("at_once", "late", "refused"), 0))
    connections_refused: int = 0  # by a limit or while draining
    requests_refused: int = 0  # HTTP requests of clients, by the rate of a user or an address
    repairs: int = 0  # ranges of a channel that were read from the log because the bus lost them
    unfilled_gaps: int = 0  # ranges that the log had lost too; clients were told
    hooks: dict[str, HookStats] = field(default_factory=dict)  # by the name of the hook; only those that are set
    webhooks: WebhookStats | None = None  # if the settings push lifecycle events
    loop_lag: Histogram = field(default_factory=Histogram)  # how late the event loop runs what is due

    @property
    def messages_in(self) -> int:
        return sum(each.messages_in for each in self.traffic.values())

    @property
    def messages_out(self) -> int:
        return sum(each.messages_out for each in self.traffic.values())
