"""The channels of this replica: following, joining and repair, put together."""

from heliograph.cluster.following import Following
from heliograph.cluster.gap_watch import GapWatch
from heliograph.cluster.gaps import Gaps
from heliograph.cluster.joining import Joining
from heliograph.cluster.read_batcher import ReadBatcher
from heliograph.cluster.repair import Repair
from heliograph.hub.hub import Hub
from heliograph.ports import LogReader, Subscriptions
from heliograph.protocol.namespace import Namespaces
from heliograph.settings import ChannelSettings
from heliograph.telemetry import Telemetry


class Channels:
    """The parts that follow channels for this replica's connections, and their lifecycle.

    `following` takes publications, `joining` subscribes and unsubscribes connections. They can read the log and
    listen to the bus, and write to neither: see `remote_delivery.py`.
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
        gaps = Gaps()
        self._reads = ReadBatcher(log)
        self.following = Following(hub, bus, self._reads, gaps, namespaces)
        repair = Repair(hub, log, self.following, gaps, telemetry, settings.page)
        self.joining = Joining(hub, self.following, repair, self._reads, namespaces, settings.page)
        self._watch = GapWatch(log, self.following, gaps, repair, self.joining, settings)

    def start(self) -> None:
        self._reads.start()
        self.joining.start()
        self._watch.start()

    async def stop(self) -> None:
        await self._watch.stop()
        await self.joining.stop()
        await self._reads.stop()
