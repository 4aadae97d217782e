"""Whether a server has everything of the one that had the slot before. Pure: the callers ask the servers.

A log that was last written by another process may have lost its end, so it begins a new epoch (`lua/_epoch.lua`). But
a slot that moves to another server in an orderly way has lost nothing, and clients should not notice. So the scripts
of a virtual shard carry a name that goes on from process to process as long as each is known to have everything of
the one before. Whoever comes to a new owner first finds that out, and records it in the shard (`lua/succeed.lua`).
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib import resources
from typing import Any, Final

from redis.exceptions import MovedError

from heliograph.backends.redis.cluster.topology import Node
from heliograph.backends.redis.link import Command
from heliograph.backends.redis.script_loading import lines

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
