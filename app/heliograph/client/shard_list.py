"""Which shard each Redis of a cluster keeps that it is, and how an operator changes that. See `layout.py`."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import cast

from redis import Redis
from redis.exceptions import RedisError

from heliograph.backends.redis.layout import FIELD, ONE
from heliograph.backends.redis.link_errors import text_of
from heliograph.backends.redis.sync_opening import SyncClients
from heliograph.client.environment import cluster_settings
from heliograph.client.redis_transport import FAILURES, Target, targets
from heliograph.errors import BusUnavailable
from heliograph.redis_url import without_password


@dataclass(frozen=True, slots=True)
class Row:
    """One Redis. `expected`: the shard that it is by the settings; `found`: in words, what it says."""

    url: str
    expected: str
    found: str
    is_good: bool


class ShardList:
    """The Redis servers of a cluster. `url`: of one or of all shards; None: of the environment.

    Raises:
        BadSetting: a URL is missing or cannot be used.
    """

    def __init__(self, url: str | Sequence[str] | None = None) -> None:
        self._targets = targets(cluster_settings(url))

    def rows(self) -> list[Row]:
        """Ask each server what it is."""
        return [self._row(target) for target in self._targets]

    def adopt(self) -> None:
        """Write down that each server is what the settings say. Programs that still run are refused from now on.

        Raises:
            BusUnavailable: a server has live replicas, and nothing was written; or one cannot be reached, and some
                may have been written: then repeat it.
        """
        opened = SyncClients()
        clients = [opened.open(target.url, target.tag) for target in self._targets]
        try:
            for target, client in zip(self._targets, clients, strict=True):
                _check_idle(target, client)
            for target, client in zip(self._targets, clients, strict=True):
                client.hset(target.keys.server, FIELD, target.layout.text)
                _forget_scripts(client)
        except FAILURES as error:
            raise BusUnavailable(f"a Redis cannot be reached, or refuses: {text_of(error)}") from error
        finally:
            for client in clients:
                client.close()

    def _row(self, target: Target) -> Row:
        url, expected = without_password(target.url), target.layout.text
        try:
            with closing(SyncClients().open(target.url, target.tag)) as client:
                kept = cast("bytes | None", client.hget(target.keys.server, FIELD))
                alive = _live_leases(target, client)
        except FAILURES as error:
            return Row(url, expected, f"cannot be reached ({text_of(error)})", False)
        if kept is None:
            if alive and expected != ONE:
                return Row(url, expected, f"it is a cluster of its own, with {alive} replicas", False)
            return Row(url, expected, "not written down yet" if expected != ONE else "ok", True)
        found = kept.decode()
        return Row(url, expected, "ok" if found == expected else f"it keeps that it is {found!r}", found == expected)


def _live_leases(target: Target, client: Redis) -> int:
    seconds, _ = client.time()
    return int(client.zcount(target.keys.leases, f"({seconds * 1000}", "+inf"))


def _check_idle(target: Target, client: Redis) -> None:
    if alive := _live_leases(target, client):
        raise BusUnavailable(f"{alive} replicas are alive on {without_password(target.url)}: stop them first")


def _forget_scripts(client: Redis) -> None:
    """Let every program that still runs load its scripts again, so that it looks at the layout."""
    try:
        client.script_flush()
    except RedisError:
        return  # without the right to it, such programs notice when they or this server start again
