"""Looks for gaps: at once after a doubt, and periodically, because nothing announces a lost last message.

Three things make a replica look: a publication that comes too early, a new subscription to the bus, and a heartbeat
that finds the log ahead.
"""

import asyncio
import logging
from collections.abc import Callable

from heliograph.cluster.followed import Followed, is_after, is_behind
from heliograph.cluster.following import Following
from heliograph.cluster.gaps import Gaps
from heliograph.cluster.joining import Joining
from heliograph.cluster.repair import Repair
from heliograph.errors import BusUnavailable
from heliograph.ports import META_TTL_S, READ_TTL_S, LogReader
from heliograph.protocol.position import Position
from heliograph.settings import ChannelSettings
from heliograph.tasks import end

logger = logging.getLogger(__name__)

LOOK_BATCH = 200  # channels compared with the log in one go
REPAIR_BATCH = 50  # channels repaired in one round trip: each may bring a page
LISTEN_EVERY_S = READ_TTL_S / 3  # how often the positions of channels without publications are kept
USERS_EVERY = 5  # heartbeats: how often users' channels are compared with the log one by one


class GapWatch:
    """Two tasks: one repairs noted gaps, the other is the heartbeat that compares channels with the log."""

    def __init__(
        self,
        log: LogReader,
        following: Following,
        gaps: Gaps,
        repair: Repair,
        joining: Joining,
        settings: ChannelSettings,
    ) -> None:
        self._log = log
        self._following = following
        self._gaps = gaps
        self._repair = repair
        self._joining = joining
        self._settings = settings
        self._beats = 0
        self._listen_at = 0.0  # when to keep positions next; by the loop's clock
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._repair_loop(), name="channels-repair"),
                asyncio.create_task(self._heartbeat_loop(), name="channels-heartbeat"),
            ]

    async def stop(self) -> None:
        tasks, self._tasks = self._tasks, []
        await end(tasks)

    async def _repair_loop(self) -> None:
        while True:
            await self._gaps.due.wait()
            self._gaps.due.clear()
            try:
                await self._repair_all()
            except BusUnavailable as error:
                logger.info("the log cannot be read (%s); retrying with the next heartbeat", error)
            except Exception:
                logger.exception("repairing a gap failed with an unexpected error; retrying with the next heartbeat")

    async def _repair_all(self) -> None:
        if self._gaps.is_unsure:
            self._gaps.is_unsure = False
            try:
                await self._look([followed for followed in self._following.all() if followed.sequence is not None])
            except BaseException:
                self._gaps.is_unsure = True
                raise
        while self._gaps.behind:
            names = list(self._gaps.behind)[:REPAIR_BATCH]
            for name in names:  # before the repair: a gap that shows during it is noted again
                del self._gaps.behind[name]
            try:
                behind = [self._following.find(name) for name in names]
                await self._repair.fill(
                    [each for each in behind if each is not None and each.sequence is not None],
                    self._joining.set_aside,
                )
            except BaseException:
                self._gaps.behind.update(dict.fromkeys(names))
                raise

    async def _look(self, followed: list[Followed]) -> None:
        """Compare the positions of channels with the log, and note those that are behind."""
        await self._compare(followed, self._note_if_behind)

    def _note_if_behind(self, each: Followed, top: Position | None) -> None:
        if each.sequence is not None and is_behind(each.sequence.position, top):
            self._gaps.behind[each.name] = None

    async def _compare(
        self, followed: list[Followed], compare: Callable[[Followed, Position | None], object]
    ) -> None:
        """Call `compare` with the position of each of these channels in the log.

        Some at a time, so that many channels delay neither Redis nor the loop.
        """
        for i in range(0, len(followed), LOOK_BATCH):
            some = followed[i : i + LOOK_BATCH]
            before = [None if each.sequence is None else each.sequence.position for each in some]
            tops = await self._log.tops([each.name for each in some])
            for each, position, top in zip(some, before, tops, strict=True):
                if position is not None and top is not None and is_after(position, top):
                    self._gaps.note(each.name)  # the log went back to before a position that it had given
                compare(each, top)

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
            self._following.find_idle()
        await self._following.leave_idle(self._settings.linger_s)
        if self._gaps.is_unsure or self._gaps.behind:
            self._gaps.due.set()
        looked_at = [
            each for each in self._following.all() if (users_too or not each.is_users) and each.sequence is not None
        ]
        await self._compare(looked_at, self._note_if_lost)
        await self._beat_for_users()
        self._joining.retry()
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
        quiet = [each for each in self._following.all() if each.sequence and each.sequence.position.offset == 0]
        for i in range(0, len(quiet), LOOK_BATCH):
            some = quiet[i : i + LOOK_BATCH]
            await self._log.listen({each.name: min(max(READ_TTL_S, now - each.since), META_TTL_S) for each in some})

    def _note_if_lost(self, each: Followed, top: Position | None) -> None:
        """Note a log that is gone at the first look: the repair begins a new one, which looks sound at the next."""
        position = None if each.sequence is None else each.sequence.position
        is_gone = top is None
        was_ahead = each.seen_top is not None and position is not None and is_behind(position, each.seen_top)
        if is_gone or was_ahead:
            self._gaps.note(each.name)
        each.seen_top = top

    async def _beat_for_users(self) -> None:
        """Look for all users at once: the bus's counters show whether everything has arrived."""
        shared_before, own_before = self._following.shared.last, self._following.own.last
        counted = await self._log.bus_sequences()
        behind = self._following.shared.is_behind(shared_before, counted.shared)
        if self._following.own.is_behind(own_before, counted.own) or behind:
            self._gaps.doubt_all()
