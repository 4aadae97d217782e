"""Loading scripts into one Redis server: identify the server, find out whether it lost data, then SCRIPT LOAD.

Pure: `load` yields commands and takes their answers, so that programs with and without an event loop do the same.

A server is recognised by a name that lasts as long as its process; all programs that write into it agree on it. It
is the server's run id, if INFO is allowed. Otherwise one program invents a name, loads a script with it and keeps it
in a key. A key may outlive the process and a script never does: if both exist, it is the same process.
"""

import logging
import secrets
from collections.abc import Generator, Sequence
from hashlib import sha1
from typing import Any, Final

from redis.exceptions import NoPermissionError, RedisError, ResponseError

from heliograph.backends.redis.acknowledgement import IN_MEMORY, NOT_DURABLE, Acknowledgement
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.layout import FIELD, ONE, Layout
from heliograph.backends.redis.link import Command
from heliograph.backends.redis.link_errors import DEMOTED
from heliograph.backends.redis.promotion import forebears, note_other_mode
from heliograph.backends.redis.script_texts import KEEPING, PARTS, raise_first_error, refusing_text, script_text

MADE_UP: Final = "x"  # the start of an invented name; a run id is hexadecimal
NAME_LENGTH: Final = 16
MOST_TRIES: Final = 5  # to agree on a name
MOST_NAMESAKES: Final = 16
CLAIM_MS: Final = 10_000  # how long a claim to an owner's number lasts unless it is renewed

logger = logging.getLogger(__name__)

Steps = Generator[list[Command], list[Any], dict[str, str]]


class Claim:
    """The holder of an owner's number, with a unique name. It is kept under `key` as long as it is renewed."""

    def __init__(self) -> None:
        self.holder = secrets.token_hex(8)
        self.key = ""


def load(
    names: Sequence[str],
    keys: Keys,
    *,
    layout: Layout,
    directed: bool,
    owner: str = "",
    claim: Claim | None = None,
    mark_key: str = "",
    mark: int = 0,
    name: str = "",
    publish: str = "PUBLISH",
    ack: Acknowledgement = IN_MEMORY,
) -> Steps:
    """Yield commands, all for one connection, and take their answers, including errors of Redis.

    Return name -> SHA of the scripts. `layout`: what this program takes the server for. `owner`, `directed`,
    `publish`: see `script_text`. `claim`: to a number beside the owner, so that each of several owners with one name
    has scripts of its own. `mark`: the number that Redis acknowledged last under `mark_key` (0: none). A server that
    has a lower one has lost later data. `name`: of the server, if that is decided already. On a server that cannot
    keep the promise of `ack`, scripts that keep something are replaced by one that refuses.

    Raises RedisError, OtherLayout among them.
    """
    look = [("INFO", "server"), ("INFO", "replication"), ("CONFIG", "GET", "appendonly", "appendfsync")]
    server, replication, config, *known = yield [
        *look,
        ("HMGET", keys.server, "name", "lost", FIELD),
        _mark_read(mark_key),
    ]
    [(known_name, lost, kept), marked] = raise_first_error(known)
    yield from _compare(keys, layout, kept)
    facts, role, options = if_allowed(server, lines), if_allowed(replication, lines), if_allowed(config, pairs)
    run_id = facts.get("run_id", "")[:NAME_LENGTH]
    name = name or (yield from _agree(keys, run_id, (known_name or b"").decode()))
    certain = ack.is_certain(options, role) and (lost or b"").decode() != name
    if certain and int(marked or 0) < mark:
        certain = False
        raise_first_error((yield [("HSET", keys.server, "lost", name)]))
    before = ""
    if ack.confirms:
        before = yield from forebears(keys, name, facts, role)
    elif any("_keep" in PARTS[each] for each in names):
        yield from note_other_mode(keys, name)
    if claim is not None:
        owner = yield from _claim(keys, owner, claim)
    texts = [
        script_text(each, name, certain=certain, directed=directed, owner=owner, publish=publish, forebears=before)
        for each in names
    ]
    if (refusal := ack.refusal(options)) is not None:
        texts = [
            refusing_text(NOT_DURABLE, refusal) if each in KEEPING else text
            for each, text in zip(names, texts, strict=True)
        ]
    *shas, kept_now = yield [*(("SCRIPT", "LOAD", text) for text in texts), ("HGET", keys.server, FIELD)]
    [kept_now] = raise_first_error([kept_now])
    if kept_now != kept:  # a replica has written it down meanwhile, and these scripts may have come after its flush
        yield from _compare(keys, layout, kept_now)
    return {each: _text(sha) for each, sha in zip(names, raise_first_error(shas), strict=True)}


