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

from app.backends.protocols import LogReader, Opened, Opening, Subscriptions
from app.cluster.openings import Openings
from app.errors import BusUnavailable
from app.hub.connection import Connection
from app.hub.hub import Hub
from app.protocol.events import Event, InitialState, Message, Progress, Subscribed
from app.protocol.identity import user_of
from app.protocol.namespace import Namespaces
from app.protocol.operations import RequestId
from app.protocol.position import Position, format_cursor
from app.protocol.publication import Publication
from app.protocol.run import RunProgress, RunState
from app.protocol.sequence import Missing, Sequence
from app.protocol.session import echo
from app.settings import ChannelSettings
from app.tasks import end
from app.telemetry import Telemetry

logger = logging.getLogger("heliograph.channels")

DRAINED_BYTES = 65_536  # a client that catches up gets the next page when no more than this waits for it
DRAIN_POLL_S = 0.01
MOST_HELD = 1024  # live publications kept for a connection that catches up; older ones it reads from the log
LOOK_BATCH = 200  # channels compared with the log in one go
REPAIR_BATCH = 50  # channels repaired in one round trip: each may bring a page
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

    __slots__ = ("early", "idle_since", "is_users", "joining", "name", "seen_top", "sequence")

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_users = user_of(name) is not None
        self.sequence: Sequence | None = None  # none until the log has said where the channel stands
        self.early: list[Publication] = []  # what the bus has brought before that
        self.joining: dict[Connection, deque[Publication]] = {}  # the latest that came while a connection catches up
        self.seen_top: Position | None = None  # where the log stood at the last heartbeat
        self.idle_since: float | None = None  # since when nobody here listens; monotonic seconds


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
        self._catching_up: dict[Connection, dict[str, Position]] = {}  # how far those have been told that are joining
        self._openings = Openings(log)
        self._behind: dict[str, None] = {}  # channels of which something is missing, in order
        self._unsure = False  # anything may be missing: look at all channels
        self._repair_due = asyncio.Event()
        self._shared = _Tally()  # of what the shared bus channel has brought
        self._own = _Tally()  # of what the inbox has
        self._beats = 0
        self._tasks: list[asyncio.Task[None]] = []

    # -- life

    def start(self) -> None:
        self._openings.start()
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._repair_loop(), name="channels-repair"),
                asyncio.create_task(self._heartbeat_loop(), name="channels-heartbeat"),
            ]

    async def stop(self) -> None:
        tasks, self._tasks = self._tasks, []
        await end(tasks)
        await self._openings.stop()

    # -- joining and leaving

    async def join(
        self,
        connection: Connection,
        channel: str,
        since: Position | None = None,
        *,
        replay: bool = False,
        request_id: RequestId | None = None,
    ) -> bool:
        """Subscribe the connection: it is told `subscribed`, then what it missed, then what comes, in order.

        `since`: where the client stands. `replay`: without that, everything that is kept. Returns False if it was
        taken off the channel meanwhile: it is not subscribed.

        Raises:
            BusUnavailable: the log or the bus cannot be reached; the connection is not subscribed.
        """
        followed = self._follow(channel)
        held = followed.joining[connection] = deque(maxlen=MOST_HELD)
        try:
            sequence = await self._positioned(followed)
            last = await self._tell_first(connection, channel, sequence, since, replay, request_id)
            missed = await self._meet(connection, followed, sequence, last, held)
        except BaseException:
            followed.joining.pop(connection, None)
            self._idle(followed)
            raise
        finally:
            self._catching_up.pop(connection, None)
        if followed.joining.pop(connection, None) is None:
            return False
        for publication in missed:
            self._hub.tell(connection, *self._event(publication))
        self._attach(connection, channel)
        return True

    async def listen(self, connection: Connection, channel: str) -> str:
        """Subscribe without a word to what comes; returns where that begins, as a cursor ('' if nobody can say).

        Where nobody can say, `subscribed` tells later where it has begun.
        """
        followed = self._follow(channel)
        self._attach(connection, channel)
        try:
            sequence = await self._positioned(followed)
        except BusUnavailable:
            return ""
        return format_cursor({channel: sequence.position})

    def cursor_of(self, connection: Connection) -> str:
        """Where the connection stands in all of its channels, after all that it has been told."""
        followed = {name: self._followed.get(name) for name in connection.channels}
        positions = {
            name: each.sequence.position for name, each in followed.items() if each is not None and each.sequence
        }
        return format_cursor({**positions, **self._catching_up.get(connection, {})})

    def _attach(self, connection: Connection, channel: str) -> None:
        self._hub.subscribe(connection, channel)
        self._follow(channel).idle_since = None

    def leave(self, connection: Connection, channel: str) -> None:
        """Unsubscribe the connection, or stop subscribing it."""
        self._hub.unsubscribe(connection, channel)
        if (followed := self._followed.get(channel)) is not None:
            followed.joining.pop(connection, None)
            self._idle(followed)

    def _follow(self, channel: str) -> _Followed:
        followed = self._followed.get(channel)
        if followed is None or self._is_stale(followed):
            followed = self._followed[channel] = _Followed(channel)
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
            opened = await self._openings.open(Opening(followed.name))
            self._begin(followed, opened.position)
        assert followed.sequence is not None  # noqa: S101 - begun above
        return followed.sequence

    def _begin(self, followed: _Followed, position: Position) -> None:
        if followed.sequence is None:
            followed.sequence = Sequence(position)
            early, followed.early = followed.early, []
            for publication in early:
                self._accept(followed, publication)

    async def _tell_first(
        self,
        connection: Connection,
        channel: str,
        sequence: Sequence,
        since: Position | None,
        replay: bool,
        request_id: RequestId | None,
    ) -> Position:
        """Tell `subscribed` and what belongs to it; returns where the client stands then."""
        options = self._namespaces.of(channel)
        if options.run:
            return await self._tell_state(connection, channel, request_id)
        if since is None and not (replay or options.replay):
            self._tell_subscribed(connection, channel, sequence.position, recovered=False, request_id=request_id)
            return sequence.position
        return await self._catch_up(connection, channel, since, request_id)

    async def _tell_state(self, connection: Connection, channel: str, request_id: RequestId | None) -> Position:
        """A run's viewer gets the latest state, and from that very moment on its progress."""
        opened = await self._openings.open(Opening(channel, with_run=True))
        self._tell_subscribed(connection, channel, opened.position, recovered=True, request_id=request_id)
        self._hub.tell(connection, _initial_state(opened.run), format_cursor({channel: opened.position}))
        return opened.position

    async def _catch_up(
        self, connection: Connection, channel: str, since: Position | None, request_id: RequestId | None
    ) -> Position:
        """Tell what the client has missed, page by page; returns up to where."""
        opened = await self._openings.open(
            Opening(channel, after=since, replay=since is None, limit=self._settings.page)
        )
        recovered = since is not None and opened.complete
        self._tell_subscribed(connection, channel, opened.start, recovered=recovered, request_id=request_id)
        return await self._tell_all(connection, opened.publications, opened.start)

    async def _meet(
        self,
        connection: Connection,
        followed: _Followed,
        sequence: Sequence,
        last: Position,
        held: deque[Publication],
    ) -> list[Publication]:
        """Bring the client, who stands at `last`, to where live publications go on.

        Returns those that it has not been told: they follow `last` without a hole and end where the channel stands.
        """
        while connection in followed.joining and not connection.outbox.closed:
            if not _has_reached(sequence.position, last):
                await self._repair([followed])  # the log was read further than the bus has brought it yet
            missed = [each for each in held if each.position is not None and _is_after(each.position, last)]
            if _has_reached(sequence.position, last) and len(missed) == sequence.position.offset - last.offset:
                if sum(len(each.data) for each in missed) <= DRAINED_BYTES:
                    return missed
                last = await self._tell_all(connection, missed, last)
            else:
                last = await self._read_on(connection, followed.name, last)
        return []

    async def _read_on(self, connection: Connection, channel: str, last: Position) -> Position:
        """Tell the next page after `last`; returns up to where."""
        opened = await self._openings.open(Opening(channel, after=last, limit=self._settings.page))
        if not opened.complete:
            # What was next has been trimmed while the client read the page before, or the log has begun anew.
            self._tell_subscribed(connection, channel, opened.start, recovered=False)
        return await self._tell_all(connection, opened.publications, opened.start)

    async def _tell_all(
        self, connection: Connection, publications: Iterable[Publication], last: Position
    ) -> Position:
        """Tell publications as fast as the client reads them; returns where the last of them stands."""
        for publication in publications:
            while connection.outbox.waiting_bytes > DRAINED_BYTES:  # noqa: ASYNC110 - the outbox has no events
                await asyncio.sleep(DRAIN_POLL_S)
            self._hub.tell(connection, *self._event(publication))
            last = publication.position or last
            self._catching_up[connection] = {publication.channel: last}
        return last

    def _tell_subscribed(
        self,
        connection: Connection,
        channel: str,
        position: Position,
        *,
        recovered: bool,
        request_id: RequestId | None = None,
    ) -> None:
        cursor = format_cursor({channel: position})
        # A run's viewer stands there only with the state, which follows.
        at = "" if self._namespaces.of(channel).run else cursor
        subscribed = Subscribed(channel=channel, cursor=cursor, recovered=recovered, id=echo(request_id))
        self._hub.tell(connection, subscribed, at)
        self._catching_up[connection] = {channel: position}

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
            for held in followed.joining.values():
                held.append(publication)

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
                logger.info("the log cannot be read (%s); trying again with the next heartbeat", error)
            except Exception:
                logger.exception("a repair failed; trying again with the next heartbeat")

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
                await self._repair([self._followed[name] for name in names if name in self._followed])
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
            for each, top in zip(some, await self._log.tops([each.name for each in some]), strict=True):
                compare(each, top)

    async def _repair(self, followed: list[_Followed]) -> None:
        """Read what is missing from the log and deliver it."""
        asked = [None if each.sequence is None else each.sequence.position for each in followed]
        openings = [
            Opening(each.name, after=position, limit=self._settings.page, with_run=self._namespaces.of(each.name).run)
            for each, position in zip(followed, asked, strict=True)
        ]
        for each, position, opened in zip(followed, asked, await self._log.open(openings), strict=True):
            self._repaired(each, position, opened)

    def _repaired(self, followed: _Followed, asked: Position | None, opened: Opened) -> None:
        """Go on with what was read from `asked` on."""
        if followed.sequence is None:
            self._begin(followed, opened.position)
            self._say_where_it_goes_on(followed, opened)
            return
        before = followed.sequence.position
        if not opened.complete:
            if before != asked:
                self._missing(followed.name)  # somebody else was faster: what was read is not about here any more
                return
            before = self._say_where_it_goes_on(followed, opened)
            self._deliver(followed, followed.sequence.restart(before))
            self._telemetry.unfilled_gaps += 1
            about = {"channel": followed.name}
            logger.warning("what followed %s may be lost; going on at %s", asked, before, extra=about)
        ready = followed.sequence.fill(opened.publications, over_gaps=not opened.complete)
        self._deliver(followed, ready)
        if not ready:
            return
        self._telemetry.repairs += 1
        now = followed.sequence.position
        about = {"channel": followed.name}
        logger.info("repaired %d to %d of epoch %s", before.offset + 1, now.offset, now.epoch, extra=about)
        if followed.sequence.has_gap or now.offset < opened.position.offset:
            self._missing(followed.name)

    def _say_where_it_goes_on(self, followed: _Followed, opened: Opened) -> Position:
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
                logger.debug("no heartbeat: %s", error)
            except Exception:
                logger.exception("a heartbeat failed")

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
        waiting = [followed.name for followed in self._followed.values() if followed.sequence is None]
        for name in waiting:
            if self._hub.subscribers(name):
                self._missing(name)
        looked_at = [
            each for each in self._followed.values() if (users_too or not each.is_users) and each.sequence is not None
        ]
        await self._compare(looked_at, self._note_if_lost)
        await self._beat_for_users()

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


def _is_behind(position: Position, top: Position | None) -> bool:
    return top is None or position.epoch != top.epoch or position.offset < top.offset


def _has_reached(position: Position, other: Position) -> bool:
    return position.epoch == other.epoch and position.offset >= other.offset


def _is_after(position: Position, other: Position) -> bool:
    return position.epoch == other.epoch and position.offset > other.offset
