"""Publish from any Python program, over Redis directly: the cluster's own script, no replica needed.

    with Publisher("redis://localhost:6379/0") as publisher:
        publisher.publish("news", {"text": "hello"})
        publisher.send_to_user("bob", {"text": "hello"})
        publisher.publish_progress("20251105_1430", state="RUNNING", progress=40, log="half way, nearly")
        publisher.log(101, "compiling…")

`AsyncPublisher` is the same with `async with` and `await`.

A call returns when the publication is kept and on its way. If Redis cannot be reached it is tried again, with growing
pauses, until `deadline_s`; each call has an idempotency key, so that a try whose answer was lost is never published a
second time. What is not kept (ephemeral namespaces) is tried once.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from heliograph.backends.redis.client import connect
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.run_leases import decoded, expired_call, lease_call, lost_calls
from heliograph.backends.redis.scripts import Scripts
from heliograph.backends.redis.sync import SyncScripts, connect_sync
from heliograph.client.drafts import Drafting, Published, check_run_id, published
from heliograph.client.environment import cluster_settings
from heliograph.client.forks import leave_alone, renew_in_children
from heliograph.client.retrying import FAILURES, Attempts
from heliograph.clock import SystemClock
from heliograph.errors import BadSetting
from heliograph.ports import IDEMPOTENCY_TTL_S, Draft
from heliograph.protocol.channel_options import Namespace
from heliograph.protocol.namespace import Namespaces

__all__ = ["AsyncPublisher", "Published", "Publisher"]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

DEADLINE_S: Final = 10.0
MAX_CONNECTIONS: Final = 10


class _Base:
    """What both publishers are made from."""

    def __init__(
        self,
        url: str | None = None,
        *,
        durable_url: str | None = None,
        prefix: str | None = None,
        bus_channel: str | None = None,
        namespaces: Mapping[str, Namespace] | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """Connects when it is used for the first time.

        Args:
            url, durable_url, prefix, bus_channel, namespaces: in the place of the cluster's own variables, which are
                read without them; see `heliograph.client.environment`.
            deadline_s: until when a call tries again, 0 to 240 s. The last attempt may take a second longer.

        Raises:
            BadSetting: there is no URL, or something that cannot be used.
        """
        settings = cluster_settings(
            url, durable_url=durable_url, prefix=prefix, bus_channel=bus_channel, namespaces=namespaces
        )
        self._url = settings.live_url
        self._durable_url = settings.durable_url
        self._deadline_s = _checked_deadline(deadline_s)
        self._directed = settings.routing == "directed"
        self._script = "append" if self._durable_url is None else "store"
        self._drafting = Drafting(
            Keys(settings.prefix),
            settings.bus_channel,
            Namespaces(dict(settings.namespaces)),
            settings.depth,
            SystemClock(),
        )

    def _attempts(self, deadline_s: float | None, idempotency_key: str | None) -> Attempts:
        deadline_s = self._deadline_s if deadline_s is None else _checked_deadline(deadline_s)
        return Attempts(deadline_s, time.monotonic, idempotency_key)


class Publisher(_Base):
    """Publishes from plain functions. May be shared by all threads, and survives a fork."""

    def __init__(
        self,
        url: str | None = None,
        *,
        durable_url: str | None = None,
        prefix: str | None = None,
        bus_channel: str | None = None,
        namespaces: Mapping[str, Namespace] | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        super().__init__(
            url,
            durable_url=durable_url,
            prefix=prefix,
            bus_channel=bus_channel,
            namespaces=namespaces,
            deadline_s=deadline_s,
        )
        self._closing = threading.Event()
        self._connect()
        renew_in_children(self)

    def _connect(self) -> None:
        self._live = connect_sync(self._url, max_connections=MAX_CONNECTIONS)
        self._redis = self._live  # keeps what is kept
        if self._durable_url is not None:
            self._redis = connect_sync(self._durable_url, max_connections=MAX_CONNECTIONS)
        self._scripts = SyncScripts(self._redis, self._drafting.keys, directed=self._directed)

    def renew_in_child(self) -> None:
        """See `heliograph.client.forks`."""
        was_closed = self._closing.is_set()
        self._closing = threading.Event()
        if was_closed:
            self._closing.set()
        self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, and let those give up who wait to try again. May be called twice."""
        self._closing.set()
        self._redis.close()
        self._live.close()

    def publish(self, channel: str, data: object, idempotency_key: str | None = None) -> Published:
        """Publish anything that encodes to JSON on a channel (`#bob`: to a user; `run:7`: an update of that run).

        Args:
            channel: 1-512 bytes of UTF-8 without control characters.
            data: what subscribers get as `data`; `msgspec.Raw` is taken as JSON that is already written.
            idempotency_key: 1-255 bytes. A second publication on the channel with the same key within 300 s is
                answered with the place of the first, and not published.

        Raises:
            BadChannel, BadUserId, BadData: it cannot be published.
            PublishError: Redis refused, or could not be reached until the deadline.
        """
        return self._append([self._drafting.publication(channel, data, idempotency_key)])[0]

    def send_to_user(self, user_id: str, data: object, idempotency_key: str | None = None) -> Published:
        """Publish to one user, on every device, now or when they come back. As `publish`."""
        return self._append([self._drafting.for_user(user_id, data, idempotency_key)])[0]

    def publish_progress(
        self,
        run_id: str,
        state: str | None = None,
        progress: float | None = None,
        log: str | None = None,
        *,
        idempotency_key: str | None = None,
        deadline_s: float | None = None,
    ) -> Published:
        """Bring a run up to date; what is left out stays as it was.

        Args:
            run_id: any text of up to 508 bytes without control characters.
            state: whatever the viewers understand; `END` and `FAILED` end the run.
            progress: percent, 0 to 100.
            log: one line for the viewers; it is kept with the run.
            deadline_s: another deadline than the publisher's, within the same limits.

        Raises:
            BadChannel, BadData: it cannot be published.
            PublishError: Redis refused, or could not be reached until the deadline.
        """
        draft = self._drafting.progress(run_id, state, progress, log, idempotency_key)
        return self._append([draft], deadline_s)[0]

    def log(self, project_id: str | int, line: str, stream: str = "stdout") -> Published:
        """Publish a line of output on `logs:<project_id>`, as `{"line": …, "stream": …}`.

        The line's end is left out; of a line with more than 32,768 characters the rest is left out, and how many
        these were is said. Raises as `publish`.
        """
        return self._append([self._drafting.line(project_id, line, stream)])[0]

    def log_many(
        self, project_id: str | int, lines: Sequence[tuple[str, str]], *, deadline_s: float | None = None
    ) -> list[Published]:
        """Publish many lines, each with its stream, in order and in one round trip. As `log`.

        A try that failed half way is repeated as a whole; those that were published are recognised.
        """
        drafts = [self._drafting.line(project_id, line, stream) for line, stream in lines]
        return self._append(drafts, deadline_s)

    # -- runs that may lose their worker

    def lease_runs(self, run_ids: Sequence[str], ttl_s: float) -> None:
        """Say that the workers of these runs live; who does not say so again within `ttl_s` may be declared lost.

        Tried once. Raises BadChannel, and PublishError.
        """
        for run_id in run_ids:
            check_run_id(run_id)
        if run_ids:
            self._once(lambda: self._scripts.run_many("run_lease", [lease_call(self._drafting.keys, run_ids, ttl_s)]))

    def release_run(self, run_id: str) -> None:
        """Say that the run needs no worker any more. Tried once. Raises PublishError."""
        self._once(lambda: self._redis.zrem(self._drafting.keys.run_leases, run_id))

    def reap_lost_runs(self) -> int:
        """See `heliograph.backends.redis.run_leases.reap_lost_runs`. Tried once. Raises PublishError."""

        def look() -> int:
            drafting = self._drafting
            [expired] = self._scripts.run_many("run_expired", [expired_call(drafting.keys)])
            if not expired:
                return 0
            calls = lost_calls(
                drafting.keys, drafting.bus_channel, drafting.namespaces, decoded(expired), drafting.clock
            )
            return sum(bool(answer) for answer in self._scripts.run_many("run_lost", calls))

        return self._once(look)

    # -- how

    def _append(self, drafts: Sequence[Draft], deadline_s: float | None = None) -> list[Published]:
        if not drafts:
            return []
        if not self._drafting.is_kept(drafts[0]):
            return [self._pass_on(draft) for draft in drafts]
        calls = [self._drafting.call(draft) for draft in drafts]
        answers = self._persist(
            lambda: self._scripts.run_many(self._script, calls), self._attempts(deadline_s, drafts[0].idempotency_key)
        )
        if self._durable_url is not None:
            self._announce(self._drafting.announcements(drafts, answers))
        return [published(draft, answer) for draft, answer in zip(drafts, answers, strict=True)]

    def _announce(self, announcements: list[tuple[str, bytes]]) -> None:
        """Tell the replicas what the durable server has kept. Without that they find it with their next heartbeat."""
        try:
            with self._live.pipeline(transaction=False) as pipeline:
                for bus_channel, envelope in announcements:
                    pipeline.publish(bus_channel, envelope)
                pipeline.execute()
        except FAILURES as error:
            logger.warning("kept but not announced: %s", error)

    def _pass_on(self, draft: Draft) -> Published:
        bus_channel, envelope = self._drafting.passing(draft)
        self._once(lambda: self._live.publish(bus_channel, envelope))
        return published(draft, None)

    def _once(self, attempt: Callable[[], _T]) -> _T:
        return self._persist(attempt, self._attempts(0, None))

    def _persist(self, attempt: Callable[[], _T], attempts: Attempts) -> _T:
        while True:
            try:
                return attempt()
            except FAILURES as error:
                delay_s = attempts.failed(error)
                logger.debug("trying again in %.2f s: %s", delay_s, error)
                if self._closing.wait(delay_s):
                    attempts.give_up(error)


