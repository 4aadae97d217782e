"""Calls of one script that go to Redis as one command.

A script that publishes takes any number of calls at once and answers with a list (`lua/_calls.lua`): what is asked of
it in a row costs Redis one command, and every replica one message of the bus.
"""

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

from app.backends.link import Command, Done, tell
from app.backends.script_texts import BATCHED, Argument

MOST_CALLS = 64  # in one command, as Redis does nothing else meanwhile
MOST_BYTES = 65_536  # in long arguments; a batch that has so many takes no more

Call = tuple[Sequence[str], Sequence[Argument]]  # keys and arguments


class CallBatch:
    """Calls that have the same number of keys and of arguments, and whom to tell what has come of each."""

    __slots__ = ("_arguments", "_bytes", "_dones", "_keys", "_long", "_shape", "name", "sha")

    def __init__(self, name: str, sha: str = "") -> None:
        self.name = name
        self.sha = sha  # under which Redis knows the script
        self._long = BATCHED[name]
        self._shape = (0, 0)
        self._keys: list[str] = []
        self._arguments: list[Argument] = [0]
        self._dones: list[Done] = []
        self._bytes = 0

    def add(self, keys: Sequence[str], arguments: Sequence[Argument], done: Done) -> bool:
        """Take one more call; False if it does not fit in."""
        shape = (len(keys), len(arguments))
        if not self._dones:
            self._shape = shape
            self._arguments[0] = len(arguments)
        elif shape != self._shape or len(self._dones) >= MOST_CALLS or self._bytes >= MOST_BYTES:
            return False
        self._keys += keys
        self._arguments += arguments
        self._dones.append(done)
        self._bytes += len(arguments[self._long])  # type: ignore[arg-type] # a number is short
        return True

    @property
    def call(self) -> Call:
        """All of them in one."""
        return self._keys, self._arguments

    def command(self) -> Command:
        """What goes to Redis. Nothing is to be added after this."""
        return "EVALSHA", self.sha, len(self._keys), *self._keys, *self._arguments

    def tell(self, reply: Any) -> None:
        """Hand the reply, or the error that all of them share, to those who wait, in order."""
        replies = repeat(reply) if isinstance(reply, Exception) else reply
        for done, each in zip(self._dones, replies, strict=False):
            tell(done, each)


def in_batches(name: str, calls: Iterable[Call]) -> list[Call]:
    """So many calls in as few as may be; their answers are lists that belong one behind the other."""
    batches: list[CallBatch] = []
    for keys, arguments in calls:
        if not batches or not batches[-1].add(keys, arguments, _nobody):
            batches.append(CallBatch(name))
            batches[-1].add(keys, arguments, _nobody)
    return [batch.call for batch in batches]


def _nobody(reply: Any) -> None: ...
