"""The channels that this replica follows, each by position: no gap, no repeat, whatever the bus does.

What the bus brings is put in order by a `Sequence`. Where something is missing it is read from the log, while the
clients' sockets stay open. Three things make a replica look: a publication that comes too early; a subscription that
began again; and a heartbeat that finds the log ahead of what has come, which shows a lost *last* message too.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from heliograph.cluster.read_batcher import ReadBatcher
from heliograph.errors import BusUnavailable
from heliograph.hub.connection import Connection
from heliograph.hub.hub import Hub
from heliograph.ports import META_TTL_S, READ_TTL_S, LogReader, ReadRequest, ReadResult, Subscriptions
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.events import Event, InitialState, Message, Progress, Subscribed
from heliograph.protocol.identity import user_of
from heliograph.protocol.namespace import Namespaces
from heliograph.protocol.operations import RequestId
from heliograph.protocol.position import Position, format_cursor
from heliograph.protocol.publication import Publication
from heliograph.protocol.run import RunProgress, RunState
from heliograph.protocol.sequence import Missing, Sequence
from heliograph.protocol.session import echo
from heliograph.settings import ChannelSettings
from heliograph.tasks import end
from heliograph.telemetry import Telemetry

logger = logging.getLogger(__name__)

DRAIN_POLL_S = 0.01  # how often to look whether a client has read what it was handed
PATIENCE_S = 0.1  # for how long a repair waits for a client to read before that one catches up by itself
SLICE_BYTES = 32_768  # of what was missing, handed out at once
FRAME_OVERHEAD_BYTES = 256  # what a frame adds to the data of a publication, roughly
MOST_HELD = 1024  # live publications kept for a connection that catches up; older ones it reads from the log
LOOK_BATCH = 200  # channels compared with the log in one go
REPAIR_BATCH = 50  # channels repaired in one round trip: each may bring a page
LISTEN_EVERY_S = READ_TTL_S / 3  # how often the places of channels are kept on which nothing was published
USERS_EVERY = 5  # heartbeats: how often users' channels are compared with the log one by one


class _Tally:
    """Follows the numbers of kept publications on one bus channel: what is missing for whomever shows there."""

    __slots__ = ("last", "seen")

    def __init__(self) -> None:
        self.last: int | None = None  # the highest number that has come; unknown after a new subscription
        self.seen = 0  # what had been sent at the last heartbeat

    def misses_before(self, number: int) -> bool:
        """Take the number of what has come; True if something between it and the one before it is missing."""
        last = self.last
        if last is None or number > last:
            self.last = number
        return last is not None and number > last + 1

    def is_behind(self, last: int | None, count: int) -> bool:
        """Take what had been sent when `last` had come; True if what had been sent one heartbeat ago is missing."""
        behind = self.last is not None and (self.last < self.seen or count < (last or 0))
        if behind or self.last is None:
            self.last = count
        self.seen = count
        return behind


class _Followed:
    """One channel that this replica follows."""

    __slots__ = ("early", "idle_since", "is_users", "joining", "name", "seen_top", "sequence", "since")

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.since = now  # monotonic seconds
        self.is_users = user_of(name) is not None
        self.sequence: Sequence | None = None  # none until the log has said where the channel stands
        self.early: list[Publication] = []  # what the bus has brought before that
        self.joining: dict[Connection, _Pending] = {}
        self.seen_top: Position | None = None  # where the log stood at the last heartbeat
        self.idle_since: float | None = None  # since when nobody here listens; monotonic seconds


class _Pending:
    """A subscription that has begun: the client catches up, or waits until the log can be read."""

    __slots__ = (
        "connection",
        "followed",
        "held",
        "is_over",
        "on_joined",
        "replay",
        "request_id",
        "since",
        "task",
        "told",
        "was_on",
    )

    def __init__(
        self,
        connection: Connection,
        followed: _Followed,
        since: Position | None = None,
        *,
        replay: bool = False,
        request_id: RequestId | None = None,
        on_joined: Callable[[], object] | None = None,
    ) -> None:
        self.connection = connection
        self.followed = followed
        self.since = since
        self.replay = replay
        self.request_id = request_id
        self.on_joined = on_joined
        self.told: Position | None = None  # where the client stands after all that it has been told
        self.held: deque[Publication] = deque(maxlen=MOST_HELD)  # the latest that came meanwhile
        self.was_on = False  # it was subscribed, and fell behind in a repair
        self.is_over = False  # the client is subscribed, or was taken off the channel
        self.task: asyncio.Task[None] | None = None  # that tries again


class _Page:
    """What a repair has read of one channel and is handing out."""

    __slots__ = ("blocked_since", "followed", "opened", "publications", "repaired_from")

    def __init__(self, followed: _Followed, opened: ReadResult, repaired_from: Position) -> None:
        self.followed = followed
        self.opened = opened
        self.publications = deque(opened.publications)  # those that were not handed out yet
        self.repaired_from = repaired_from
        self.blocked_since: float | None = None  # since when a client has not read; seconds by the loop's clock


class Channels:
    """Follows channels on behalf of this replica's connections.

    It can read the log and listen to the bus. It can write to neither: see `remote_delivery.py`.
    """

    def __init__(
        self,
        hub: Hub,
        log: LogReader,
        bus: Subscriptions,
        namespaces: Namespaces,
        settings: ChannelSettings,
        telemetry: Telemetry,
    ) -> None:
        self._hub = hub
        self._log = log
        self._bus = bus
        self._namespaces = namespaces
        self._settings = settings
        self._telemetry = telemetry
        self._followed: dict[str, _Followed] = {}
        self._pending: dict[Connection, dict[str, _Pending]] = {}  # by channel
        self._retries: set[asyncio.Task[None]] = set()
        self._log_answered = asyncio.Event()  # the next heartbeat has succeeded; each has an event of its own
        self._reads = ReadBatcher(log)
        self._behind: dict[str, None] = {}  # channels of which something is missing, in order
        self._unsure = False  # anything may be missing: look at all channels
        self._repair_due = asyncio.Event()
        self._shared = _Tally()  # of what the shared bus channel has brought
        self._own = _Tally()  # of what the inbox has
        self._beats = 0
        self._listen_at = 0.0  # when to keep places next; by the loop's clock
        self._tasks: list[asyncio.Task[None]] = []

    # -- life

    def start(self) -> None:
        self._reads.start()
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._repair_loop(), name="channels-repair"),
                asyncio.create_task(self._heartbeat_loop(), name="channels-heartbeat"),
            ]

    async def stop(self) -> None:
        tasks, self._tasks = self._tasks, []
        await end([*tasks, *self._retries])
        await self._reads.stop()

    # -- joining and leaving

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
            connection, self._follow(channel), since, replay=replay, request_id=request_id, on_joined=on_joined
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

    async def listen(self, connection: Connection, channel: str) -> str:
        """Subscribe without a word to what comes; returns where that begins, as a cursor ('' if nobody can say).

        Where nobody can say, `subscribed` tells later where it has begun.
        """
        pending = self._enter(connection, self._follow(channel))
        try:
            sequence = await self._positioned(pending.followed)
        except BusUnavailable:
            if not pending.is_over:
                self._try_again(pending)
            return ""
        except BaseException:
            self._forget(pending)
            raise
        if not pending.is_over:
            self._arrive(pending)
        return format_cursor({channel: sequence.position})

    def cursor_of(self, connection: Connection) -> str:
        """Where the connection stands in all of its channels, after all that it has been told."""
        followed = {name: self._followed.get(name) for name in connection.channels}
        positions = {
            name: each.sequence.position for name, each in followed.items() if each is not None and each.sequence
        }
        for name, pending in self._pending.get(connection, {}).items():
            position = pending.told or pending.since
            if position is not None:
                positions[name] = position
        return format_cursor(positions)

    def channels_of(self, connection: Connection) -> list[str]:
        """The channels that the connection is subscribed to or is being subscribed to."""
        return [*connection.channels, *self._pending.get(connection, ())]

    def leave(self, connection: Connection, channel: str) -> bool:
        """Unsubscribe the connection, or stop subscribing it. Returns whether it was subscribed."""
        was_on = channel in connection.channels
        self._hub.unsubscribe(connection, channel)
        if (followed := self._followed.get(channel)) is not None:
            if (pending := followed.joining.get(connection)) is not None:
                was_on = was_on or pending.was_on
                self._forget(pending)
            self._idle(followed)
        return was_on

    def _enter(
        self,
        connection: Connection,
        followed: _Followed,
        since: Position | None = None,
        *,
        replay: bool = False,
        request_id: RequestId | None = None,
        on_joined: Callable[[], object] | None = None,
    ) -> _Pending:
        before = followed.joining.get(connection)
        if before is not None:
            self._forget(before)
        pending = _Pending(connection, followed, since, replay=replay, request_id=request_id, on_joined=on_joined)
        followed.joining[connection] = pending
        self._pending.setdefault(connection, {})[followed.name] = pending
        return pending

    def _arrive(self, pending: _Pending) -> None:
        """From here on the connection gets what comes as everybody else does."""
        followed = pending.followed
        self._hub.subscribe(pending.connection, followed.name)
        followed.idle_since = None
        self._forget(pending)
        if pending.on_joined is not None:
            pending.on_joined()

    def _forget(self, pending: _Pending) -> None:
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
        self._idle(followed)

    def _try_again(self, pending: _Pending, *, now: bool = False) -> None:
        """Have the rest of the subscription done as soon as the log answers; `now`: it is expected to."""
        if not self._tasks:
            self._forget(pending)  # this replica is stopping
            return
        pending.task = asyncio.create_task(self._retry(pending, now=now), name="channels-join")
        self._retries.add(pending.task)
        pending.task.add_done_callback(self._retries.discard)

    async def _retry(self, pending: _Pending, *, now: bool) -> None:
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

    async def _attempt(self, pending: _Pending) -> None:
        """Do what is left of the subscription. After a failure this goes on where it has failed."""
        sequence = await self._positioned(pending.followed)
        if pending.told is None:
            await self._tell_first(pending, sequence)
        missed = await self._meet(pending, sequence)
        if not pending.is_over:
            for publication in missed:
                self._hub.send(pending.connection, *self._event(publication))
        if not pending.is_over:  # as a client is that could not take the last of it
            self._arrive(pending)

    def _follow(self, channel: str) -> _Followed:
        followed = self._followed.get(channel)
        if followed is None or self._is_stale(followed):
            followed = self._followed[channel] = _Followed(channel, asyncio.get_running_loop().time())
        return followed

    def _is_stale(self, followed: _Followed) -> bool:
        """A user's channel whose last connection was dropped: others have not published here since."""
        return followed.is_users and not followed.joining and not self._hub.subscribers(followed.name)

    def _idle(self, followed: _Followed) -> None:
        """Nobody may listen any more. A user's channel is left at once, others a while later: people come back."""
        if followed.joining or self._hub.subscribers(followed.name):
            return
        if followed.is_users:
            # Others do not publish to a user who is not here: the position would only grow old.
            self._followed.pop(followed.name, None)
        else:
            followed.idle_since = asyncio.get_running_loop().time()

    async def _positioned(self, followed: _Followed) -> Sequence:
        """Find out where the channel stands, and listen to it from there on."""
        if followed.sequence is None:
            if not followed.is_users:
                await self._bus.follow(followed.name)
            opened = await self._reads.read(ReadRequest(followed.name))
            self._begin(followed, opened.position)
        assert followed.sequence is not None  # noqa: S101 - begun above
        return followed.sequence

    def _begin(self, followed: _Followed, position: Position) -> None:
        """Follow the channel from where it stands; or from before what the bus has brought since it was asked for."""
        if followed.sequence is not None:
            return
        early, followed.early = followed.early, []
        first = early[0].position if early else None
        if first is not None and first.epoch == position.epoch and first.offset <= position.offset:
            position = _before(first)
        followed.sequence = Sequence(position)
        for publication in early:
            self._accept(followed, publication)

    async def _tell_first(self, pending: _Pending, sequence: Sequence) -> None:
        """Tell `subscribed` and what belongs to it."""
        options = self._namespaces.of(pending.followed.name)
        if options.run:
            await self._tell_state(pending)
        elif pending.since is None and not (pending.replay or options.replay):
            first = pending.held[0].position if pending.held else None  # it came while the client waited
            position = sequence.position if first is None else _before(first)
            self._tell_subscribed(pending, position, recovered=False)
        else:
            await self._catch_up(pending)

    async def _tell_state(self, pending: _Pending) -> None:
        """A run's viewer gets the latest state, and from that very moment on its progress."""
        channel = pending.followed.name
        opened = await self._reads.read(ReadRequest(channel, with_run=True))
        self._tell_subscribed(pending, opened.position, recovered=True)
        self._hub.send(pending.connection, _initial_state(opened.run), format_cursor({channel: opened.position}))

    async def _catch_up(self, pending: _Pending) -> None:
        """Tell the first page of what the client has missed."""
        since = pending.since
        opened = await self._reads.read(
            ReadRequest(pending.followed.name, after=since, replay=since is None, limit=self._settings.page)
        )
        self._tell_subscribed(pending, opened.start, recovered=since is not None and opened.complete)
        await self._tell_all(pending, opened.publications)

    async def _meet(self, pending: _Pending, sequence: Sequence) -> list[Publication]:
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
            if not _has_reached(sequence.position, last):
                await self._repair([followed])  # the log was read further than the bus has brought it yet
            missed = [each for each in pending.held if each.position is not None and _is_after(each.position, last)]
            if _has_reached(sequence.position, last) and len(missed) == sequence.position.offset - last.offset:
                if sum(map(_size, missed)) <= SLICE_BYTES:
                    return missed
                await self._tell_all(pending, missed)
            else:
                await self._read_on(pending, last)

    async def _read_on(self, pending: _Pending, last: Position) -> None:
        """Tell the next page after `last`."""
        opened = await self._reads.read(ReadRequest(pending.followed.name, after=last, limit=self._settings.page))
        if not opened.complete:
            # What was next has been trimmed while the client read the page before, or the log has begun anew.
            if self._namespaces.of(pending.followed.name).run:
                await self._tell_state(pending)
                return
            self._tell_subscribed(pending, opened.start, recovered=False)
        await self._tell_all(pending, opened.publications)

    async def _tell_all(self, pending: _Pending, publications: Iterable[Publication]) -> None:
        """Tell publications as fast as the client reads them."""
        for publication in publications:
            await self._let_read(pending.connection)
            if pending.is_over:
                return
            self._hub.send(pending.connection, *self._event(publication))
            pending.told = publication.position or pending.told
            pending.connection.read_bytes += _size(publication)

    async def _let_read(self, connection: Connection) -> None:
        """Wait until the client has read nearly all that it was told, or is gone."""
        outbox = connection.outbox
        while not (outbox.is_drained or outbox.closed):  # noqa: ASYNC110 - the outbox has no events
            await asyncio.sleep(DRAIN_POLL_S)

    def _tell_subscribed(self, pending: _Pending, position: Position, *, recovered: bool) -> None:
        channel = pending.followed.name
        cursor = format_cursor({channel: position})
        # A run's viewer stands there only with the state, which follows.
        at = "" if self._namespaces.of(channel).run else cursor
        request_id, pending.request_id = pending.request_id, None
        subscribed = Subscribed(channel=channel, cursor=cursor, recovered=recovered, id=echo(request_id))
        self._hub.send(pending.connection, subscribed, at)
        pending.told = position

    # -- what comes

    def count(self, shared: int, own: int) -> None:
        """Take the number of a publication for a user: on the shared bus channel, or in this replica's own inbox."""
        if (shared and self._shared.misses_before(shared)) or (own and self._own.misses_before(own)):
            self._doubt_all()

    def follows(self, channel: str) -> bool:
        """True if what is published on the channel is of any interest here."""
        return channel in self._followed

    def receive(self, publication: Publication) -> None:
        """Take what the bus has brought, or what was appended here and published to nobody."""
        followed = self._followed.get(publication.channel)
        if followed is None:
            return
        if followed.sequence is None:
            if len(followed.early) < MOST_HELD:  # the heartbeat finds what does not fit
                followed.early.append(publication)
        else:
            self._accept(followed, publication)

    def doubt(self, channel: str) -> None:
        """An append was not answered, so it may have been made: look whether there is something to deliver."""
        if channel in self._followed:
            self._missing(channel)

    def lost_track(self) -> None:
        """The bus subscription began again: anything may have been missed."""
        self._shared.last = self._own.last = None
        self._doubt_all()

    def _doubt_all(self) -> None:
        self._unsure = True
        self._repair_due.set()

    def _accept(self, followed: _Followed, publication: Publication) -> None:
        assert followed.sequence is not None  # noqa: S101 - the callers have looked
        accepted = followed.sequence.accept(publication)
        if isinstance(accepted, Missing):
            self._missing(followed.name)
        else:
            self._deliver(followed, accepted)

    def _deliver(self, followed: _Followed, publications: list[Publication]) -> None:
        for publication in publications:
            self._hub.deliver(followed.name, *self._event(publication))
            for pending in followed.joining.values():
                pending.held.append(publication)

    def _event(self, publication: Publication) -> tuple[Event, str | None]:
        """What subscribers are told of a publication, and where they stand then, if that does not say so."""
        if not self._namespaces.of(publication.channel).run:
            return Message.of(publication), None
        progress = msgspec.json.decode(publication.data, type=RunProgress)
        event = Progress(
            run_id=publication.channel.partition(":")[2],
            state=progress.state,
            progress=progress.progress,
            message=progress.message,
        )
        position = publication.position
        return event, None if position is None else format_cursor({publication.channel: position})

    # -- repairing

    def _missing(self, channel: str) -> None:
        self._behind[channel] = None
        self._repair_due.set()

    async def _repair_loop(self) -> None:
        while True:
            await self._repair_due.wait()
            self._repair_due.clear()
            try:
                await self._repair_all()
            except BusUnavailable as error:
                logger.info("the log cannot be read (%s); retrying with the next heartbeat", error)
            except Exception:
                logger.exception("repairing a gap failed with an unexpected error; retrying with the next heartbeat")

    async def _repair_all(self) -> None:
        if self._unsure:
            self._unsure = False
            try:
                await self._look([followed for followed in self._followed.values() if followed.sequence is not None])
            except BaseException:
                self._unsure = True
                raise
        while self._behind:
            names = list(self._behind)[:REPAIR_BATCH]
            for name in names:  # before the repair: what turns out to be missing during it is noted again
                del self._behind[name]
            try:
                behind = [self._followed[name] for name in names if name in self._followed]
                await self._repair([each for each in behind if each.sequence is not None])
            except BaseException:
                self._behind.update(dict.fromkeys(names))
                raise

    async def _look(self, followed: list[_Followed]) -> None:
        """Compare where channels stand with the log, and note those that are behind it."""
        await self._compare(followed, self._note_if_behind)

    def _note_if_behind(self, each: _Followed, top: Position | None) -> None:
        if each.sequence is not None and _is_behind(each.sequence.position, top):
            self._behind[each.name] = None

    async def _compare(
        self, followed: list[_Followed], compare: Callable[[_Followed, Position | None], object]
    ) -> None:
        """Call `compare` with where each of these channels stands in the log.

        Some at a time: many of them hold up neither Redis nor the loop.
        """
        for i in range(0, len(followed), LOOK_BATCH):
            some = followed[i : i + LOOK_BATCH]
            before = [None if each.sequence is None else each.sequence.position for each in some]
            tops = await self._log.tops([each.name for each in some])
            for each, position, top in zip(some, before, tops, strict=True):
                if position is not None and top is not None and _is_after(position, top):
                    self._missing(each.name)  # the log went back: where it stands now is before what it has given
                compare(each, top)

    async def _repair(self, followed: list[_Followed]) -> None:
        """Read what is missing from the log and hand it out, as fast as those who listen read it.

        A client that does not read in time costs the others nothing: it catches up by itself.
        """
        asked = [each.sequence.position for each in followed if each.sequence is not None]
        requests = [
            ReadRequest(
                each.name,
                after=position,
                limit=self._settings.page,
                with_run=self._namespaces.of(each.name).run,
                is_own=True,
            )
            for each, position in zip(followed, asked, strict=True)
        ]
        opened = await self._log.read(requests)
        pages = []
        for each, position, read in zip(followed, asked, opened, strict=True):
            begins = self._repair_from(each, position, read)
            if begins is not None:
                pages.append(_Page(each, read, begins))
        pages = [page for page in pages if self._hand_out(page)]
        while pages:
            is_blocked = any(page.blocked_since is not None for page in pages)
            await asyncio.sleep(DRAIN_POLL_S if is_blocked else 0)
            pages = [page for page in pages if self._hand_out(page)]

    def _repair_from(self, followed: _Followed, asked: Position, opened: ReadResult) -> Position | None:
        """Where what was read after `asked` goes on; None if it is not about what is missing any more."""
        sequence = followed.sequence
        assert sequence is not None  # noqa: S101 - what has no position is not repaired
        if opened.complete:
            return sequence.position
        if sequence.position != asked:
            self._missing(followed.name)  # somebody else was faster
            return None
        begins = self._say_where_it_goes_on(followed, opened)
        self._deliver(followed, sequence.restart(begins))
        self._telemetry.unfilled_gaps += 1
        about = {"channel": followed.name}
        logger.warning(
            "gap not filled: publications after %s may be lost; continuing at %s", asked, begins, extra=about
        )
        return begins

    def _hand_out(self, page: _Page) -> bool:
        """Hand out the next slice of the page, or wait for those who do not read; returns whether there is more."""
        followed = page.followed
        slow = [each for each in self._hub.subscribers(followed.name) if not each.outbox.is_drained]
        if slow and page.publications:
            now = asyncio.get_running_loop().time()
            if page.blocked_since is None:
                page.blocked_since = now
            if now - page.blocked_since < PATIENCE_S:
                return True
            for connection in slow:
                self._set_aside(followed, connection)
        page.blocked_since = None
        sequence = followed.sequence
        assert sequence is not None  # noqa: S101 - what has no position is not repaired
        ready = sequence.fill(_slice(page.publications), over_gaps=not page.opened.complete)
        self._deliver(followed, ready)
        if page.publications:
            return True
        before, now_at = page.repaired_from, sequence.position
        if now_at != before:
            self._telemetry.repairs += 1
            about = {"channel": followed.name}
            logger.info(
                "repaired a gap: offsets %d to %d of epoch %s",
                before.offset + 1,
                now_at.offset,
                now_at.epoch,
                extra=about,
            )
            if sequence.has_gap or now_at.offset < page.opened.position.offset:
                self._missing(followed.name)
        return False

    def _set_aside(self, followed: _Followed, connection: Connection) -> None:
        """Have the connection read on at its own pace, from where it stands, until it has caught up."""
        pending = self._enter(connection, followed)
        pending.was_on = True
        if followed.sequence is not None:
            pending.told = followed.sequence.position
        self._hub.unsubscribe(connection, followed.name)
        if not pending.is_over:
            self._try_again(pending, now=True)

    def _say_where_it_goes_on(self, followed: _Followed, opened: ReadResult) -> Position:
        """A hole that cannot be filled is said aloud, to everyone who listens. Returns behind what it goes on.

        A run's viewers get its state anew, which holds all that has come.
        """
        run = self._namespaces.of(followed.name).run
        position = opened.position if run else opened.start
        cursor = format_cursor({followed.name: position})
        subscribed = Subscribed(channel=followed.name, cursor=cursor, recovered=False)
        self._hub.deliver(followed.name, subscribed, "" if run else cursor)
        if run:
            self._hub.deliver(followed.name, _initial_state(opened.run), cursor)
        return position

    # -- the heartbeat

    async def _heartbeat_loop(self) -> None:
        while True:
            await asyncio.sleep(self._settings.heartbeat_s)
            try:
                await self._beat()
            except BusUnavailable as error:
                logger.debug("heartbeat failed, retrying: %s", error)
            except Exception:
                logger.exception("heartbeat failed with an unexpected error; retrying")

    async def _beat(self) -> None:
        """Look for lost last messages, twice in a row: what was on its way at the first look has come by the next.

        For users that is done at every beat by their common counter. One by one, more rarely: that
        finds what was not published, as a replica did not know that the user is here (a lease was lost).
        """
        self._beats += 1
        users_too = self._beats % USERS_EVERY == 0
        if users_too:
            self._find_idle()
        await self._leave_idle()
        if self._unsure or self._behind:
            self._repair_due.set()
        looked_at = [
            each for each in self._followed.values() if (users_too or not each.is_users) and each.sequence is not None
        ]
        await self._compare(looked_at, self._note_if_lost)
        await self._beat_for_users()
        answered, self._log_answered = self._log_answered, asyncio.Event()
        answered.set()
        await self._keep_places()

    async def _keep_places(self) -> None:
        """Keep the places of channels that are listened to and on which nothing was published yet.

        Such a place outlives its listeners by as long as they have listened, so that a client that comes back finds
        it. So what a client can have kept by reading alone is in proportion to what it holds.
        """
        now = asyncio.get_running_loop().time()
        if now < self._listen_at:
            return
        self._listen_at = now + LISTEN_EVERY_S
        quiet = [each for each in self._followed.values() if each.sequence and each.sequence.position.offset == 0]
        for i in range(0, len(quiet), LOOK_BATCH):
            some = quiet[i : i + LOOK_BATCH]
            await self._log.listen({each.name: min(max(READ_TTL_S, now - each.since), META_TTL_S) for each in some})

    def _note_if_lost(self, each: _Followed, top: Position | None) -> None:
        """A log that is gone shows at the first look: the repair begins one anew, which looks sound at the next."""
        position = None if each.sequence is None else each.sequence.position
        is_gone = top is None
        was_ahead = each.seen_top is not None and position is not None and _is_behind(position, each.seen_top)
        if is_gone or was_ahead:
            self._missing(each.name)
        each.seen_top = top

    async def _beat_for_users(self) -> None:
        """The same for all users at once: the bus's own counters tell whether it has brought everything."""
        shared_before, own_before = self._shared.last, self._own.last
        counted = await self._log.bus_sequences()
        behind = self._shared.is_behind(shared_before, counted.shared)
        if self._own.is_behind(own_before, counted.own) or behind:
            self._doubt_all()

    def _find_idle(self) -> None:
        """The last connection of a channel may have been dropped without a word."""
        for followed in list(self._followed.values()):
            if followed.idle_since is None:
                self._idle(followed)

    async def _leave_idle(self) -> None:
        now = asyncio.get_running_loop().time()
        for followed in [each for each in self._followed.values() if each.idle_since is not None]:
            idle = (
                followed.idle_since is not None and not followed.joining and not self._hub.subscribers(followed.name)
            )
            if idle and now - (followed.idle_since or now) >= self._settings.linger_s:
                del self._followed[followed.name]
                await self._bus.unfollow(followed.name)


