"""Publish from any Python program: directly over Redis with the cluster's own script, or over HTTP.

    with Publisher("redis://localhost:6379/0") as publisher:
        publisher.publish("news", {"text": "hello"})
        publisher.send_to_user("bob", {"text": "hello"})
        publisher.publish_progress("20251105_1430", state="RUNNING", progress=40, log="half way, nearly")
        publisher.log(101, "compiling…")

`AsyncPublisher` is the same with `async with` and `await`. A program that cannot reach Redis passes the URL of the
cluster and its API key: `Publisher("https://live.example.org", api_key=…)`.

A call returns when the publication is kept and on its way. If the server cannot be reached, the call retries with
growing pauses until `deadline_s`. Each call has an idempotency key, so an attempt whose answer was lost is never
published a second time. Publications in ephemeral namespaces are tried once.
"""

import asyncio
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import ModuleType, TracebackType
from typing import Final, Self, TypeVar

from heliograph.backends.redis.keys import Keys
from heliograph.client.drafts import Drafting, Published, check_run_id
from heliograph.client.environment import ClusterSettings, api_settings, cluster_settings
from heliograph.client.forks import renew_in_children
from heliograph.client.redis_transport import AsyncRedisTransport, RedisTransport, targets
from heliograph.client.retrying import Attempts
from heliograph.client.sharded_transport import AsyncShardedTransport, ShardedTransport
from heliograph.client.spans import client_spans
from heliograph.client.submissions import Submission, Submissions
from heliograph.client.transport import AsyncTransport, Transport
from heliograph.clock import SystemClock
from heliograph.errors import BadSetting, NeedsRedis
from heliograph.ports import Draft
from heliograph.protocol.channel_options import Namespace
from heliograph.protocol.namespace import Namespaces
from heliograph.shared_settings import AckMode

__all__ = ["AsyncPublisher", "Published", "Publisher"]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

DEADLINE_S: Final = 10.0


class _Base(ABC):
    """The common part of both publishers."""

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        *,
        api_key: str | None = None,
        durable_url: str | None = None,
        ack: AckMode | None = None,
        prefix: str | None = None,
        bus_channel: str | None = None,
        namespaces: Mapping[str, Namespace] | None = None,
        deadline_s: float = DEADLINE_S,
        otel: bool | None = None,
    ) -> None:
        """Connect at the first use.

        Args:
            url: the URL of Redis, instead of `HELIOGRAPH_REDIS__URL`; or those of all shards, in the cluster's order,
                instead of `HELIOGRAPH_REDIS__SHARDS`; or of a Redis Cluster, `redis+cluster://…`; or of the cluster
                itself, `http://…` or `https://…`, for a program that cannot reach Redis.
            api_key: the key for the URL of the cluster, instead of `HELIOGRAPH_API__KEY` or
                `HELIOGRAPH_API__KEY_FILE`.
            durable_url, ack, prefix, bus_channel, namespaces: replace the cluster's variables; see
                `heliograph.client.environment`. Over HTTP only `namespaces` is allowed.
            deadline_s: how long a call retries, 0 to 240 s. The last attempt may take a second longer (over
                HTTP: five).
            otel: make a span of each call with OpenTelemetry, and have the cluster continue the trace; instead of
                `HELIOGRAPH_OTEL__ENABLED`. It needs `pip install 'heliograph[otel]'`.

        Raises:
            BadSetting: the URL or the API key is missing, or a value cannot be used.
        """
        self._target: ClusterSettings | tuple[str, str]
        if isinstance(url, str) and url.lower().startswith(("http://", "https://")):
            given = {"durable_url": durable_url, "ack": ack, "prefix": prefix, "bus_channel": bus_channel}
            if useless := [name for name, value in given.items() if value is not None]:
                raise BadSetting(f"{', '.join(useless)}: of no use over HTTP, where the server knows its Redis")
            api = api_settings(api_key, namespaces=namespaces)
            self._target = (url, api.key)
            self._drafting = _drafting(Keys("", ""), api.namespaces, api.depth)
        elif api_key is not None:
            raise BadSetting("api_key goes with the URL of the cluster, http://… or https://…; Redis takes none")
        else:
            settings = self._target = cluster_settings(
                url, durable_url=durable_url, ack=ack, prefix=prefix, bus_channel=bus_channel, namespaces=namespaces
            )
            keys = Keys(settings.prefix, settings.bus_channel)
            self._drafting = _drafting(keys, settings.namespaces, settings.depth)
        self._submissions = Submissions(self._drafting, deadline_s)
        self._spans = client_spans(otel)
        self._open()
        renew_in_children(self)

    @abstractmethod
    def _open(self) -> None:
        """Make what sends."""

    @abstractmethod
    def renew_in_child(self) -> None:
        """See `heliograph.client.forks`."""


