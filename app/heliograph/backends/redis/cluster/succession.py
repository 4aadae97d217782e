"""Whether a server has everything of the one that had the slot before, and the name that scripts have there.

Pure: `decide` yields questions and takes the answers, so that programs with and without an event loop do the same.

A log that was last written by another process may have lost its end, so it begins a new epoch (`lua/_epoch.lua`). But
a slot that moves to another server in an orderly way has lost nothing, and clients should not notice. So the scripts
of a virtual shard carry a name that goes on from process to process as long as each is known to have everything of
the one before. Whoever comes to a new owner first finds that out, and records it in the shard (`lua/succeed.lua`).
"""

import secrets
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib import resources
from time import monotonic
from typing import Any, Final

from redis.exceptions import MovedError

from heliograph.backends.redis.cluster.topology import NOT_EXECUTED, Node
from heliograph.backends.redis.link import Command
from heliograph.backends.redis.script_loading import lines
from heliograph.backends.redis.script_texts import raise_first_error

MOST_PROCESSES: Final = 32  # of a line, to be remembered
PROVE_S: Final = 0.8  # how long to wait until the servers have shown whether something was lost; less than HOLD_S
LOOK_AGAIN_S: Final = 0.03
NO_REPLICATION: Final = "0" * 40  # a replication id that is none

LOOK: Final[tuple[Command, ...]] = (("INFO", "server"), ("INFO", "replication"))


@dataclass(frozen=True, slots=True)
class Process:
    """A process of a server, as a virtual shard remembers it. It is written `run id@host:port`."""

    run_id: str
    node: Node

    @classmethod
    def read(cls, text: str) -> "Process":
        """Read what `str` has made."""
        run_id, _, address = text.partition("@")
        host, _, port = address.rpartition(":")
        return cls(run_id, (host, int(port)))

    def __str__(self) -> str:
        return f"{self.run_id}@{self.node[0]}:{self.node[1]}"


@dataclass(frozen=True, slots=True)
class Known:
    """What a program knows of a virtual shard from before: the name, and the last process under it."""

    name: str = ""
    process: str = ""


@dataclass(frozen=True, slots=True)
class Replication:
    """What a server says of itself with INFO. Offsets count bytes of the history `replid`."""

    run_id: str
    is_master: bool
    is_attached: bool  # a replica that follows its master
    replid: str
    before: str  # the history that this one continues ...
    before_ended: int  # ... and the first offset that it did not take over

    @classmethod
    def read(cls, facts: Mapping[str, str]) -> "Replication":
        """Read the parts `server` and `replication` of INFO."""
        is_master = facts.get("role") == "master"
        return cls(
            facts.get("run_id", ""),
            is_master,
            not is_master and facts.get("master_link_status") == "up",
            facts.get("master_replid", NO_REPLICATION),
            facts.get("master_replid2", NO_REPLICATION),
            int(facts.get("second_repl_offset", -1)),
        )


def continues(process: Process, old: Replication, new: Replication, owner: object) -> bool | None:
    """Return whether the server `new` has everything of the `process` on the server `old`; None: not known yet.

    `owner`: what the old server answers to a command for the slot.
    """
    if old.run_id != process.run_id:
        return False  # it has restarted
    if old.is_master:
        # The slot has moved key by key, and both servers are as they were.
        if not isinstance(owner, MovedError):
            return None  # the old one has not heard of the change yet
        return old.replid not in (new.replid, new.before)
    # The new server was a copy of the old one, which is a copy of the new one now. If it could go on where it was
    # when it was replaced, it had nothing that the new one lacks. Otherwise it had to copy everything again.
    if not old.is_attached or old.replid != new.replid:
        return None
    return old.before == new.before != NO_REPLICATION and old.before_ended <= new.before_ended


@dataclass(frozen=True, slots=True)
class Ask:
    """Commands to be answered, by a server or over the connection for which scripts are loaded (None).

    The answers may be errors of Redis. If a server cannot be reached, the answer to each command is that error.
    """

    node: Node | None
    commands: Sequence[Command]


@dataclass(frozen=True, slots=True)
class Wait:
    """A pause. The answer counts nothing."""

    seconds: float


Steps = Generator[Ask | Wait, Sequence[Any], "Known"]


def decide(server_key: str, node: Node, known: Known) -> Steps:
    """Yield what to ask and when; return the name under which scripts run at `node`, which owns the slot now.

    It is recorded there that this process has the shard. `known`: what the program knows from before. The name is
    empty if INFO is not allowed: then every move may have lost something.

    Raises the errors of redis-py.
    """
    *about, line = yield Ask(None, (*LOOK, ("HMGET", server_key, "line")))
    if isinstance(line, Exception):
        raise line
    run_id = Replication.read(facts_of(about)).run_id
    if not run_id:
        return Known()
    here, last, continued = Process(run_id, node), last_process(line[0]), ""
    if last is not None and last.run_id != run_id and (yield from _continues(server_key, last, node)):
        continued = str(last)
    replies = yield Ask(None, succeed(server_key, here, continued, known))
    return Known(raise_first_error(list(replies))[-1].decode(), str(here))


def _continues(server_key: str, last: Process, here: Node) -> Generator[Ask | Wait, Sequence[Any], bool]:
    """Return whether the present owner has everything of the last one. It waits until that is known."""
    until = monotonic() + PROVE_S
    while monotonic() < until:
        *old, owner = yield Ask(last.node, (*LOOK, ("HGET", server_key, "name")))
        new = yield Ask(here, LOOK)
        if any(isinstance(answer, Exception) for answer in (*old, *new)):
            return False  # one of them is away
        if isinstance(owner, Exception) and not isinstance(owner, NOT_EXECUTED):
            return False
        verdict = continues(last, Replication.read(facts_of(old)), Replication.read(facts_of(new)), owner)
        if verdict is not None:
            return verdict
        yield Wait(LOOK_AGAIN_S)
    return False


def succeed(server_key: str, here: Process, continued: str, known: Known) -> list[Command]:
    """Return the commands that run `lua/succeed.lua`; the last one answers with the name."""
    text = _script()
    arguments = (str(here), continued, known.name, known.process, secrets.token_hex(8), MOST_PROCESSES)
    return [("SCRIPT", "LOAD", text), ("EVALSHA", sha1(text.encode()).hexdigest(), 1, server_key, *arguments)]  # noqa: S324


def last_process(line: bytes | None) -> Process | None:
    """Return the process that had the shard last; None if the shard is new."""
    processes = (line or b"").decode().split()
    return Process.read(processes[-1]) if processes else None


def facts_of(replies: Sequence[Any]) -> dict[str, str]:
    """Return the lines of INFO; empty if it is not allowed."""
    facts: dict[str, str] = {}
    for reply in replies:
        if not isinstance(reply, Exception):
            facts |= lines(reply)
    return facts


@cache
def _script() -> str:
    return resources.files("heliograph.backends.redis").joinpath("lua", "succeed.lua").read_text(encoding="utf-8")
