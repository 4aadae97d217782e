"""What counts as written of what a client has missed, when its socket is lost while it is sent that."""

import asyncio

import msgspec

from heliograph.backends.memory.log import MemoryLog
from heliograph.clock import SystemClock
from heliograph.cluster.channels import Channels
from heliograph.codecs.plain.codec import PlainCodec
from heliograph.hub.connection import Connection
from heliograph.hub.frames import Encoding, payload_only
from heliograph.hub.hub import Hub
from heliograph.hub.outbox import FlushScheduler, Outbox
from heliograph.hub.trace import NO_TRACE
from heliograph.hub.written import WrittenWatch
from heliograph.ports import Draft
from heliograph.protocol.channel_options import Namespace
from heliograph.protocol.namespace import Namespaces
from heliograph.protocol.position import Position
from heliograph.settings import ChannelSettings
from heliograph.telemetry import Telemetry
from tests.support.appending import append
from tests.support.members import RecordingSink
from tests.support.waiting import eventually

MISSED = 40
SIZE = 9000  # bytes of a message: a few of them are more than may wait while others follow


class NoBus:
    async def follow(self, channel: str) -> None: ...

    async def unfollow(self, channel: str) -> None: ...


async def test_a_socket_that_is_lost_while_its_client_catches_up() -> None:
    """Fails if the rest of what the client has missed counts as written, though it is offered to nobody."""
    watch, telemetry, log = WrittenWatch(NO_TRACE), Telemetry(), MemoryLog(SystemClock())
    flush_scheduler = FlushScheduler(asyncio.get_running_loop().call_soon)
    hub = Hub(telemetry, flush_scheduler, watch)
    channels = Channels(hub, log, NoBus(), Namespaces(), ChannelSettings(page=7), telemetry)
    for number in range(1, MISSED + 1):
        draft = Draft("#bob", msgspec.Raw(b'"%b"' % (b"x" * SIZE)), str(number), "now")
        epoch = (await append(log, draft, Namespace())).position.epoch
    outbox = Outbox(RecordingSink(), flush_scheduler, 1 << 20, watch)
    bob = Connection("c", "bob", Encoding(PlainCodec(8), payload_only, telemetry.traffic["websocket"]), outbox)
    hub.add(bob)
    channels.start()
    try:
        outbox.pause()
        joining = asyncio.create_task(channels.joining.join(bob, "#bob", Position(epoch, 0), keep=True))
        await eventually(lambda: not outbox.is_drained)
        assert outbox.waiting_bytes < MISSED * SIZE, "some is still to be sent"
        outbox.abandon()
        await eventually(lambda: not channels.joining._pending)
        joining.cancel()
        assert [each.up_to for each in watch.take(lambda _: [bob])] == [0], "what it had, as it says"
        hub.remove(bob)
        assert watch.take(lambda _: []) == []
    finally:
        await channels.stop()
