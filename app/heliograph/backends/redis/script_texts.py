"""The texts of the Lua scripts for one Redis server. Pure: the caller loads them."""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Final

from heliograph.ports import CLIENT_META_TTL_S, IDEMPOTENCY_TTL_S, META_TTL_S
from heliograph.protocol.budget import WINDOW_S
from heliograph.protocol.run import TAIL_SIZE

Argument = str | bytes | int

# The scripts that take many calls at once (see `call_batch.py`) -> the argument of a call that may be long.
BATCHED: Final = {"append": 1, "store": 1, "run_lost": 1, "relay": 0, "announce": 0, "emit": 0}

# The scripts that keep a message, or something else that its sender relies on.
KEEPING: Final = frozenset(("append", "store", "run_lost", "emit", "remember"))

# script -> the parts before it; with () as a function of that name
PARTS: Final[dict[str, tuple[str, ...]]] = {
    "append": ("_calls", "_epoch", "_budget", "_keep", "_delivery"),
    "store": ("_calls", "_epoch", "_budget", "_keep"),
    "announce": ("_calls", "_delivery"),
    "emit": ("_calls", "_budget"),
    "remember": (),
    "read": ("_epoch",),
    "positions": ("_epoch",),
    "tops": ("_epoch",),
    "listen": (),
    "remove": (),
    "relay": ("_calls", "_delivery"),
    "lease": (),
    "promotion": (),
    "hold": (),
    "presence": (),
    "channel_counts": (),
    "receipts": (),
    "run_lease": (),
    "run_expired": (),
    "probe": (),
    "lifecycle_hold": ("_epoch", "_lifecycle", "hold()"),
    "lifecycle_reap": ("_epoch", "_lifecycle"),
    "lifecycle_presence": ("_epoch", "_lifecycle", "presence()"),
    "lifecycle_counts": ("_epoch", "_lifecycle", "channel_counts()"),
    "lifecycle_sweep": ("_epoch", "_lifecycle"),
    "take": ("_epoch", "_untaken"),
    "untaken_due": (),
    "undelivered": ("_epoch", "_untaken", "_lifecycle"),
    "own": (),
    "disown": (),
    "run_lost": ("_calls", "_epoch", "_budget", "_keep", "_delivery", "append()"),
}


def read_all() -> None:
    """Read every script's parts from their files, so that no file is read while clients wait.

    Raises OSError: a file is missing, or there are too many open ones.
    """
    for name, parts in PARTS.items():
        for part in (*parts, name):
            _read(part.removesuffix("()"))


def script_text(
    name: str,
    server: str,
    *,
    certain: bool,
    directed: bool,
    owner: str = "",
    publish: str = "PUBLISH",
    forebears: str = "",
) -> str:
    """Return the script for the server of this name (16 characters). `certain`: see `is_certain`; `owner`: `Scripts`.

    `directed`: messages to users go only to the replicas that hold them (`BusSettings.routing`). `publish`: the
    command that does so. `forebears`: see `promotion.py`.
    """
    fence = f"'{server[:16]}{'1' if certain else '0'}'"
    constants = (
        f"local fence, certain, directed = {fence}, {str(certain).lower()}, {str(directed).lower()}\n"
        f"local forebears = '{forebears}'\n"
        f"local meta_ms, client_meta_ms = {META_TTL_S * 1000}, {CLIENT_META_TTL_S * 1000}\n"
        f"local window_ms, publish = {int(WINDOW_S * 1000)}, '{publish}'\n"
        f"local key_ttl_ms, tail_size = {IDEMPOTENCY_TTL_S * 1000}, {TAIL_SIZE}"
        f" -- {owner.encode().hex()}\n"
    )
    parts = [_part(part) for part in PARTS[name]]
    parts += [_part(f"{name}()"), f"return run_calls({name})"] if name in BATCHED else [_part(name)]
    return constants + "\n".join(parts)


def refusing_text(code: str, reason: str) -> str:
    """Return a script in the place of another, which refuses each call with this code and reason."""
    return f"return redis.error_reply([==[{code} {reason}]==])"


def is_certain(config: Mapping[Any, Any], replication: Mapping[str, Any]) -> bool:
    """Return whether the server keeps everything that it acknowledges: it writes its log with every command, always.

    `config`: CONFIG GET appendonly appendfsync, empty if it is refused. `replication`: that part of INFO.
    """
    promoted = int(replication.get("second_repl_offset", -1)) != -1  # it was a copy, which may have lagged behind
    return config.get("appendonly") == "yes" and config.get("appendfsync") == "always" and not promoted


def raise_first_error(results: list[Any]) -> list[Any]:
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


def _part(part: str) -> str:
    name = part.removesuffix("()")
    text = _read(name)
    return text if name == part else f"local function {name}(keys, arguments)\n{text}\nend\n"


@cache
def _read(name: str) -> str:
    return resources.files(__package__).joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
