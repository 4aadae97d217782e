"""The kinds of users, and what they do."""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlencode

import gevent
from locust import User, task

from loadtest.event_stream import EventStream
from loadtest.flood import frames
from loadtest.member import Frame, Member
from loadtest.run import RUNS
from loadtest.websocket import Ended, Refused, WebSocket

if TYPE_CHECKING:
    from locust.env import Environment

EPHEMERAL_EVERY = 3  # of so many messages of a pair, one is ephemeral
STAYS_S = (2.0, 6.0)
AWAY_S = (0.2, 2.0)
FLOOD_SOCKETS = 20  # as many as one user may have
FLOOD_BACK_OFF_S = 0.2


class PairUser(Member):
    """Two users on different replicas write to each other, kept and ephemeral messages."""

    scenario = "pairs"
    weight = 8

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.pair, self.aims_at = self.run_of.join_pair(self.scenario, self)
        self._count = itertools.count(1)

    def on_start(self) -> None:
        self.run_of.writers.add(self)
        self.arrive()

    @task
    def write(self) -> None:
        ephemeral = next(self._count) % EPHEMERAL_EVERY == 0
        partner = self.pair.partner(self)
        if partner is None or partner.stopped or not partner.here.is_set():
            return
        if ephemeral:
            partner.inbox.expect_ephemeral(f"{self.name} ephemeral")
            frame = {"type": "send", "to": partner.name, "ephemeral": True}
            self.say("pairs ephemeral", f"{self.name} ephemeral", frame)
        else:
            partner.inbox.expect(f"{self.name} kept")
            self.say("pairs kept", f"{self.name} kept", {"type": "send", "to": partner.name})

    def label(self, frame: Frame, sent_at: float) -> tuple[str, float]:
        return ("pairs kept" if frame.cursor else "pairs ephemeral"), sent_at


class ChurnUser(Member):
    """Two users write to each other, and listen to a channel, while both keep leaving and coming back.

    Each return is with the cursor, and to another replica. Half of the time the socket is cut without a goodbye.
    """

    scenario = "churn"
    weight = 3

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.pair, self.aims_at = self.run_of.join_pair(self.scenario, self)
        self.channels = [random.choice(self.run_of.channels)]  # noqa: S311 - dice, not secrets
        self._leave_at = 0.0

    def on_start(self) -> None:
        self.run_of.writers.add(self)
        self._arrive()

    @task
    def write_or_leave(self) -> None:
        partner = self.pair.partner(self)
        # Only who has been here once can come back: before that, there is no place to go on from.
        if partner is not None and partner.replica and not partner.stopped:
            partner.inbox.expect(f"{self.name} kept")
            self.say("churn", f"{self.name} kept", {"type": "send", "to": partner.name})
        if time.monotonic() > self._leave_at:
            self.leave(abruptly=random.random() < 0.5)  # noqa: S311 - dice, not secrets
            gevent.sleep(random.uniform(*AWAY_S))  # noqa: S311 - dice, not secrets
            self.aims_at = self.run_of.next_replica(not_this=self.aims_at)
            self._arrive()

    def label(self, frame: Frame, sent_at: float) -> tuple[str, float]:
        """What was sent while we were away is measured from the moment at which we began to come back."""
        if sent_at < self._arrived_at:
            return "churn missed", self._arrived_at
        return "churn live", sent_at

    def _arrive(self) -> None:
        self.arrive()
        self._leave_at = time.monotonic() + random.uniform(*STAYS_S)  # noqa: S311 - dice, not secrets


class Listener(Member):
    """Only listens, to one channel; those of a class are spread over all channels."""

    abstract = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        number = int(self.name.rpartition("-")[2])
        self.channels = [self.run_of.channels[number % len(self.run_of.channels)]]

    def wait_time(self) -> float:
        return 3600.0

    @task
    def listen(self) -> None:
        """The connection does it by itself."""


class SubscriberUser(Listener):
    """Listens to a channel over a WebSocket."""

    scenario = "channels"
    weight = 6


class SseUser(Listener):
    """Listens to a channel over server-sent events."""

    scenario = "sse"
    weight = 2

    def connect(self) -> WebSocket | EventStream:
        query = {"user": self.name, "channels": ",".join(self.channels)}
        source = self.run_of.sources.towards(self.aims_at)
        return EventStream(self.run_of.target, f"/sse?{urlencode(query)}", source, self.inbox.cursor())


class PublisherUser(Member):
    """Publishes on every channel in turn."""

    scenario = "publish"
    weight = 1

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._channels_in_turn = itertools.cycle(self.run_of.channels)

    def on_start(self) -> None:
        self.run_of.writers.add(self)
        super().on_start()

    @task
    def publish(self) -> None:
        channel = next(self._channels_in_turn)
        self.say("publish", f"{self.name} on {channel}", {"type": "publish", "channel": channel}, channel)


class FloodUser(User):
    """One of the attacker's sockets. Each floods in one way, as fast as the line takes it."""

    scenario: ClassVar[str] = "flood"
    fixed_count = FLOOD_SOCKETS
    _numbers: ClassVar[Any] = itertools.count()

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.run_of = RUNS.current()
        self.name = "flood"
        number = next(self._numbers)
        self._wire = frames(number % 5)
        self._aims_at = self.run_of.next_replica()

    def wait_time(self) -> float:
        return 0.0

    @task
    def flood(self) -> None:
        run = self.run_of
        assert run.flood is not None  # noqa: S101 - there is one where there are these users
        if run.stopping or time.monotonic() - run.figures.started < run.flood.begins_at:
            gevent.sleep(0.1)
            return
        try:
            query = urlencode({"user": f"mallory-{run.id}"})
            socket = WebSocket(run.target, f"/ws?{query}", run.sources.towards(self._aims_at))
        except Refused:
            run.flood.closed += 1
            gevent.sleep(FLOOD_BACK_OFF_S)
            return
        reader = gevent.spawn(self._read, socket)
        try:
            with contextlib.suppress(Ended):
                for wire in itertools.cycle(self._wire):
                    if run.stopping or reader.ready():
                        break
                    socket.pour(wire)
                    run.flood.writes += 1
                    run.flood.megabytes += len(wire) / 1e6
                    gevent.sleep(0)
        finally:
            run.flood.closed += not run.stopping
            socket.cut()
            reader.kill()

    def _read(self, socket: WebSocket) -> None:
        flood = self.run_of.flood
        with contextlib.suppress(Ended):
            while flood is not None:
                refused = socket.read().count(b'{"type":"error"')  # others count meanwhile
                flood.refused += refused
