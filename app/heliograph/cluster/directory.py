"""Which replicas hold which user: this replica's entries, kept true under its lease.

One task writes entries as absolute counts, many users in one command. A write that failed stays due. A new lease with
all entries replaces a lost one. The remaining replicas reap the leases of dead ones. So nothing here needs Redis to
be available all the time.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

from heliograph.clock import Clock
from heliograph.errors import BusUnavailable
from heliograph.ports import DirectoryBackend, ReplicaInfo, lease_name
from heliograph.settings import DirectorySettings
from heliograph.tasks import end

logger = logging.getLogger(__name__)

AFTER_ERROR_S = 0.5


class UserHub(Protocol):
    """The hub's users, or those of them that belong to one shard: see `Hub`."""

    def user_ids(self) -> Iterator[str]: ...
    def count(self, user_id: str, /) -> int: ...


class Directory:
    """This replica's part in the cluster-wide record of connected users."""

    def __init__(
        self,
        backend: DirectoryBackend,
        hub: UserHub,
        *,
        node_id: str,
        settings: DirectorySettings,
        clock: Clock,
    ) -> None:
        self._backend = backend
        self._hub = hub
        self._node_id = node_id
        self._settings = settings
        self._clock = clock
        self._describe: Callable[[], ReplicaInfo]
        self._generation = 0  # of the lease: a lease that was reaped never comes back under its name
        self.lease = lease_name(node_id, self._generation)  # the name under which this replica's entries are
        self._taken = False  # the backend has the current lease, as far as we know
        self._due: dict[str, list[asyncio.Future[int | None]]] = {}  # user -> callers that wait for the entry
        self._work = asyncio.Event()  # an entry is due
        self._suspects: dict[str, float] = {}  # expired leases of others -> when we noticed
        self._dead: asyncio.Queue[str] = asyncio.Queue()  # leases to be reaped
        self._tasks: list[asyncio.Task[None]] = []
        self._new_lease_hooks: list[Callable[[], None]] = []
        self._reap_hooks: list[Callable[[str], Awaitable[None]]] = []

    async def start(self, describe: Callable[[], ReplicaInfo]) -> None:
        """Take the lease and keep it. Without Redis, retry in the background until that succeeds.

        `describe` returns the replica's report for each renewal.
        """
        if self._tasks:
            return
        self._describe = describe
        self._enter_all()
        await self._renew()
        self._tasks = [
            asyncio.create_task(_for_ever(self._renew_loop), name="directory-renew"),
            asyncio.create_task(_for_ever(self._write_loop), name="directory-write"),
            asyncio.create_task(_for_ever(self._reap_loop), name="directory-reap"),
        ]

    async def stop(self) -> None:
        """Remove the lease and all entries at once, so that other replicas need not wait for the expiry."""
        if not self._tasks:
            return
        tasks, self._tasks = self._tasks, []
        await end(tasks)
        _resolve(self._due, None)
        self._due.clear()
        try:
            await self._reap(self.lease)
        except BusUnavailable as error:
            logger.info("lease not released; it expires by itself: %s", error)
        self._new_lease()

    async def hold(self, user_id: str) -> int | None:
        """Write how many connections the user has here now, and wait until Redis has it.

        Return how many they have in the whole cluster; None if that is unknown (no Redis): then the entry stays due,
        and is written as soon as there is a Redis.
        """
        waiters = self._due.setdefault(user_id, [])
        if not self._taken:
            return None
        waiter: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        waiters.append(waiter)
        self._work.set()
        return await waiter

    def release(self, user_id: str) -> None:
        """Write how many connections the user still has here, without waiting."""
        self._due.setdefault(user_id, [])
        self._work.set()

    def on_new_lease(self, hook: Callable[[], None]) -> None:
        """Call `hook` when a new lease begins: entries under the old one must be written again."""
        self._new_lease_hooks.append(hook)

    def on_reap(self, hook: Callable[[str], Awaitable[None]]) -> None:
        """Call `hook(lease)` to forget other entries under a lease that is being reaped."""
        self._reap_hooks.append(hook)

    async def renew_now(self) -> None:
        """Report a change of this replica at once."""
        await self._renew()

    async def replicas(self) -> list[ReplicaInfo]:
        """Return the replicas of the cluster with a live lease.

        Raises:
            BusUnavailable: Redis cannot be reached.
        """
        return await self._backend.replicas()

    # -- the lease

    async def _renew_loop(self) -> None:
        while True:
            await asyncio.sleep(self._settings.renew_interval_s)
            await self._renew()

    async def _renew(self) -> None:
        try:
            if not self._taken:
                await self._backend.take(self.lease, self._describe(), self._settings.lease_ttl_s)
                self._taken = True
            renewal = await self._backend.renew(self.lease, self._describe(), self._settings.lease_ttl_s)
        except BusUnavailable as error:
            # No replica could renew meanwhile: those that look dead get a new chance.
            self._suspects.clear()
            logger.debug("lease not renewed, retrying: %s", error)
            return
        if not renewal.held:
            self._lost_lease()
            return
        self._suspect(renewal.expired)
        if self._due:
            self._work.set()

    def _suspect(self, expired: tuple[str, ...]) -> None:
        """Queue the leases that have been expired for the grace time for reaping."""
        now = self._clock.monotonic()
        self._suspects = {lease: self._suspects.get(lease, now) for lease in expired if lease != self.lease}
        for lease, since in list(self._suspects.items()):
            if now - since >= self._settings.reap_grace_s:
                del self._suspects[lease]
                self._dead.put_nowait(lease)

    async def _reap_loop(self) -> None:
        while True:
            lease = await self._dead.get()
            try:
                users = await self._reap(lease)
            except BusUnavailable as error:
                logger.info("lease %s not reaped, retrying: %s", lease, error)
            else:
                logger.warning("lease %s expired: a replica is gone; removed the %d users it held", lease, users)

    async def _reap(self, lease: str) -> int:
        await self._backend.doom(lease)
        for hook in self._reap_hooks:
            await hook(lease)
        return await self._backend.reap(lease)

    def _lost_lease(self) -> None:
        """Write everything again: others have reaped this replica's lease, or Redis has lost its data."""
        logger.warning("lease %s is lost; registering all users again under a new lease", self.lease)
        self._new_lease()
        self._enter_all()

    def _enter_all(self) -> None:
        for user_id in self._hub.user_ids():
            self._due.setdefault(user_id, [])
        for hook in self._new_lease_hooks:
            hook()

    def _new_lease(self) -> None:
        self._generation += 1
        self.lease = lease_name(self._node_id, self._generation)
        self._taken = False

    # -- the entries

    async def _write_loop(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            if self._taken and self._due:
                await self._write()

    async def _write(self) -> None:
        """Write all due entries in one go. Entries that fail are due again."""
        due, self._due = self._due, {}
        totals = None
        try:
            totals = await self._backend.hold(self.lease, {user_id: self._hub.count(user_id) for user_id in due})
            if totals is None:
                self._lost_lease()
        except BusUnavailable as error:
            logger.debug("%d entries not written, retrying: %s", len(due), error)
        finally:
            if totals is None:
                for user_id in due:
                    self._due.setdefault(user_id, [])
            _resolve(due, totals)


async def _for_ever(loop: Callable[[], Awaitable[None]]) -> None:
    """Run a loop that ends only by an unexpected error; log the error, and start again."""
    while True:
        try:
            await loop()
        except Exception:
            logger.exception("the directory writer failed with an unexpected error; continuing")
            await asyncio.sleep(AFTER_ERROR_S)


def _resolve(due: dict[str, list[asyncio.Future[int | None]]], totals: dict[str, int] | None) -> None:
    """Answer the callers that wait for these entries; without totals nothing was written."""
    for user_id, waiters in due.items():
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None if totals is None else totals[user_id])
