"""The raw history of an audit: what every sender and every reader did and saw, and when.

A history is a list of events in the order in which they were noted. Times are in seconds since the history began, on
one clock of one process. In a file each event is one line of JSON; the first line is `Run`.

A publication is named by its sender and the sender's own number, which the cluster does not know: `("sender-1", 7)`.
"""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from heliograph.protocol.position import Position


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag=str.lower, omit_defaults=True):
    """`at`: when it was noted, in seconds since the history began."""

    at: float = 0.0


class Run(Event, frozen=True):
    """What was run, and so what may be demanded of it.

    `may_lose`: the servers may lose what they have acknowledged, and the cluster has a reason to say so aloud.
    `unavailable_s`: how long a channel may take no publications after a fault; `refused_s`: how long a sender may
    wait for an error; None: any time. `stays_ready`: a replica may say that it is not ready only if it was killed.
    `two_sides`: the network is cut in two. A reader that goes to the other side is told of a gap, and gets what is
    kept there, which it may have seen.
    """

    topology: str
    server: str
    ack: str
    seed: int
    seconds: float
    may_lose: bool
    unavailable_s: float | None = None
    refused_s: float | None = None
    stays_ready: bool = False
    two_sides: bool = False
    experiment: str | None = None


class Publish(Event, frozen=True):
    """A sender begins to publish. `repeats`: if there is no answer it tries again, with the same idempotency key."""

    sender: str
    number: int
    channel: str
    repeats: bool = False


class Acknowledged(Event, frozen=True):
    """The cluster has taken it. `epoch` is None where the answer has no position."""

    sender: str
    number: int
    channel: str
    epoch: str | None = None
    offset: int = 0


class Failed(Event, frozen=True):
    """An error, or no answer: it may have been published, now or later, or not."""

    sender: str
    number: int
    channel: str
    code: str


class Received(Event, frozen=True):
    """A reader gets a publication."""

    reader: str
    channel: str
    epoch: str
    offset: int
    sender: str
    number: int


class Continues(Event, frozen=True):
    """A reader is told where its channel continues (`subscribed`, or the first `connected`)."""

    reader: str
    channel: str
    epoch: str
    offset: int
    recovered: bool


class Connected(Event, frozen=True):
    """A client has opened a connection to a replica."""

    client: str
    replica: str


class Closed(Event, frozen=True):
    """A connection that nobody wished to end has ended. `excuse`: the fault that explains it; empty: none does."""

    client: str
    replica: str
    how: str
    excuse: str = ""


class Error(Event, frozen=True):
    """A reader is told of an error, and stays."""

    reader: str
    code: str


class Fault(Event, frozen=True):
    """Something is broken on purpose. `count`: how many of them."""

    what: str
    target: str = ""
    count: int = 1


class Mended(Event, frozen=True):
    """What was broken for a while works again."""

    what: str
    target: str = ""


class Took(Event, frozen=True):
    """A step of the recovery from a fault, which is not the cluster's own work, took so long since the fault."""

    what: str
    seconds: float


class Readiness(Event, frozen=True):
    """A replica begins, or ceases, to say that it is ready. `why`: what it says, if not."""

    replica: str
    ready: bool
    why: str = ""
    excuse: str = ""


class Counted(Event, frozen=True):
    """A figure for the table."""

    what: str
    count: int


class Kept(Event, frozen=True):
    """At the end this stands in the channel's log. The events of a channel come in the log's order."""

    channel: str
    epoch: str
    offset: int
    sender: str
    number: int


class Top(Event, frozen=True):
    """At the end the channel's log stands here."""

    channel: str
    epoch: str
    offset: int


class Unexpected(Event, frozen=True):
    """A replica has met with an error that nobody expected. `text`: what its log says."""

    text: str


class NotKept(Event, frozen=True):
    """What a kind of fault must not do, beside what it must not do to messages, it has done. `text`: what."""

    text: str


class WrongVerdict(Event, frozen=True):
    """What a replica says of a message is not so. `text`: who got it or did not, and the verdict."""

    text: str


AnyEvent = (
    Run
    | Publish
    | Acknowledged
    | Failed
    | Received
    | Continues
    | Connected
    | Closed
    | Error
    | Fault
    | Mended
    | Took
    | Readiness
    | Counted
    | Kept
    | Top
    | Unexpected
    | NotKept
    | WrongVerdict
)
Number = tuple[str, int]  # who has published it, and which of theirs it is

_decoder = msgspec.json.Decoder(AnyEvent)


def number_of(event: Publish | Acknowledged | Failed | Received | Kept) -> Number:
    return event.sender, event.number


def position_of(event: Acknowledged | Received | Continues | Kept | Top) -> Position | None:
    return None if event.epoch is None else Position(event.epoch, event.offset)


class History:
    """`with History(path) as history:` collects events, and writes each to the file (None: to none)."""

    def __init__(self, path: Path | None = None) -> None:
        self.events: list[AnyEvent] = []
        self._path = path
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        self._file = None if self._path is None else self._path.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def now(self) -> float:
        return time.monotonic() - self._began

    def note(self, kind: type[Any], /, **facts: Any) -> None:
        """Add an event of this kind, which happens now."""
        event = kind(at=self.now, **facts)
        self.events.append(event)
        if self._file is not None:
            self._file.write(msgspec.json.encode(event) + b"\n")


def write(path: Path, events: Iterable[AnyEvent]) -> None:
    """Write a history to a file."""
    path.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in events))


def read(path: Path) -> Iterator[AnyEvent]:
    """Yield the events of a file.

    Raises:
        ValueError: names the line that is no event.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield _decoder.decode(line)
            except msgspec.MsgspecError as error:
                raise ValueError(f"{path}, line {number}: not an event of a history: {error}") from None