class AsyncPublisher(_Base):
    """Publishes from coroutines of one event loop. As `Publisher`, but for the leases of runs."""

    def __init__(
        self,
        url: str | None = None,
        *,
        durable_url: str | None = None,
        prefix: str | None = None,
        bus_channel: str | None = None,
        namespaces: Mapping[str, Namespace] | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        super().__init__(
            url,
            durable_url=durable_url,
            prefix=prefix,
            bus_channel=bus_channel,
            namespaces=namespaces,
            deadline_s=deadline_s,
        )
        self._connect()
        renew_in_children(self)

    def _connect(self) -> None:
        self._live = connect(self._url, max_connections=MAX_CONNECTIONS)
        self._redis = self._live  # keeps what is kept
        if self._durable_url is not None:
            self._redis = connect(self._durable_url, max_connections=MAX_CONNECTIONS)
        self._scripts = Scripts(self._redis, self._drafting.keys, directed=self._directed)
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)  # the pool raises when it is empty; here they wait

    def renew_in_child(self) -> None:
        """See `heliograph.client.forks`."""
        leave_alone((self._live, self._redis, self._scripts, self._free))
        self._connect()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. May be called twice."""
        await self._redis.aclose()
        await self._live.aclose()

    async def publish(self, channel: str, data: object, idempotency_key: str | None = None) -> Published:
        """See `Publisher.publish`."""
        return (await self._append([self._drafting.publication(channel, data, idempotency_key)]))[0]

    async def send_to_user(self, user_id: str, data: object, idempotency_key: str | None = None) -> Published:
        """See `Publisher.send_to_user`."""
        return (await self._append([self._drafting.for_user(user_id, data, idempotency_key)]))[0]

    async def publish_progress(
        self,
        run_id: str,
        state: str | None = None,
        progress: float | None = None,
        log: str | None = None,
        *,
        idempotency_key: str | None = None,
        deadline_s: float | None = None,
    ) -> Published:
        """See `Publisher.publish_progress`."""
        draft = self._drafting.progress(run_id, state, progress, log, idempotency_key)
        return (await self._append([draft], deadline_s))[0]

    async def log(self, project_id: str | int, line: str, stream: str = "stdout") -> Published:
        """See `Publisher.log`."""
        return (await self._append([self._drafting.line(project_id, line, stream)]))[0]

    async def log_many(
        self, project_id: str | int, lines: Sequence[tuple[str, str]], *, deadline_s: float | None = None
    ) -> list[Published]:
        """See `Publisher.log_many`."""
        drafts = [self._drafting.line(project_id, line, stream) for line, stream in lines]
        return await self._append(drafts, deadline_s)

    async def _append(self, drafts: Sequence[Draft], deadline_s: float | None = None) -> list[Published]:
        if not drafts:
            return []
        kept = self._drafting.is_kept(drafts[0])
        attempts = self._attempts(deadline_s if kept else 0, drafts[0].idempotency_key if kept else None)
        while True:
            try:
                async with self._free:
                    answers = await (self._keep(drafts) if kept else self._pass_on(drafts))
                return [published(draft, answer) for draft, answer in zip(drafts, answers, strict=True)]
            except FAILURES as error:
                delay_s = attempts.failed(error)
                logger.debug("trying again in %.2f s: %s", delay_s, error)
            await asyncio.sleep(delay_s)

    async def _keep(self, drafts: Sequence[Draft]) -> list[Any]:
        answers = await self._scripts.run_many(self._script, [self._drafting.call(draft) for draft in drafts])
        if self._durable_url is not None:
            await self._announce(self._drafting.announcements(drafts, answers))
        return answers

    async def _announce(self, announcements: list[tuple[str, bytes]]) -> None:
        """See `Publisher._announce`."""
        try:
            async with self._live.pipeline(transaction=False) as pipeline:
                for bus_channel, envelope in announcements:
                    pipeline.publish(bus_channel, envelope)
                await pipeline.execute()
        except FAILURES as error:
            logger.warning("kept but not announced: %s", error)

    async def _pass_on(self, drafts: Sequence[Draft]) -> list[None]:
        for draft in drafts:
            await self._live.publish(*self._drafting.passing(draft))
        return [None] * len(drafts)


def _checked_deadline(deadline_s: float) -> float:
    if not 0 <= deadline_s <= IDEMPOTENCY_TTL_S - 60:
        longest_s = IDEMPOTENCY_TTL_S - 60
        raise BadSetting(f"deadline_s is 0 to {longest_s} s, not {deadline_s!r}: so long are repetitions recognised")
    return deadline_s
