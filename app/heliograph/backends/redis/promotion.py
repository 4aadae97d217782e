"""Which servers a Redis server has succeeded without losing what they had acknowledged. Pure, like `script_loading`.

In mode `replica` every acknowledged message is on all replicas of Redis, so the logs go on when one of them is
promoted. A server may believe that of itself only if

- its previous replication stream was that of a server of the cluster (`INFO`: master_replid2),
- its process was there when that one was last seen: a server that was restarted from an old file names a previous
  stream too,
- as many replicas had to confirm a message as have ever followed that stream, so that any of them may be promoted,
  and no program wrote there in another mode: otherwise the stream, or that server, is marked `weak`.

Every second each replica of Heliograph notes the stream of the present master, who follows it, and when it was seen:
lua/promotion.lua.
"""

from collections.abc import Generator, Mapping
from typing import Any, Final

from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.link import Command
from heliograph.backends.redis.script_texts import raise_first_error

MOST: Final = 8  # servers in a row: logs that lie idle for longer begin a new epoch
MARK_TIMEOUT_MS: Final = 200

Steps = Generator[list[Command], list[Any], str]


def forebears(keys: Keys, name: str, server: Mapping[str, str], replication: Mapping[str, str]) -> Steps:
    """Return the names of the servers that this one has succeeded, the latest first, separated by blanks.

    `name`: that of this server; `server`, `replication`: parts of INFO, empty if it is refused.
    """
    began_ms = _began_ms(server)
    stream = replication.get("master_replid2", "")
    if began_ms is None or not stream.strip("0"):
        return ""
    [before] = raise_first_error((yield [("HGET", keys.server, f"stream:{stream}")]))
    if before is None:
        return ""
    before = before.decode()
    fields = f"weak:{before}", f"weak:{stream}", f"seen:{before}", f"forebears:{before}"
    [(*weak, seen_ms, earlier)] = raise_first_error((yield [("HMGET", keys.server, *fields)]))
    if any(weak) or seen_ms is None or int(seen_ms) <= began_ms:
        return ""
    found = " ".join([before, *(earlier or b"").decode().split()][:MOST])
    raise_first_error((yield [("HSET", keys.server, f"forebears:{name}", found)]))
    return found


def note_other_mode(keys: Keys, name: str) -> Generator[list[Command], list[Any], None]:
    """Mark the server: a program writes there without waiting for replicas. They must have this before that."""
    noted: list[Command] = [("HSET", keys.server, f"weak:{name}", 1), ("HEXISTS", keys.server, f"seen:{name}")]
    _, is_relied_on = yield noted  # refused if the memory is full: then nothing can be written either
    if is_relied_on == 1:
        yield [("WAIT", 1, MARK_TIMEOUT_MS)]


def _began_ms(server: Mapping[str, str]) -> int | None:
    """Return when the server's process had certainly begun, in ms by its own clock. None if unknown.

    Redis counts whole seconds from the whole second of its start: there may be up to one more or one less.
    """
    try:
        return int(server["server_time_usec"]) // 1000 - int(server["uptime_in_seconds"]) * 1000 + 1000
    except (KeyError, ValueError):
        return None
