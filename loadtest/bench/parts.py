"""The parts of the benchmark: what each is about, its points, and who is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadtest.bench.fronts import FRONTS
from loadtest.bench.measure import Work, speech_of
from loadtest.bench.processes import OPEN_FILES
from loadtest.bench.streaming import SYSTEMS_WITH_STREAMS

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtest.bench.systems import System

PAIRS = 50
HELD = min(50_000, OPEN_FILES - 500)  # each side has a file for each connection
SLOW = ("python-socketio", "channels")  # what these parts ask for is beyond them
BOUND = ("epoll",)
SDKS = ("heliograph-sdk", "heliograph-mixed")  # measured beside plain clients, in a part of their own


@dataclass(frozen=True)
class Part:
    """`works(quick, seconds)`: its points. `runs`: no more than so many of each. `without`: who is left out.

    `only`: who is measured, if not all.
    """

    name: str
    what: str
    works: Callable[[bool, float], list[Work]]
    runs: int = 99
    without: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def of(self, systems: list[System], work: Work) -> list[System]:
        """Who is measured at this point. How a bus is routed is a choice that only Heliograph has."""
        return [
            each
            for each in systems
            if (each.name in self.only if self.only else each.name not in (*self.without, *SDKS))
            and each.only in ("", self.name)
            and each.compresses == work.compressed
            and (not work.request or each.api == "/api" or (each.api and work.request == "publish"))
            and speech_of(each, work) is not None
            and (each.name.startswith("heliograph") or (work.routing == "shared" and work.replicas <= 4))
        ]


def _growth(quick: bool, seconds: float) -> list[Work]:
    counts = (100, 1000) if quick else (100, 1000, 2000, 5000)
    return [Work("growth", count, window=4, seconds=seconds) for count in counts]


def _alone(quick: bool, seconds: float) -> list[Work]:
    return [Work("alone", 1000, window=1, seconds=seconds)]


def _rate(quick: bool, seconds: float) -> list[Work]:
    rates = (10,) if quick else (1, 10, 20, 40)
    return [Work("rate", 1000, rate=rate, seconds=seconds if quick else max(seconds, 4)) for rate in rates]


def _unicast(quick: bool, seconds: float) -> list[Work]:
    return [
        Work("unicast", PAIRS, to="user", publishers=PAIRS, replicas=2, window=8, seconds=seconds),
        Work("unicast", PAIRS, to="user", publishers=PAIRS, replicas=2, rate=2000, seconds=seconds),
    ]


def _channels(quick: bool, seconds: float) -> list[Work]:
    counts = (10, 5000) if quick else (10, 100, 1000, 10_000)
    return [Work("channels", count, to="channel", rate=1000, seconds=seconds) for count in counts]


def _replicas(quick: bool, seconds: float) -> list[Work]:
    return [
        Work(
            "replicas",
            PAIRS,
            to="user",
            publishers=PAIRS,
            replicas=count,
            routing=routing,
            rate=1000,
            seconds=seconds,
        )
        for count in ((4,) if quick else (2, 4, 8))
        for routing in ("shared", "directed")
    ]


def _sdks(quick: bool, seconds: float) -> list[Work]:
    return [Work("sdks", 1000, window=4, seconds=seconds)]


def _idle(quick: bool, seconds: float) -> list[Work]:
    return [Work("idle", count, seconds=2 if quick else 6) for count in ((1000,) if quick else (1000, 5000))]


def _connects(quick: bool, seconds: float) -> list[Work]:
    return [Work("connects", 1000, before=before) for before in (10, 2000 if quick else 5000)]


def _stall(quick: bool, seconds: float) -> list[Work]:
    # Long messages: who does not read is known once the buffers on the way are full; those of the kernel are large.
    return [
        Work("stall", 200, rate=50, padding=15_000, stalled=count, warmup=2, seconds=5 if quick else 8)
        for count in (0, 1)
    ]


def _api(quick: bool, seconds: float) -> list[Work]:
    points = [("publish", 32), ("publish", 1), ("batch", 32), ("parallel batch", 4), ("broadcast", 4)]
    return [Work("api", 0, window=connections, request=request, seconds=seconds) for request, connections in points]


def _publisher(quick: bool, seconds: float) -> list[Work]:
    return [Work("publisher", 0, seconds=seconds)]


def _streams(quick: bool, seconds: float) -> list[Work]:
    return [Work("streams", 1000, window=4, seconds=seconds), Work("streams", 1000, rate=40, seconds=seconds)]


def _polls(quick: bool, seconds: float) -> list[Work]:
    return [Work("polls", 1000, window=4, seconds=seconds)]


def _fronts(quick: bool, seconds: float) -> list[Work]:
    return [
        work
        for front in ("", *FRONTS)
        for work in (
            Work("fronts", 1000, window=4, front=front, seconds=seconds),
            Work("fronts", PAIRS, to="user", publishers=PAIRS, window=8, front=front, seconds=seconds),
            Work("fronts", 0, window=32, request="publish", front=front, seconds=seconds),
        )
    ]


def _deflate(quick: bool, seconds: float) -> list[Work]:
    works = [Work("deflate", 1000, window=4, rows=40, compressed=each, seconds=seconds) for each in (False, True)]
    return works + [
        Work("deflate", 1000, rate=10, rows=40, compressed=each, seconds=seconds) for each in (False, True)
    ]


def _held(quick: bool, seconds: float) -> list[Work]:
    # One message while everything warms up, one five seconds later.
    return [Work("held", min(HELD, 5000) if quick else HELD, rate=0.2, warmup=1, seconds=8)]


PARTS = [
    Part("growth", "one to many, four messages under way, against the number of subscribers", _growth),
    Part("alone", "one to 1,000, one message under way", _alone),
    Part("rate", "one to 1,000 at fixed rates: latency", _rate),
    Part("unicast", "from user to user on another replica: saturated, and at 2,000 a second", _unicast),
    Part("channels", "the cost of a message against the number of channels", _channels, runs=2, without=SLOW),
    Part("replicas", "what replicas pay that hold neither side", _replicas, runs=2, without=SLOW),
    Part("sdks", "one to 1,000 SDK clients, plain ones, and half of each", _sdks, only=("heliograph", *SDKS)),
    Part("idle", "memory and CPU of idle connections", _idle),
    Part("connects", "what a connect costs when few and when many are connected", _connects, runs=2),
    Part("stall", "p99 of the others when one does not read", _stall, runs=2, without=SLOW + BOUND),
    Part("publisher", "publishing over Redis from one program, beside redis-py", _publisher, only=("heliograph",)),
    Part("api", "publishing by HTTP: one by one, in batches, to many channels", _api),
    Part("streams", "one to 1,000 streams of server-sent events", _streams, only=SYSTEMS_WITH_STREAMS),
    Part("polls", "one to 1,000 long polls", _polls, only=SYSTEMS_WITH_STREAMS),
    Part(
        "fronts",
        "fan-out, user to user, and publishing by HTTP through nginx and other proxies",
        _fronts,
        only=("heliograph", "centrifugo", "nchan"),
    ),
    Part(
        "deflate",
        "bytes and CPU of messages of 2 KiB to 1,000, with and without permessage-deflate",
        _deflate,
        without=SLOW + BOUND + ("socketio-node", "naive", "heliograph-ephemeral"),
    ),
    Part("held", "how long the server is held by one message to very many", _held, runs=2, without=SLOW + BOUND),
]
