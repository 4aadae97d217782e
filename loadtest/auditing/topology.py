"""The Redis under an audit: what is started, how programs reach it, and in which ways it can be broken."""

import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from loadtest.auditing.clients import Subscriber
from loadtest.auditing.experiments import Plan
from loadtest.auditing.scene import Scene
from tests.support.redis_server import RedisServer


@dataclass(frozen=True, slots=True)
class Breakage:
    """One way to break something.

    `occur` breaks it once, notes that, and returns when as much is mended as has to be before the next. It throws
    the dice that it is given. `every_s`: how often, in the mean, where nobody says anything else; 0: only where
    somebody does. `alone`: no other breakage of this kind may be under way.
    """

    occur: Callable[[Scene, random.Random], Awaitable[None]]
    every_s: float
    alone: bool = True


class Topology(ABC):
    """A kind of Redis; nothing runs before `start`. A new kind is a subclass in a file of its own, in `topologies/`.

    `channels`: enough of them that each part of the topology has some. `keeps`: the modes of acknowledgement in which
    it loses nothing that was acknowledged, whatever is broken.
    """

    name: ClassVar[str]
    keeps: ClassVar[frozenset[str]]
    channels: ClassVar[Sequence[str]] = ("audit:a", "audit:b", "audit:{우주여행고양이}")

    def __init__(self, directory: Path, plan: Plan) -> None:
        self.directory = directory
        self.plan = plan

    @property
    @abstractmethod
    def servers(self) -> Sequence[RedisServer]:
        """Every server, also those that are down at the moment."""

    @property
    @abstractmethod
    def environment(self) -> Mapping[str, str]:
        """The cluster's variables that say where Redis is."""

    @property
    def appendfsync(self) -> str:
        """How the servers write to their disks."""
        return "always" if self.plan.ack == "disk" else "everysec"

    @property
    def other_side(self) -> Mapping[str, str] | None:
        """The variables for replicas on the wrong side of a cut network, if the topology can be cut in two."""
        return None

    @abstractmethod
    def breakages(self, readers: Sequence[Subscriber]) -> Mapping[str, Breakage]:
        """Return the ways to break it, by their names on the command line. `readers`: who may be fooled."""

    @abstractmethod
    def start(self) -> Self:
        """Start it, and wait until it is whole."""

    @abstractmethod
    def stop(self) -> None:
        """End all of it."""
