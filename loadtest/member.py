"""A locust user of the cluster: a connection that reconnects with its cursor, and an inbox."""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlencode

import gevent
import msgspec
from gevent.event import Event
from locust import User
from locust.exception import StopUser

from heliograph.codecs.plain.cursor import parse_cursor
from loadtest.run import RUNS
from loadtest.websocket import Ended, Refused, WebSocket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from locust.env import Environment

    from loadtest.event_stream import EventStream
    from loadtest.ledger import Sent

ANSWER_WITHIN_S = 5.0
SETTLE_WITHIN_S = 10.0
BACK_OFF_S = (0.2, 1.0)


class Stamp(msgspec.Struct):
    """The data of each message: the sender's stream and number, and the time by the machine's monotonic clock."""

    stream: str
    number: int
    at: float
    padding: str = ""


class Frame(msgspec.Struct, rename={"request": "id"}):
    """The fields of a server's frame that are used here."""

    type: str
    channel: str = ""
    cursor: str = ""
    replica: str = ""
    recovered: bool = False
    code: str | int = ""
    message: str = ""
    in_ms: float = 0
    request: int | None = None
    data: Stamp | None = None


@dataclass(slots=True)
class Pending:
    """A sent message without an answer yet."""

    sent: Sent
    number: int
    at: float
    name: str
    channel: str | None


decode = msgspec.json.Decoder(Frame).decode
encode = msgspec.json.Encoder().encode