def _initial_state(run: RunState | None) -> InitialState:
    """What the viewers of a run get first; of one that nobody has heard of, that it has not begun."""
    if run is None:
        return InitialState(state=None, progress=0, logs=[])
    return InitialState(state=run.state, progress=run.progress, logs=run.logs)


def _before(position: Position) -> Position:
    """Where one stands that is to be told next what stands at `position`."""
    return Position(position.epoch, position.offset - 1)


def _size(publication: Publication) -> int:
    """Bytes that a publication takes in an outbox, roughly."""
    return len(publication.data) + FRAME_OVERHEAD_BYTES


def _slice(publications: deque[Publication]) -> list[Publication]:
    """Take the first of them: one at least, and no more than SLICE_BYTES."""
    taken: list[Publication] = []
    size = 0
    while publications and (not taken or size + _size(publications[0]) <= SLICE_BYTES):
        publication = publications.popleft()
        size += _size(publication)
        taken.append(publication)
    return taken


def _is_behind(position: Position, top: Position | None) -> bool:
    return top is None or position.epoch != top.epoch or position.offset < top.offset


def _has_reached(position: Position, other: Position) -> bool:
    return position.epoch == other.epoch and position.offset >= other.offset


def _is_after(position: Position, other: Position) -> bool:
    return position.epoch == other.epoch and position.offset > other.offset
