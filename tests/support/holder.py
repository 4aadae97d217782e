"""A replica as far as the directory sees it: a hub, and a directory that tells of it."""

from unittest.mock import Mock

from heliograph.clock import Clock, SystemClock
from heliograph.cluster.directory import Directory
from heliograph.codecs.plain.codec import PlainCodec
from heliograph.hub.connection import Connection
from heliograph.hub.frames import Encoding, Sink, payload_only
from heliograph.hub.hub import Hub
from heliograph.hub.outbox import FlushScheduler, Outbox
from heliograph.ports import DirectoryBackend, ReplicaInfo
from heliograph.settings import DirectorySettings
from heliograph.telemetry import Telemetry, Traffic
from tests.support.cancelling import end
from tests.support.replica_info import replica_info

ENCODING = Encoding(PlainCodec(8), payload_only, Traffic())
QUICK = DirectorySettings(lease_ttl_s=0.3, renew_interval_s=0.03, reap_grace_s=0.1)
BY_HAND = DirectorySettings(lease_ttl_s=2.0, renew_interval_s=1_000.0, reap_grace_s=1.0)  # for a ManualClock


class Holder:
    """`name` is also the beginning of its leases' names."""

    def __init__(
        self,
        backend: DirectoryBackend,
        name: str = "a",
        settings: DirectorySettings = QUICK,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.described = 0  # how often the directory has asked, which it does for each renewal
        self._flush_scheduler = FlushScheduler(lambda callback: None)
        self.hub = Hub(Telemetry(), self._flush_scheduler)
        self.directory = Directory(backend, self.hub, node_id=name, settings=settings, clock=clock or SystemClock())

    async def start(self) -> None:
        await self.directory.start(self.describe)

    def describe(self) -> ReplicaInfo:
        self.described += 1
        return replica_info(self.name, connections=self.hub.connections, users=self.hub.users)

    def add(self, user: str) -> None:
        """One more connection, of which the directory has not been told."""
        # The directory only counts connections: it looks at neither how they encode nor where they write.
        outbox = Outbox(Mock(spec=Sink), self._flush_scheduler, 1)
        self.hub.add(Connection(f"of-{user}", user, ENCODING, outbox))

    async def connect(self, user: str) -> int | None:
        """One more connection; how many the user then has everywhere, as the directory says."""
        self.add(user)
        return await self.directory.hold(user)

    def disconnect(self, user: str) -> None:
        """One connection less."""
        self.hub.remove(next(connection for connection in self.hub if connection.user == user))
        self.directory.release(user)

    async def crash(self) -> None:
        """End as a process that is killed: nothing is taken back."""
        tasks, self.directory._tasks = self.directory._tasks, []
        await end(*tasks)