def check_layout(keys: Keys, layout: Layout) -> Generator[list[Command], list[Any], None]:
    """Yield commands likewise, for a program that calls no script.

    Raises OtherLayout: the server is another shard.
    """
    [kept] = raise_first_error((yield [("HGET", keys.server, FIELD)]))
    yield from _compare(keys, layout, kept)


def _compare(keys: Keys, layout: Layout, kept: bytes | None) -> Generator[list[Command], list[Any], None]:
    is_used = False
    if kept is None and layout.text != ONE:
        # The replicas of a cluster with one Redis have leases, and write no layout.
        [now] = raise_first_error((yield [("TIME",)]))
        look = [("ZCOUNT", keys.leases, int(now[0]) * 1000, "+inf"), ("HGET", keys.server, FIELD)]
        alive, kept = raise_first_error((yield [*look]))  # the first replica may have come meanwhile
        is_used = alive > 0
    layout.compare(None if kept is None else _text(kept), is_used=is_used)


def _claim(keys: Keys, owner: str, claim: Claim) -> Generator[list[Command], list[Any], str]:
    """Return the owner with a number that no other owner of the same name has.

    Scripts stay in the memory of Redis, so there should be no more of them than owners at the same time.
    """
    for number in range(MOST_NAMESAKES):
        key = keys.script_owner(owner, number)
        _, held_by = yield [("SET", key, claim.holder, "NX", "PX", CLAIM_MS), ("GET", key)]
        if held_by == claim.holder.encode():
            if number and claim.key != key:
                logger.warning(
                    "another replica with the bus channel and name %r runs, or was killed less than %d s ago; "
                    "if it runs, give each a name of its own (--name)",
                    owner,
                    CLAIM_MS // 1000,
                )
            claim.key = key
            return f"{owner} {number}"
        if held_by is None or isinstance(held_by, Exception):
            break  # the memory is full, or the command is not allowed
    return f"{owner} {claim.holder}"


def _mark_read(mark_key: str) -> Command:
    return ("HGET", mark_key, "number") if mark_key else ("ECHO", "")


def _agree(keys: Keys, run_id: str, known: str) -> Generator[list[Command], list[Any], str]:
    """Return the name of the server. `run_id`: '' if INFO is not allowed; `known`: the name that was found."""
    for _ in range(MOST_TRIES):
        if run_id and known == run_id:
            raise_first_error((yield [("SCRIPT", "LOAD", _marker(known))]))  # for programs without the right to INFO
            return known
        if known and (not run_id or known.startswith(MADE_UP)):
            [exists] = raise_first_error((yield [("SCRIPT", "EXISTS", sha1(_marker(known)).hexdigest())]))  # noqa: S324
            if exists == [1]:
                return known
        [was_replaced] = raise_first_error((yield [("HEXISTS", keys.server, f"after:{run_id}")]))
        # A process that is the master once more has the data of another one, so it needs a name of its own for that.
        name = run_id if run_id and not was_replaced else MADE_UP + secrets.token_hex(NAME_LENGTH)[: NAME_LENGTH - 1]
        # If several programs find that the old name does not count, the first of them decides the new one for all.
        after = f"after:{known}"
        replies = yield [
            ("SCRIPT", "LOAD", _marker(name)),
            ("HSETNX", keys.server, after, name),
            ("HGET", keys.server, after),
        ]
        refusal = next((each for each in replies if isinstance(each, Exception)), None)
        if refusal is not None:
            if run_id and not isinstance(refusal, DEMOTED):
                return run_id  # the memory is full: nothing can be written, but reads work
            raise refusal
        known = _text(replies[2])
        raise_first_error((yield [("HSET", keys.server, "name", known)]))
    raise RedisError(f"programs could not agree on a name for this Redis process: {keys.server} changes all the time")


def _marker(name: str) -> bytes:
    """Return a script that is in the server's memory as long as the server has this name."""
    return f"return '{name}'".encode()


def if_allowed(answer: Any, read: Any) -> dict[str, str]:
    """Return the answer of INFO or CONFIG; empty if it is refused, by a managed server or without the right.

    Raises RedisError: it is refused for another reason.
    """
    if isinstance(answer, DEMOTED):
        raise answer
    if isinstance(answer, ResponseError | NoPermissionError):
        return {}
    found: dict[str, str] = read(answer)
    return found


def lines(info: bytes | str) -> dict[str, str]:
    """Return the answer of INFO: `name:value` lines."""
    return dict(line.split(":", 1) for line in _text(info).splitlines() if ":" in line)


def pairs(config: Any) -> dict[str, str]:
    """Return the answer of CONFIG GET, in either version of the protocol."""
    pairs = config.items() if isinstance(config, dict) else zip(config[::2], config[1::2], strict=True)
    return {_text(name): _text(value) for name, value in pairs}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
