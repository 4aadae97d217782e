"""Calls of one script that go to Redis as one command.

A script that publishes takes any number of calls at once and answers with a list (`lua/_calls.lua`): what is asked of
it in a row costs Redis one command, and every replica one message of the bus. What the calls have in common is said
once.
"""

from collections.abc import Iterable, Sequence
from itertools import repeat
from time import monotonic
from typing import Any

from redis.exceptions import InvalidResponse

from heliograph.backends.redis.link import Command, OnReply, call_back
from heliograph.backends.redis.script_texts import BATCHED, Argument
from heliograph.telemetry import Histogram

MOST_CALLS = 64  # in one command, as Redis does nothing else meanwhile
MOST_BYTES = 65_536  # in long arguments; a batch that has so many takes no more

Common = tuple[tuple[str, ...], tuple[Argument, ...]]  # keys and arguments that are the same in many calls
Call = tuple[Sequence[str], Sequence[Argument], Common]  # keys, arguments, and what others have too
NOTHING: Common = ((), ())


class CallBatch:
    """Calls that have the same in common, and as many keys and arguments, and whom to tell what has come of each."""

    __slots__ = (
        "_argument_count",
        "_arguments",
        "_began_at",
        "_bytes",
        "_common",
        "_dones",
        "_key_count",
        "_keys",
        "_long",
        "_sha",
        "_time",
        "name",
    )

    def __init__(self, name: str, sha: str, call: Call, done: OnReply, time: Histogram | None = None) -> None:
        keys, arguments, common = call
        self.name = name
        self._sha = sha  # under which Redis knows the script
        self._common = common
        self._key_count = len(keys)  # of each call
        self._argument_count = len(arguments)
        self._keys = [*common[0], *keys]
        self._arguments = [*common[1], *arguments]
        self._dones: list[OnReply] = [done]
        self._long = BATCHED[name]
        self._bytes = len(arguments[self._long])  # type: ignore[arg-type] # a number is short
        self._time = time  # how long Redis takes to answer, of each call
        self._began_at = monotonic()

    def add(self, call: Call, done: OnReply) -> bool:
        """Take one more call; False if it does not fit in."""
        keys, arguments, common = call
        if (
            len(keys) != self._key_count
            or len(arguments) != self._argument_count
            or len(self._dones) >= MOST_CALLS
            or self._bytes >= MOST_BYTES
            or common != self._common
        ):
            return False
        self._keys += keys
        self._arguments += arguments
        self._dones.append(done)
        self._bytes += len(arguments[self._long])  # type: ignore[arg-type]
        return True

    def command(self) -> Command:
        """What goes to Redis. Nothing is to be added after this."""
        return "EVALSHA", self._sha, *self.parameters()

    def parameters(self) -> Command:
        """The same, without the script: how many keys, the keys, the arguments."""
        counts = len(self._dones), self._key_count, self._argument_count
        return len(self._keys), *self._keys, *counts, *self._arguments

    def call_back(self, reply: Any) -> None:
        """Hand the reply, or the error that all of them share, to those who wait, in order."""
        replies = reply
        if isinstance(reply, Exception):
            replies = repeat(reply)
        elif len(reply) != len(self._dones):
            replies = repeat(InvalidResponse(f"{len(reply)} answers to {len(self._dones)} calls of {self.name!r}"))
        if self._time is not None and replies is reply:
            self._time.observe(monotonic() - self._began_at, len(self._dones))
        for done, each in zip(self._dones, replies, strict=False):
            call_back(done, each)


def in_batches(name: str, calls: Iterable[Call]) -> list[Command]:
    """The parameters of as few commands as may be; their answers are lists that belong one behind the other."""
    batches: list[CallBatch] = []
    for call in calls:
        if not batches or not batches[-1].add(call, nobody):
            batches.append(CallBatch(name, "", call, nobody))
    return [batch.parameters() for batch in batches]


def parameters_of(call: Call) -> Command:
    """Those of the one call of a script that takes no more."""
    keys, arguments, _ = call
    return len(keys), *keys, *arguments


def nobody(reply: Any) -> None:
    """Whom to tell if no one wants to know."""