class Member(User):
    """Connects as a user of its own, and stays connected until it leaves.

    A connection that ends by itself is a fault of its own; the user comes back with its cursor all the same.
    """

    abstract = True
    scenario: ClassVar[str]

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.run_of = RUNS.current()
        self.name = self.run_of.name(self.scenario)
        self.inbox = self.run_of.ledger.inbox(self.name)
        self.channels: list[str] = []
        self.aims_at = ""  # the replica that our address leads to
        self.replica = ""  # the one that has welcomed us
        self.here = Event()
        self.stopped = False
        self._ids = itertools.count(1)
        self._pending: dict[int, Pending] = {}
        self._connection: WebSocket | EventStream | None = None
        self._life: gevent.Greenlet | None = None
        self._arrived_at = 0.0  # when the present connection was begun
        self._returning = False
        self._going = False  # we end the connection, or were asked to
        self._staying = True  # and come back

    def wait_time(self) -> float:
        """Who sends, sends at the rate asked for, and not in step with others."""
        return random.uniform(0.5, 1.5) / self.run_of.load.rate  # noqa: S311 - dice, not secrets

    def on_start(self) -> None:
        self.aims_at = self.run_of.next_replica()
        self.arrive()

    def on_stop(self) -> None:
        """Send nothing more, and leave as soon as everything that is on its way has come."""
        with self._watched():
            try:
                self._settle()
            finally:
                self.run_of.writers.discard(self)
                self.leave()

    def _settle(self) -> None:
        self.stopped = True
        self._come_back()
        _wait(lambda: not self._pending, ANSWER_WITHIN_S)
        self.run_of.writers.discard(self)
        if self.run_of.stopping:
            _wait(lambda: not self.run_of.writers, ANSWER_WITHIN_S + SETTLE_WITHIN_S)
        if self.replica:  # who was never welcomed has been promised nothing
            tops = self.run_of.ledger.tops
            self.inbox.complete_up_to = {channel: tops[channel] for channel in self.channels if channel in tops}
        _wait(lambda: not self.inbox.lost(self.run_of.ledger.sent), SETTLE_WITHIN_S)
        self.run_of.ledger.leave(self.inbox)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Neither locust nor gevent makes a failure of what runs in here one of the run."""
        try:
            yield
        except Exception as error:
            self.run_of.ledger.broken.append(f"{self.name} on {self.replica or 'no replica'}: {error!r}")
            raise

    def arrive(self) -> None:
        """Connect, and go on when the cluster has said welcome."""
        self._begin()
        while not self.here.wait(0.5):
            if self.run_of.stopping or self._state != "running":
                raise StopUser

    def _begin(self) -> None:
        self._staying, self._going = True, False
        self._life = gevent.spawn(self._live)

    def _come_back(self) -> None:
        """Locust may stop a user at any point, while it is away too: then what it has missed is still to come."""
        if not self._staying:
            self.leave()  # to the end, if it was stopped in the middle
            self._begin()
            self.here.wait(ANSWER_WITHIN_S)

    def leave(self, *, abruptly: bool = False) -> None:
        """End the connection, and do not come back until `arrive`."""
        self._staying, self._going = False, True
        if self._connection is not None:
            self._connection.cut() if abruptly else self._connection.close()
        if self._life is not None:
            self._life.join(ANSWER_WITHIN_S)
            self._life.kill()

    def say(self, name: str, stream: str, frame: dict[str, Any], channel: str | None = None) -> None:
        """Send a frame whose data is the next number of the stream; `channel` is whose position the answer tells."""
        if not self.here.is_set() or not isinstance(self._connection, WebSocket):
            return
        sent = self.run_of.ledger.sent[stream]
        now = time.monotonic()
        pending = Pending(sent, sent.next(), now, name, channel)
        request = next(self._ids)
        self._pending[request] = pending
        self.run_of.figures.now().sent += 1
        data = Stamp(stream, pending.number, now, self.run_of.load.payload)
        with contextlib.suppress(Ended):  # who reads sees it too, and says so
            self._connection.send(encode({**frame, "data": data, "id": request}))

    def label(self, frame: Frame, sent_at: float) -> tuple[str, float]:
        """What a message counts as, and since when it is measured."""
        return self.scenario, sent_at

    def connect(self) -> WebSocket | EventStream:
        """Open the connection: anew, or where the last one ended."""
        query = {"user": self.name}
        if cursor := self.inbox.cursor():
            query["cursor"] = cursor
        if new := [channel for channel in self.channels if channel not in self.inbox.positions]:
            query["channels"] = ",".join(new)
        source = self.run_of.sources.towards(self.aims_at)
        return WebSocket(self.run_of.target, f"/ws?{urlencode(query)}", source)

    def _live(self) -> None:
        """Connections, one after the other, for as long as we stay."""
        with self._watched():
            while self._staying:
                self._arrived_at = time.monotonic()
                try:
                    connection = self.connect()
                except Refused as error:
                    self.run_of.fire("connect", self.scenario, time.monotonic() - self._arrived_at, error=error)
                    gevent.sleep(random.uniform(*BACK_OFF_S))  # noqa: S311 - dice, not secrets
                else:
                    self._visit(connection)

    def _visit(self, connection: WebSocket | EventStream) -> None:
        """One connection, to its end."""
        if not self._staying:
            connection.cut()
            return
        self._going, self._connection = False, connection
        try:
            while True:
                for text in connection.receive():
                    self._note(decode(text), len(text))
        except Ended as error:
            self._ended(str(error))

    def _ended(self, how: str) -> None:
        if self.here.is_set():
            self.here.clear()
            self.run_of.connections[self.replica] -= 1
        if not self._going:
            self.run_of.ledger.closed.append(f"{self.name} on {self.replica or 'no replica'}: {how}")
        for pending in self._pending.values():
            pending.sent.cut()
        self._pending.clear()
        self._connection = None
        self._returning = True
        self.inbox.forgive_ephemeral()

    def _note(self, frame: Frame, size: int) -> None:
        match frame.type:
            case "message":
                self._take(frame, size)
            case "ack":
                self._answered(frame)
            case "connected":
                self._welcomed(frame)
            case "subscribed":
                position = parse_cursor(frame.cursor)[frame.channel]
                self.inbox.begins(frame.channel, position, recovered=frame.recovered)
            case "error":
                self._refused(frame)
            case "reconnect":
                gevent.spawn_later(frame.in_ms / 1000, self._move, self._connection)
            case "disconnect":
                self._going = True  # the server says goodbye

    def _take(self, frame: Frame, size: int) -> None:
        now = time.monotonic()
        stamp = frame.data
        if stamp is None:
            return
        position = parse_cursor(frame.cursor)[frame.channel] if frame.cursor else None
        self.inbox.take(frame.channel, position, stamp.stream, stamp.number)
        name, since = self.label(frame, stamp.at)
        self.run_of.figures.delivered(name, now - since)
        self.run_of.fire("deliver", name, now - since, size)

    def _welcomed(self, frame: Frame) -> None:
        own = f"#{self.name}"
        if frame.cursor and own not in self.inbox.positions:
            self.inbox.begins(own, parse_cursor(frame.cursor)[own], recovered=False)
        self.replica = frame.replica
        self.run_of.welcomed[self.replica] += 1
        self.run_of.connections[self.replica] += 1
        self.here.set()
        seconds = time.monotonic() - self._arrived_at
        self.run_of.figures.connects.add(seconds)
        self.run_of.figures.returns += self._returning
        self.run_of.fire("connect", self.scenario, seconds)

    def _answered(self, frame: Frame) -> None:
        pending = self._pending.pop(frame.request, None) if frame.request is not None else None
        if pending is None:
            return
        pending.sent.acknowledge(pending.number)
        if pending.channel is not None:
            self.run_of.ledger.reached(pending.channel, parse_cursor(frame.cursor)[pending.channel])
        self.run_of.acknowledged(pending.name, time.monotonic() - pending.at)

    def _refused(self, frame: Frame) -> None:
        pending = self._pending.pop(frame.request, None) if frame.request is not None else None
        error = Refused(f"{frame.code}: {frame.message}")
        if pending is not None:
            pending.sent.refuse(pending.number)
            self.run_of.fire("ack", pending.name, time.monotonic() - pending.at, error=error)
        else:
            # Of a channel that must wait: the cluster goes on trying, and we stay.
            self.run_of.fire("connect", self.scenario, time.monotonic() - self._arrived_at, error=error)

    def _move(self, connection: WebSocket | EventStream | None) -> None:
        """Leave this connection for a new one, because the cluster has asked for it."""
        if connection is not None and connection is self._connection:
            self._going = True
            connection.close()


def _wait(condition: Any, within_s: float) -> None:
    """Until it is true, or for so long: what is still missing then is counted as missing."""
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:
        gevent.sleep(0.05)
