"""Subscriptions: a client gets a channel's position, then what it missed, then live publications, in order."""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from heliograph.clock import seconds_until
from heliograph.cluster.deltas import Deltas
from heliograph.cluster.followed import Followed, PendingJoin, has_reached, is_after, just_before
from heliograph.cluster.following import Following
from heliograph.cluster.read_batcher import ReadBatcher
from heliograph.cluster.repair import DRAIN_POLL_S, SLICE_BYTES, Repair, size_of
from heliograph.errors import BusUnavailable, Unrecoverable
from heliograph.hub.connection import Connection
from heliograph.hub.hub import Hub
from heliograph.ports import ReadRequest
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.events import Subscribed
from heliograph.protocol.namespace import Namespaces
from heliograph.protocol.operations import Incomplete, RequestId
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication
from heliograph.protocol.sequence import Sequence
from heliograph.protocol.subscription import FOSSIL, NO_OPTIONS, SubscribeOptions
from heliograph.tasks import end

logger = logging.getLogger(__name__)


class Joining:
    """Subscribe and unsubscribe connections. A subscription that fails for now is tried again.

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
        self._log_answered = asyncio.Event()  # set by the next successful heartbeat; each has an event of its own
        self._is_running = False

    def start(self) -> None:
        self._is_running = True

    async def stop(self) -> None:
        self._is_running = False
        await end(self._retries)

    def retry(self) -> None:
        """Retry pending subscriptions, because the log has answered."""
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
        incomplete: Incomplete = Incomplete.DELIVER_REST,
        announce: Callable[[Subscribed], object] | None = None,
        options: SubscribeOptions = NO_OPTIONS,
        on_joined: Callable[[], object] | None = None,
    ) -> bool:
        """Subscribe the connection: it gets `subscribed`, then what it missed, then live publications, in order.

        `since`: the client's position, in any epoch if that is empty. `replay`: without a position, start with
        everything that is kept. `announce` gets `subscribed` instead of the client. `on_joined` is called once it is
        subscribed. Return False if it was taken off the channel meanwhile.

        After `subscribed` the client relies on it: if the log fails then, this returns, and the rest follows as soon
        as the log can be read.

        Raises:
            BusUnavailable: the log or the bus cannot be reached; the connection is not subscribed. With `keep` it is
                retried from `since`, until it succeeds or the connection leaves.
            Unrecoverable: not everything since its position is kept, and `incomplete` is REFUSE.
        """
        pending = self._enter(
            connection,
            self._following.follow(channel),
            since,
            replay=replay,
            request_id=request_id,
            options=options,
            on_joined=on_joined,
        )
        pending.incomplete = incomplete
        pending.announce = announce
        try:
            await self._attempt(pending)
        except BusUnavailable:
            if pending.is_over:
                return False
            if pending.position is None and not keep:
                self._forget(pending)
                raise
            self._try_again(pending)
            if pending.position is None:
                raise
            return True
        except BaseException:
            self._forget(pending)
            raise
        return connection in self._hub.subscribers(channel)

    def join_soon(
        self,
        connection: Connection,
        channel: str,
        since: Position | None = None,
        *,
        options: SubscribeOptions = NO_OPTIONS,
        on_joined: Callable[[], object] | None = None,
    ) -> None:
        """Subscribe the connection as `join` with `keep` does, in the background."""
        followed = self._following.follow(channel)
        pending = self._enter(connection, followed, since, options=options, on_joined=on_joined)
        self._try_again(pending, now=True)

    async def listen(self, connection: Connection, channel: str) -> Position | None:
        """Subscribe to live publications without an event. Return the position (None if it is unknown).

        If it is unknown, a `subscribed` event says later where it has begun.
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
        """Return the connection's positions in all of its channels, after everything that it was sent."""
        followed = {name: self._following.find(name) for name in connection.channels}
        positions = {
            name: each.sequence.position for name, each in followed.items() if each is not None and each.sequence
        }
        for name, pending in self._pending.get(connection, {}).items():
            position = pending.position or pending.since
            if position is not None:
                positions[name] = position
        return positions

    def channels_of(self, connection: Connection) -> list[str]:
        """Return the channels that the connection is subscribed to, or joining."""
        return [*connection.channels, *self._pending.get(connection, ())]

    def leave(self, connection: Connection, channel: str) -> bool:
        """Unsubscribe the connection, or stop its join. Return whether it was subscribed."""
        was_on = channel in connection.channels
        followed = self._following.find(channel)
        self._off(connection, channel, followed)
        if followed is not None:
            if (pending := followed.joining.get(connection)) is not None:
                was_on = was_on or pending.was_on
                self._forget(pending)
            self._following.idle(followed)
        return was_on

    def set_aside(self, followed: Followed, connection: Connection) -> None:
        """Let the connection read from its position at its own pace, until it has caught up."""
        deltas = followed.deltas
        options = SubscribeOptions(
            join_leave=followed.name in connection.told_of,
            delta=FOSSIL if deltas is not None and connection in deltas else None,
        )
        pending = self._enter(connection, followed, options=options)
        pending.was_on = True
        if followed.sequence is not None:
            pending.position = followed.sequence.position
        self._off(connection, followed.name, followed)
        if not pending.is_over:
            self._try_again(pending, now=True)

    def _off(self, connection: Connection, channel: str, followed: Followed | None) -> None:
        """Take the connection off the channel."""
        self._hub.unsubscribe(connection, channel)
        if followed is not None and followed.deltas is not None and not followed.deltas.discard(connection):
            followed.deltas = None

    def _enter(
        self,
        connection: Connection,
        followed: Followed,
        since: Position | None = None,
        *,
        replay: bool = False,
        request_id: RequestId | None = None,
        options: SubscribeOptions = NO_OPTIONS,
        on_joined: Callable[[], object] | None = None,
    ) -> PendingJoin:
        before = followed.joining.get(connection)
        if before is not None:
            self._forget(before)
        if options.delta is not None and not self._may_use(options.delta, connection, followed):
            options = msgspec.structs.replace(options, delta=None)
        pending = PendingJoin(
            connection,
            followed,
            since,
            replay=replay,
            request_id=request_id,
            options=options,
            on_joined=on_joined,
        )
        followed.joining[connection] = pending
        self._pending.setdefault(connection, {})[followed.name] = pending
        return pending

    def _may_use(self, delta: str, connection: Connection, followed: Followed) -> bool:
        allowed = self._namespaces.of(followed.name).allowed_delta_types
        return delta in allowed and connection.encoding.whole is not None and not followed.kind.keeps_state

    def _arrive(self, pending: PendingJoin) -> None:
        """Complete the subscription: from here on the connection gets live publications."""
        followed = pending.followed
        self._hub.subscribe(pending.connection, followed.name, pending.encoding)
        position = None if followed.sequence is None else followed.sequence.position
        self._hub.trace.subscribed(pending.connection.id, pending.connection.user, followed.name, position)
        if pending.options.delta is not None:
            if followed.deltas is None:
                followed.deltas = Deltas()
            followed.deltas.add(pending.connection)
        if pending.options.join_leave:
            pending.connection.told_of |= {followed.name}
        followed.idle_since = None
        self._forget(pending)
        if pending.on_joined is not None:
            pending.on_joined()

    def _forget(self, pending: PendingJoin) -> None:
        """Forget a pending subscription. May be called more than once."""
        if pending.is_over:
            return
        pending.is_over = True
        connection, followed = pending.connection, pending.followed
        del followed.joining[connection]
        if not followed.joining:
            followed.joining = {}  # the one before keeps the memory of what it held, for each user who is here
        of_connection = self._pending[connection]
        del of_connection[followed.name]
        if not of_connection:
            del self._pending[connection]
        if pending.task is not None and pending.task is not asyncio.current_task():
            pending.task.cancel()
        self._following.idle(followed)

    def _try_again(self, pending: PendingJoin, *, now: bool = False) -> None:
        """Finish the subscription as soon as the log answers; `now`: at once, because it should."""
        if not self._is_running:
            self._forget(pending)  # this replica is stopping
            return
        pending.task = asyncio.create_task(self._retry(pending, now=now), name="channels-join")
        self._retries.add(pending.task)
        pending.task.add_done_callback(self._retries.discard)

    async def _retry(self, pending: PendingJoin, *, now: bool) -> None:
        """Retry with each successful heartbeat, until the client is subscribed or has left."""
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
        """Do the rest of the subscription. After a failure the next attempt continues there."""
        sequence = await self._following.positioned(pending.followed)
        if pending.position is None:
            await self._send_first(pending, sequence)
        missed = await self._meet(pending, sequence)
        if not pending.is_over:
            for publication in missed:
                self._hub.send(pending.connection, pending.followed.kind.render(publication), pending.encoding)
            self._note_caught_up(pending, missed)
        if not pending.is_over:  # a client that could not take the last part has been dropped
            self._arrive(pending)

    async def _send_first(self, pending: PendingJoin, sequence: Sequence) -> None:
        """Send `subscribed` and the events that belong to it."""
        options = self._namespaces.of(pending.followed.name)
        recovers = pending.since is not None and pending.incomplete is not Incomplete.DELIVER_REST
        if pending.followed.kind.keeps_state and not recovers:
            await self._send_state(pending)
        elif options.force_recovery_mode == "cache":
            await self._send_latest(pending, sequence)
        elif pending.since is None and not (pending.replay or options.replay):
            first = pending.held[0].position if pending.held else None  # it came while the client waited
            position = sequence.position if first is None else just_before(first)
            self._send_subscribed(pending, position, recovered=False)
        else:
            await self._catch_up(pending, sequence)

    async def _send_latest(self, pending: PendingJoin, sequence: Sequence) -> None:
        """Send the latest publication, unless the client has it; what it missed before that is outdated."""
        top, channel = sequence.position, pending.followed.name
        publications: list[Publication] = []
        if top.offset > 0:
            request = ReadRequest(channel, after=just_before(top), limit=self._page)
            publications = (await self._reads.read(request)).publications
        latest = publications[-1].position if publications else None
        if pending.since is not None and has_reached(pending.since, latest or top):
            self._send_subscribed(pending, pending.since, recovered=True)
        elif latest is None:
            self._send_subscribed(pending, top, recovered=False)
        else:
            self._send_subscribed(pending, just_before(latest), recovered=pending.since is not None)
            await self._send_all(pending, publications[-1:])

    async def _send_state(self, pending: PendingJoin) -> None:
        """Send the latest state; the updates after it follow."""
        channel, kind = pending.followed.name, pending.followed.kind
        result = await self._reads.read(ReadRequest(channel, with_state=True))
        self._send_subscribed(pending, result.position, recovered=True, state_follows=True)
        self._hub.send(pending.connection, kind.open(channel, result.position, result.state))

    async def _catch_up(self, pending: PendingJoin, sequence: Sequence) -> None:
        """Send the first page of what the client has missed."""
        since = pending.since
        if since is not None and not since.epoch:
            since = Position(sequence.position.epoch, since.offset)
        result = await self._reads.read(
            ReadRequest(pending.followed.name, after=since, replay=since is None, limit=self._page)
        )
        if since is not None and not result.complete and pending.incomplete is not Incomplete.DELIVER_REST:
            await self._skip(pending, result.position)
            return
        self._send_subscribed(pending, result.start, recovered=since is not None and result.complete)
        await self._send_all(pending, result.publications)

    async def _skip(self, pending: PendingJoin, top: Position) -> None:
        """Continue at the top: not everything is kept that the client has missed."""
        if pending.incomplete is Incomplete.REFUSE:
            raise Unrecoverable(f"not everything since the position in {pending.followed.name!r} is kept")
        if pending.followed.kind.keeps_state:
            await self._send_state(pending)
        else:
            self._send_subscribed(pending, top, recovered=False)

    async def _meet(self, pending: PendingJoin, sequence: Sequence) -> list[Publication]:
        """Bring the client to the position of live publications.

        Return the publications that it has not got: they follow those that it got without a gap, up to the channel's
        position.
        """
        followed, connection = pending.followed, pending.connection
        while True:
            await self._let_read(connection)
            if pending.is_over or connection.outbox.closed:
                return []
            last = pending.position
            assert last is not None  # noqa: S101 - `subscribed` was sent
            if not has_reached(sequence.position, last):
                await self._repair.fill(
                    [followed], self.set_aside
                )  # the log was read further than the bus has brought yet
            missed = [each for each in pending.held if each.position is not None and is_after(each.position, last)]
            if has_reached(sequence.position, last) and len(missed) == sequence.position.offset - last.offset:
                if sum(map(size_of, missed)) <= SLICE_BYTES:
                    return missed
                await self._send_all(pending, missed)
            else:
                await self._read_on(pending, last)

    async def _read_on(self, pending: PendingJoin, last: Position) -> None:
        """Send the next page after `last`."""
        result = await self._reads.read(ReadRequest(pending.followed.name, after=last, limit=self._page))
        if not result.complete:
            # The next publications were trimmed while the client read the last page, or the log has a new epoch.
            if pending.connection.on_gap is not None:
                pending.connection.on_gap(pending.followed.name)
                if pending.is_over:
                    return
            if pending.followed.kind.keeps_state:
                await self._send_state(pending)
                return
            self._send_subscribed(pending, result.start, recovered=False)
        elif result.position.epoch != last.epoch:
            # The log goes on in another epoch, and nothing that was acknowledged is missing.
            if pending.connection.on_gap is not None:
                pending.connection.on_gap(pending.followed.name)
                if pending.is_over:
                    return
            pending.position = result.start
        await self._send_all(pending, result.publications)

    async def _send_all(self, pending: PendingJoin, publications: list[Publication]) -> None:
        """Send publications as fast as the client reads them."""
        for number, publication in enumerate(publications):
            await self._let_read(pending.connection)
            if pending.is_over or pending.connection.outbox.closed:
                self._note_caught_up(pending, publications[:number])
                return
            self._hub.send(pending.connection, pending.followed.kind.render(publication), pending.encoding)
            pending.position = publication.position or pending.position
            pending.connection.read_bytes += size_of(publication)
        self._note_caught_up(pending, publications)

    def _note_caught_up(self, pending: PendingJoin, sent: list[Publication]) -> None:
        """Note which publications the connection has been sent."""
        if sent and (first := sent[0].position) is not None and (last := sent[-1].position) is not None:
            connection = pending.connection
            self._hub.trace.caught_up(connection.id, connection.user, pending.followed.name, first, last)

    async def _let_read(self, connection: Connection) -> None:
        """Wait until the client has read nearly everything, or is gone."""
        outbox = connection.outbox
        while not (outbox.is_drained or outbox.closed):  # noqa: ASYNC110 - the outbox has no events
            await asyncio.sleep(DRAIN_POLL_S)

    def _send_subscribed(
        self, pending: PendingJoin, position: Position, *, recovered: bool, state_follows: bool = False
    ) -> None:
        channel = pending.followed.name
        request_id, pending.request_id = pending.request_id, None
        announce, pending.announce = pending.announce, None
        subscribed = Subscribed(
            channel,
            position,
            recovered,
            state_follows,
            request_id,
            is_kept=not self._namespaces.of(channel).ephemeral,
            was_recovering=pending.since is not None,
            expires_in=seconds_until(pending.options.token_expires_at),
            delta=pending.options.delta is not None,
            data=pending.options.data,
        )
        if announce is None:
            self._hub.send(pending.connection, subscribed)
        else:
            announce(subscribed)
        pending.position = position
        connection = pending.connection
        self._hub.trace.joined(connection.id, connection.user, channel, position, pending.since, recovered)