class Publisher(_Base):
    """Publish from plain functions. All threads may share one publisher, and it survives a fork."""

    def _open(self) -> None:
        self._closing = threading.Event()
        self._transport = self._make_transport()

    def _make_transport(self) -> Transport:
        if isinstance(self._target, tuple):
            transport: Transport = _http_transports().HttpTransport(*self._target)
            return transport
        shards = targets(self._target)
        if len(shards) == 1:
            return RedisTransport(shards[0], self._drafting)
        return ShardedTransport(shards, self._drafting)

    def renew_in_child(self) -> None:
        """See `heliograph.client.forks`."""
        was_closed = self._closing.is_set()
        self._closing = threading.Event()
        if was_closed:
            self._closing.set()
        self._transport.renew_in_child()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, and end calls that wait for a retry. May be called twice."""
        self._closing.set()
        self._transport.close()

    def publish(
        self, channel: str, data: object, idempotency_key: str | None = None, *, traceparent: str | None = None
    ) -> Published:
        """Publish data on a channel (`#bob`: to a user; `run:7`: an update of that run).

        Args:
            channel: 1-512 bytes of UTF-8 without control characters.
            data: anything that encodes to JSON; `msgspec.Raw` is JSON already. Subscribers get it as `data`.
            idempotency_key: 1-255 bytes. A second publication on the channel with the same key within 300 s is
                answered with the position of the first, and not published.
            traceparent: the trace that this belongs to, as the header of W3C Trace Context names it. One that is
                not valid, or not recorded, is ignored.

        Raises:
            BadChannel, BadUserId, BadData: it cannot be published.
            PublishError: the server refused, or could not be reached until the deadline.
        """
        return self._send_one(self._submissions.publication(channel, data, idempotency_key, traceparent))

    def send_to_user(
        self, user_id: str, data: object, idempotency_key: str | None = None, *, traceparent: str | None = None
    ) -> Published:
        """Publish to one user, on every device, now or when they come back. Otherwise like `publish`."""
        return self._send_one(self._submissions.for_user(user_id, data, idempotency_key, traceparent))

    def publish_progress(
        self,
        run_id: str,
        state: str | None = None,
        progress: float | None = None,
        log: str | None = None,
        *,
        idempotency_key: str | None = None,
        deadline_s: float | None = None,
        traceparent: str | None = None,
    ) -> Published:
        """Update a run; a field that is left out keeps its value.

        Args:
            run_id: any text of up to 508 bytes without control characters.
            state: any text that the viewers understand; `END` and `FAILED` end the run.
            progress: percent, 0 to 100.
            log: one line for the viewers; it is kept with the run.
            deadline_s: replaces the publisher's deadline, within the same limits.
            traceparent: see `publish`.

        Raises:
            BadChannel, BadData: it cannot be published.
            PublishError: the server refused, or could not be reached until the deadline.
        """
        return self._send_one(
            self._submissions.progress(run_id, state, progress, log, idempotency_key, deadline_s, traceparent)
        )

    def log(self, project_id: str | int, line: str, stream: str = "stdout") -> Published:
        """Publish a line of output on `logs:<project_id>`, as `{"line": …, "stream": …}`.

        The line end is left out. A line is cut at 32,768 characters, with a note of how many were left out. Raises
        the errors of `publish`.
        """
        return self._send_one(self._submissions.lines(project_id, [(line, stream)]))

    def log_many(
        self, project_id: str | int, lines: Sequence[tuple[str, str]], *, deadline_s: float | None = None
    ) -> list[Published]:
        """Publish many lines, each with its stream, in order and in one round trip. Otherwise like `log`.

        An attempt that failed half-way is repeated as a whole; lines that were published before are recognised.
        """
        return self._send(self._submissions.lines(project_id, lines, deadline_s))

    def shard_of_run(self, run_id: str) -> int:
        """Return the number of the shard that has the run: 0, unless the publisher has the URLs of several shards.

        Shards fail one by one. Raises BadChannel.
        """
        channel = check_run_id(run_id)
        return self._transport.shard_of(channel) if isinstance(self._transport, ShardedTransport) else 0

    # -- runs that may lose their worker: only Redis has their leases

    def lease_runs(self, run_ids: Sequence[str], ttl_s: float) -> None:
        """Renew the leases of runs: a run whose lease is not renewed within `ttl_s` may be declared lost.

        Tried once. Raises BadChannel, PublishError, and NeedsRedis over HTTP.
        """
        for run_id in run_ids:
            check_run_id(run_id)
        transport = self._redis_transport("lease_runs")
        if run_ids:
            self._persist(lambda: transport.lease_runs(run_ids, ttl_s), 0, None)

    def release_run(self, run_id: str) -> None:
        """Give up the lease of a run that needs no worker. Tried once. Raises PublishError, over HTTP NeedsRedis."""
        transport = self._redis_transport("release_run")
        self._persist(lambda: transport.release_run(run_id), 0, None)

    def reap_lost_runs(self) -> int:
        """See `heliograph.backends.redis.run_leases.reap_lost_runs`. Tried once.

        Raises PublishError, and NeedsRedis over HTTP.
        """
        return self._persist(self._redis_transport("reap_lost_runs").reap_lost_runs, 0, None)

    def _redis_transport(self, verb: str) -> RedisTransport | ShardedTransport:
        if isinstance(self._transport, RedisTransport | ShardedTransport):
            return self._transport
        raise NeedsRedis(f"{verb} needs a publisher with the URL of Redis: the server API has no leases of runs")

    # -- how

    def _send_one(self, what: Submission) -> Published:
        return self._send(what)[0]

    def _send(self, what: Submission) -> list[Published]:
        if not what.drafts:
            return []
        with self._spans.publishing(what.drafts) as drafts:
            attempt = partial(self._transport.send, drafts, kept=what.kept)
            return self._persist(attempt, what.deadline_s, what.idempotency_key)

    def _persist(self, attempt: Callable[[], _T], deadline_s: float, idempotency_key: str | None) -> _T:
        transport = self._transport
        attempts = Attempts(transport.server, deadline_s, time.monotonic, idempotency_key)
        while True:
            try:
                return attempt()
            except transport.failures as error:
                failure = transport.failure(error)
                delay_s = attempts.failed(failure)
                logger.debug("retrying in %.2f s: %s", delay_s, error)
                if self._closing.wait(delay_s):
                    attempts.give_up(failure)


class AsyncPublisher(_Base):
    """Publish from coroutines of one event loop. Like `Publisher`, without the leases of runs."""

    def _open(self) -> None:
        self._closing = asyncio.Event()
        self._transport = self._make_transport()

    def _make_transport(self) -> AsyncTransport:
        if isinstance(self._target, tuple):
            transport: AsyncTransport = _http_transports().AsyncHttpTransport(*self._target)
            return transport
        shards = targets(self._target)
        if len(shards) == 1:
            return AsyncRedisTransport(shards[0], self._drafting)
        return AsyncShardedTransport(shards, self._drafting)

    def renew_in_child(self) -> None:
        """See `heliograph.client.forks`."""
        was_closed = self._closing.is_set()
        self._closing = asyncio.Event()
        if was_closed:
            self._closing.set()
        self._transport.renew_in_child()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections, and end calls that wait for a retry. May be called twice."""
        self._closing.set()
        await self._transport.close()

    async def publish(
        self, channel: str, data: object, idempotency_key: str | None = None, *, traceparent: str | None = None
    ) -> Published:
        """See `Publisher.publish`."""
        return await self._send_one(self._submissions.publication(channel, data, idempotency_key, traceparent))

    async def send_to_user(
        self, user_id: str, data: object, idempotency_key: str | None = None, *, traceparent: str | None = None
    ) -> Published:
        """See `Publisher.send_to_user`."""
        return await self._send_one(self._submissions.for_user(user_id, data, idempotency_key, traceparent))

    async def publish_progress(
        self,
        run_id: str,
        state: str | None = None,
        progress: float | None = None,
        log: str | None = None,
        *,
        idempotency_key: str | None = None,
        deadline_s: float | None = None,
        traceparent: str | None = None,
    ) -> Published:
        """See `Publisher.publish_progress`."""
        return await self._send_one(
            self._submissions.progress(run_id, state, progress, log, idempotency_key, deadline_s, traceparent)
        )

    async def log(self, project_id: str | int, line: str, stream: str = "stdout") -> Published:
        """See `Publisher.log`."""
        return await self._send_one(self._submissions.lines(project_id, [(line, stream)]))

    async def log_many(
        self, project_id: str | int, lines: Sequence[tuple[str, str]], *, deadline_s: float | None = None
    ) -> list[Published]:
        """See `Publisher.log_many`."""
        return await self._send(self._submissions.lines(project_id, lines, deadline_s))

    async def _send_one(self, what: Submission) -> Published:
        return (await self._send(what))[0]

    async def _send(self, what: Submission) -> list[Published]:
        if not what.drafts:
            return []
        with self._spans.publishing(what.drafts) as drafts:
            return await self._persist(drafts, what)

    async def _persist(self, drafts: Sequence[Draft], what: Submission) -> list[Published]:
        transport = self._transport
        attempts = Attempts(transport.server, what.deadline_s, time.monotonic, what.idempotency_key)
        while True:
            try:
                return await transport.send(drafts, kept=what.kept)
            except transport.failures as error:
                failure = transport.failure(error)
                delay_s = attempts.failed(failure)
                logger.debug("retrying in %.2f s: %s", delay_s, error)
            with suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._closing.wait()
                attempts.give_up(failure)


def _drafting(keys: Keys, namespaces: Mapping[str, Namespace], depth: int) -> Drafting:
    return Drafting(keys, Namespaces(dict(namespaces)), depth, SystemClock())


def _http_transports() -> ModuleType:
    """Import the module that needs httpx, which a program that publishes over Redis need not have."""
    try:
        from heliograph.client import http_transport
    except ImportError as error:
        raise BadSetting(f"publishing over HTTP needs httpx: pip install 'heliograph[client]' ({error})") from None
    return http_transport
