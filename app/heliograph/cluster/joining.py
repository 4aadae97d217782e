"""Joining and leaving: a client is told where a channel stands, then what it missed, then what comes, in order."""

import asyncio
import logging
from collections.abc import Callable, Iterable

from heliograph.cluster.followed import Followed, PendingJoin, has_reached, is_after, just_before
from heliograph.cluster.following import Following
from heliograph.cluster.read_batcher import ReadBatcher
from heliograph.cluster.repair import DRAIN_POLL_S, SLICE_BYTES, Repair, size_of
from heliograph.errors import BusUnavailable
from heliograph.hub.connection import Connection
from heliograph.hub.hub import Hub
from heliograph.ports import ReadRequest
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.events import Subscribed
from heliograph.protocol.namespace import Namespaces
from heliograph.protocol.operations import RequestId
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication
from heliograph.protocol.sequence import Sequence
from heliograph.tasks import end

logger = logging.getLogger(__name__)


class Joining:
    """Takes connections onto channels and off them. A subscription that cannot be made yet is tried again.

    `page`: how many publications are read at once for a client that catches up.
    """

    def __init__(
        self,
        hub: Hub,
        following: Following,
        repair: Repair,
        reads: ReadBatcher,
        namespaces: Namespaces,
        page: int,
    ) -> None:
        self._hub = hub
        self._following = following
        self._repair = repair
        self._reads = reads
        self._namespaces = namespaces
        self._page = page
        self._pending: dict[Connection, dict[str, PendingJoin]] = {}  # by channel
        self._retries: set[asyncio.Task[None]] = set()
        self._log_answered = asyncio.Event()  # the next heartbeat has succeeded; each has an event of its own
        self._is_running = False

    def start(self) -> None:
        self._is_running = True

    async def stop(self) -> None:
        self._is_running = False
        await end(self._retries)

    def retry(self) -> None:
        """The log has answered: whoever waits for that tries again."""
        answered, self._log_answered = self._log_answered, asyncio.Event()
        answered.set()

    async def join(
        self,
        connection: Connection,
        channel: str,
        since: Position | None = None,
        *,
        replay: bool = False,
        request_id: RequestId | None = None,
        keep: bool = False,
        on_joined: Callable[[], object] | None = None,
    ) -> bool:
        """Subscribe the connection: it is told `subscribed`, then what it missed, then what comes, in order.

        `since`: where the client stands. `replay`: without that, everything that is kept. `on_joined` is called once
        it is subscribed. Returns False if it was taken off the channel meanwhile: it is not subscribed.

        A client that has been told `subscribed` relies on it: if the log fails after that, this returns, and the rest
        follows as soon as the log can be read.

        Raises:
            BusUnavailable: the log or the bus cannot be reached; the connection is not subscribed. With `keep` it
                will be: that is tried again until it succeeds or the connection leaves, from `since` as ever.
        """
        pending = self._enter(
            connection,
            self._following.follow(channel),
            since,
            replay=replay,
            request_id=request_id,
            on_joined=on_joined,
        )
        try:
            await self._attempt(pending)
        except BusUnavailable:
            if pending.is_over:
                return False
            if pending.told is None and not keep:
                self._forget(pending)
                raise
            self._try_again(pending)
            if pending.told is None:
                raise
            return True
        except BaseException:
            self._forget(pending)
            raise
        return connection in self._hub.subscribers(channel)

    async def listen(self, connection: Connection, channel: str) -> Position | None:
        """Subscribe without a word to what comes; returns where that begins (None if nobody can say).

        Where nobody can say, `subscribed` tells later where it has begun.
        """
        pending = self._enter(connection, self._following.follow(channel))
        try:
            sequence = await self._following.positioned(pending.followed)
        except BusUnavailable:
            if not pending.is_over:
                self._try_again(pending)
            return None
        except BaseException:
            self._forget(pending)
            raise
        if not pending.is_over:
            self._arrive(pending)
        return sequence.position

    def positions_of(self, connection: Connection) -> dict[str, Position]:
        """Where the connection stands in all of its channels, after all that it has been told."""
        followed = {name: self._following.find(name) for name in connection.channels}
        positions = {
            name: each.sequence.position for name, each in followed.items() if each is not None and each.sequence
        }
        for name, pending in self._pending.get(connection, {}).items():
            position = pending.told or pending.since
            if position is not None:
                positions[name] = position
        return positions

    def channels_of(self, connection: Connection) -> list[str]:
        """The channels that the connection is subscribed to or is being subscribed to."""
        return [*connection.channels, *self._pending.get(connection, ())]

    def leave(self, connection: Connection, channel: str) -> bool:
        """Unsubscribe the connection, or stop subscribing it. Returns whether it was subscribed."""
        was_on = channel in connection.channels
        self._hub.unsubscribe(connection, channel)
        if (followed := self._following.find(channel)) is not None:
            if (pending := followed.joining.get(connection)) is not None:
                was_on = was_on or pending.was_on
                self._forget(pending)
            self._following.idle(followed)
        return was_on

    def set_aside(self, followed: Followed, connection: Connection) -> None:
        """Have the connection read on at its own pace, from where it stands, until it has caught up."""
        pending = self._enter(connection, followed)
        pending.was_on = True
        if followed.sequence is not None:
            pending.told = followed.sequence.position
        self._hub.unsubscribe(connection, followed.name)
        if not pending.is_over:
            self._try_again(pending, now=True)

    def _enter(
        self,
        connection: Connection,
        followed: Followed,
        since: Position | None = None,
        *,
        replay: bool = False,
        request_id: RequestId | None = None,
        on_joined: Callable[[], object] | None = None,
    ) -> PendingJoin:
        before = followed.joining.get(connection)
        if before is not None:
            self._forget(before)
        pending = PendingJoin(connection, followed, since, replay=replay, request_id=request_id, on_joined=on_joined)
        followed.joining[connection] = pending
        self._pending.setdefault(connection, {})[followed.name] = pending
        return pending

    def _arrive(self, pending: PendingJoin) -> None:
        """From here on the connection gets what comes as everybody else does."""
        followed = pending.followed
        self._hub.subscribe(pending.connection, followed.name)
        followed.idle_since = None
        self._forget(pending)
        if pending.on_joined is not None:
            pending.on_joined()

    def _forget(self, pending: PendingJoin) -> None:
        """The subscription is pending no longer. May be called more than once."""
        if pending.is_over:
            return
        pending.is_over = True
        connection, followed = pending.connection, pending.followed
        del followed.joining[connection]
        of_connection = self._pending[connection]
        del of_connection[followed.name]
        if not of_connection:
            del self._pending[connection]
        if pending.task is not None and pending.task is not asyncio.current_task():
            pending.task.cancel()
        self._following.idle(followed)

    def _try_again(self, pending: PendingJoin, *, now: bool = False) -> None:
        """Have the rest of the subscription done as soon as the log answers; `now`: it is expected to."""
        if not self._is_running:
            self._forget(pending)  # this replica is stopping
            return
        pending.task = asyncio.create_task(self._retry(pending, now=now), name="channels-join")
        self._retries.add(pending.task)
        pending.task.add_done_callback(self._retries.discard)

    async def _retry(self, pending: PendingJoin, *, now: bool) -> None:
        """Try again with each heartbeat that succeeds, until the client is subscribed or has left."""
        try:
            if not now:
                await self._log_answered.wait()
            while not (pending.is_over or pending.connection.outbox.closed):
                answered = self._log_answered
                try:
                    await self._attempt(pending)
                except BusUnavailable as error:
                    logger.debug(
                        "subscription pending, retrying with the next heartbeat: %s",
                        error,
                        extra={"channel": pending.followed.name},
                    )
                else:
                    continue
                await answered.wait()
        except Exception:
            about = {"channel": pending.followed.name, "connection": pending.connection.id}
            logger.exception("a subscription failed with an unexpected error; its connection is closed", extra=about)
            pending.connection.close(CloseCode.INTERNAL_ERROR, "internal error")
        finally:
            self._forget(pending)

    async def _attempt(self, pending: PendingJoin) -> None:
        """Do what is left of the subscription. After a failure this goes on where it has failed."""
        sequence = await self._following.positioned(pending.followed)
        if pending.told is None:
            await self._tell_first(pending, sequence)
        missed = await self._meet(pending, sequence)
        if not pending.is_over:
            for publication in missed:
                self._hub.send(pending.connection, pending.followed.kind.render(publication))
        if not pending.is_over:  # as a client is that could not take the last of it
            self._arrive(pending)

    async def _tell_first(self, pending: PendingJoin, sequence: Sequence) -> None:
        """Tell `subscribed` and what belongs to it."""
        options = self._namespaces.of(pending.followed.name)
        if pending.followed.kind.keeps_state:
            await self._tell_state(pending)
        elif pending.since is None and not (pending.replay or options.replay):
            first = pending.held[0].position if pending.held else None  # it came while the client waited
            position = sequence.position if first is None else just_before(first)
            self._tell_subscribed(pending, position, recovered=False)
        else:
            await self._catch_up(pending)

    async def _tell_state(self, pending: PendingJoin) -> None:
        """Tell the latest state; from that very moment on follows what changes it."""
        channel, kind = pending.followed.name, pending.followed.kind
        opened = await self._reads.read(ReadRequest(channel, with_state=True))
        self._tell_subscribed(pending, opened.position, recovered=True)
        self._hub.send(pending.connection, kind.open(channel, opened.position, opened.state))

    async def _catch_up(self, pending: PendingJoin) -> None:
        """Tell the first page of what the client has missed."""
        since = pending.since
        opened = await self._reads.read(
            ReadRequest(pending.followed.name, after=since, replay=since is None, limit=self._page)
        )
        self._tell_subscribed(pending, opened.start, recovered=since is not None and opened.complete)
        await self._tell_all(pending, opened.publications)

    async def _meet(self, pending: PendingJoin, sequence: Sequence) -> list[Publication]:
        """Bring the client to where live publications go on.

        Returns those that it has not been told: they follow what it has been told without a gap and end where the
        channel stands.
        """
        followed, connection = pending.followed, pending.connection
        while True:
            await self._let_read(connection)
            if pending.is_over or connection.outbox.closed:
                return []
            last = pending.told
            assert last is not None  # noqa: S101 - `subscribed` was told
            if not has_reached(sequence.position, last):
                await self._repair.fill(
                    [followed], self.set_aside
                )  # the log was read further than the bus has brought it yet
            missed = [each for each in pending.held if each.position is not None and is_after(each.position, last)]
            if has_reached(sequence.position, last) and len(missed) == sequence.position.offset - last.offset:
                if sum(map(size_of, missed)) <= SLICE_BYTES:
                    return missed
                await self._tell_all(pending, missed)
            else:
                await self._read_on(pending, last)

    async def _read_on(self, pending: PendingJoin, last: Position) -> None:
        """Tell the next page after `last`."""
        opened = await self._reads.read(ReadRequest(pending.followed.name, after=last, limit=self._page))
        if not opened.complete:
            # What was next has been trimmed while the client read the page before, or the log has begun anew.
            if pending.followed.kind.keeps_state:
                await self._tell_state(pending)
                return
            self._tell_subscribed(pending, opened.start, recovered=False)
        await self._tell_all(pending, opened.publications)

    async def _tell_all(self, pending: PendingJoin, publications: Iterable[Publication]) -> None:
        """Tell publications as fast as the client reads them."""
        for publication in publications:
            await self._let_read(pending.connection)
            if pending.is_over:
                return
            self._hub.send(pending.connection, pending.followed.kind.render(publication))
            pending.told = publication.position or pending.told
            pending.connection.read_bytes += size_of(publication)

    async def _let_read(self, connection: Connection) -> None:
        """Wait until the client has read nearly all that it was told, or is gone."""
        outbox = connection.outbox
        while not (outbox.is_drained or outbox.closed):  # noqa: ASYNC110 - the outbox has no events
            await asyncio.sleep(DRAIN_POLL_S)

    def _tell_subscribed(self, pending: PendingJoin, position: Position, *, recovered: bool) -> None:
        channel = pending.followed.name
        request_id, pending.request_id = pending.request_id, None
        state_follows = pending.followed.kind.keeps_state
        subscribed = Subscribed(channel, position, recovered, state_follows, request_id)
        self._hub.send(pending.connection, subscribed)
        pending.told = position
