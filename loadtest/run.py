"""One run: the state that its users share."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING, Any

import gevent
import psutil

from loadtest.figures import Figures, Histogram
from loadtest.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from locust.env import Environment

    from loadtest.flood import Flood
    from loadtest.sources import Sources, Target

LAG_EVERY_S = 0.02


@dataclass(frozen=True)
class Load:
    """How much each user does."""

    rate: float  # messages a second of each user who sends
    payload: str  # what makes a message as large as it is asked to be
    channels: int


@dataclass
class Pair:
    """Two users who write to each other. The second comes from an address that leads to another replica."""

    members: list[Any] = field(default_factory=list)

    def partner(self, of: Any) -> Any | None:
        return next((member for member in self.members if member is not of), None)


class Run:
    """Everything that is counted from the start of a run to its end, and where its users find each other."""

    def __init__(self, environment: Environment, target: Target, sources: Sources, load: Load) -> None:
        self.id = uuid.uuid4().hex[:6]
        self.environment = environment
        self.target = target
        self.sources = sources
        self.load = load
        self.ledger = Ledger()
        self.figures = Figures()
        self.acks: dict[str, Histogram] = {}
        self.channels = [f"load:{self.id}-{number}" for number in range(1, load.channels + 1)]
        self.connections: Counter[str] = Counter()  # by replica, open at this moment
        self.welcomed: Counter[str] = Counter()  # by replica, `connected` frames that named it
        self.pairs: list[Pair] = []  # those who stay where they are, on two replicas
        self.writers: set[Any] = set()  # users who may still send
        self.stopping = False
        self.flood: Flood | None = None  # if there is an attacker
        self.began = time.time()
        self._open: dict[str, Pair] = {}  # by scenario: who waits for a partner
        self._replicas_in_turn: Iterator[str] = cycle(sources.replicas)
        self._names: Counter[str] = Counter()
        self._watching = [gevent.spawn(self._sample), gevent.spawn(self._measure_lag)]

    def name(self, scenario: str) -> str:
        """A name for another user."""
        self._names[scenario] += 1
        return f"{scenario}-{self.id}-{self._names[scenario]}"

    def next_replica(self, *, not_this: str | None = None) -> str:
        """Replicas in turn, so that all have the same load."""
        replica = next(self._replicas_in_turn)
        if replica == not_this:
            replica = next(self._replicas_in_turn)
        return replica

    def join_pair(self, scenario: str, member: Any) -> tuple[Pair, str]:
        """Find a partner, or wait for one; also the replica to go to."""
        pair = self._open.pop(scenario, None)
        if pair is None:
            pair = self._open[scenario] = Pair([member])
            return pair, self.next_replica()
        pair.members.append(member)
        if scenario == "pairs":
            self.pairs.append(pair)
        return pair, self.next_replica(not_this=pair.members[0].aims_at)

    def fire(self, kind: str, name: str, seconds: float, size: int = 0, error: Exception | None = None) -> None:
        """Tell locust: this becomes a line of its statistics."""
        self.environment.events.request.fire(
            request_type=kind,
            name=name,
            response_time=seconds * 1000,
            response_length=size,
            exception=error,
            context={},
        )

    def acknowledged(self, name: str, seconds: float) -> None:
        self.acks.setdefault(name, Histogram()).add(seconds)
        self.fire("ack", name, seconds)

    def end(self) -> None:
        """Measure no more."""
        gevent.killall(self._watching)

    def _sample(self) -> None:
        process = psutil.Process()
        process.cpu_percent()
        while True:
            gevent.sleep(1)
            second = self.figures.now()
            second.sampled, second.ending = True, self.stopping
            second.connections = Counter(self.connections)
            runner = self.environment.runner
            second.users = 0 if runner is None else runner.user_count
            second.lost = self.ledger.lost_so_far()
            second.doubled = self.ledger.doubled_so_far()
            second.cpu_percent = process.cpu_percent()

    def _measure_lag(self) -> None:
        """How late we are woken up: every latency that is measured here may be too long by as much."""
        while True:
            before = time.monotonic()
            gevent.sleep(LAG_EVERY_S)
            late = time.monotonic() - before - LAG_EVERY_S
            second = self.figures.now()
            second.lag_s = max(second.lag_s, late)
            self.figures.lag.add(late)


class Runs:
    """The runs of this process, one after the other: the present one, if any, and the outcome of those before."""

    def __init__(self) -> None:
        self.present: Run | None = None
        self.ended = 0
        self.failed = False

    def current(self) -> Run:
        """Return the present run, for its users."""
        if self.present is None:
            raise RuntimeError("no run has begun: locust starts users only after its test_start event")
        return self.present


RUNS = Runs()
