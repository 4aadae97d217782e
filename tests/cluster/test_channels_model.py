"""Joining, leaving, failing, losing and reading slowly in any order, against what each client must have seen."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from heliograph.backends.memory.log import MemoryLog
from heliograph.clock import SystemClock
from heliograph.cluster.channels import Channels
from heliograph.codecs.plain.codec import PlainCodec
from heliograph.codecs.plain.cursor import parse_cursor
from heliograph.errors import BusUnavailable
from heliograph.hub.connection import Connection
from heliograph.hub.frames import Encoding, payload_only
from heliograph.hub.hub import Hub
from heliograph.hub.outbox import FlushScheduler, Outbox
from heliograph.ports import BusSequences, Draft, ReadRequest, ReadResult
from heliograph.protocol.channel_options import Namespace
from heliograph.protocol.namespace import Namespaces
from heliograph.protocol.position import Position
from heliograph.settings import ChannelSettings
from heliograph.telemetry import Telemetry, Traffic
from tests.support.members import RecordingSink
from tests.support.waiting import eventually

CHANNELS = ("#user", "room:1")
CLIENTS = 2
LARGE = "x" * 9_000  # a few of them fill a slice, some more an outbox
OPTIONS = {name: Namespace(history_size=1_000_000) for name in ("#", "room")}

Step = tuple[str, int, int]


class FailingLog:
    """The log in memory, which cannot be read while it `fails`."""

    def __init__(self) -> None:
        self.memory = MemoryLog(SystemClock())
        self.fails = False

    async def read(self, requests: Sequence[ReadRequest]) -> list[ReadResult]:
        return list(await self._answer(lambda: self.memory.read(requests)))

    async def tops(self, channels: Sequence[str]) -> list[Position | None]:
        return list(await self._answer(lambda: self.memory.tops(channels)))

    async def listen(self, channels: Mapping[str, float]) -> None:
        await self._answer(lambda: self.memory.listen(channels))

    async def bus_sequences(self) -> BusSequences:
        return BusSequences(*await self._answer(self.memory.bus_sequences))

    async def _answer(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        await asyncio.sleep(0)
        result = await ask()
        await asyncio.sleep(0)
        if self.fails:
            raise BusUnavailable("the log fails")
        return result


class Bus:
    def __init__(self) -> None:
        self.fails = False

    async def follow(self, channel: str) -> None:
        await asyncio.sleep(0)
        if self.fails:
            raise BusUnavailable("the bus fails")

    async def unfollow(self, channel: str) -> None: ...


class Client:
    """One client, which keeps its cursors from connection to connection."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.position: dict[str, int] = {}  # up to where it has seen everything
        self.wants: set[str] = set()
        self.faults: list[str] = []
        self._read = 0
        self.connect()

    def connect(self) -> None:
        self.sink = RecordingSink()
        world = self._world
        self.outbox = Outbox(self.sink, world.flush_scheduler, 1 << 20)
        encoding = Encoding(PlainCodec(32), payload_only, Traffic())
        self.connection = Connection("c", "user", encoding, self.outbox)
        world.hub.add(self.connection)
        self._read = 0
        self._subscribing: asyncio.Task[None] | None = None
        self._on: set[str] = set()

    def reconnect(self) -> None:
        """Come back with the cursors, as clients do."""
        wanted = [*self.wants]
        self.disconnect()
        for channel in wanted:
            self.join(channel, keep=True)

    def disconnect(self) -> None:
        """Nothing is wanted until it is asked for again."""
        for channel in self._world.channels.joining.channels_of(self.connection):
            self._world.channels.joining.leave(self.connection, channel)
        self._world.hub.remove(self.connection)
        for frames in self.sink.writes[self._read :]:
            self._take(frames)
        self.outbox.abandon()
        self.wants.clear()
        self.connect()

    def join(self, channel: str, *, keep: bool) -> None:
        if channel not in self.wants:
            self._read_all()
            self.wants.add(channel)
            joining = self._join(self.connection, self._subscribing, channel, keep=keep)
            self._subscribing = asyncio.create_task(joining)

    async def _join(
        self, connection: Connection, before: asyncio.Task[None] | None, channel: str, *, keep: bool
    ) -> None:
        """One after the other, as a driver does it."""
        if before is not None:
            await asyncio.wait([before])
        if connection is not self.connection or channel not in self.wants:
            return
        if channel in self._world.channels.joining.channels_of(connection):
            return
        self._read_all()
        since = None
        if channel in self.position:
            since = Position(self._world.epoch(channel), self.position[channel])
        try:
            await self._world.channels.joining.join(connection, channel, since, keep=keep)
        except BusUnavailable:
            if not keep and connection is self.connection:
                self.wants.discard(channel)

    def leave(self, channel: str) -> None:
        if channel in self.wants:
            self.wants.discard(channel)
            self._world.channels.joining.leave(self.connection, channel)
            self._read_all()
            self._on.discard(channel)

    def _read_all(self) -> None:
        """Whoever says something has read what was said before, so as to know where it stands."""
        self.outbox.resume()
        self.outbox.flush()
        self.look()

    def look(self) -> None:
        """Read what has come."""
        while self._read < len(self.sink.writes):
            self._read += 1
            self._take(self.sink.writes[self._read - 1])

    def _take(self, frames: list[bytes]) -> None:
        for frame in map(msgspec.json.decode, frames):
            channel, before = frame["channel"], self.position.get(frame["channel"])
            offset = parse_cursor(frame["cursor"])[channel].offset
            if frame["type"] == "subscribed":
                self._on.add(channel)
                if before is not None and (not frame["recovered"] or offset != before):
                    self.faults.append(f"{channel}: subscribed at {offset}, stood at {before}: {frame}")
            elif channel not in self._on:
                self.faults.append(f"{channel}: {offset} although it is not subscribed")
            elif offset != (before or 0) + 1:
                self.faults.append(f"{channel}: {offset} after {before}")
            self.position[channel] = offset


class World:
    def __init__(self) -> None:
        self.log, self.bus = FailingLog(), Bus()
        loop = asyncio.get_running_loop()
        self.flush_scheduler = FlushScheduler(loop.call_soon)
        self.hub = Hub(Telemetry(), self.flush_scheduler)
        pace = ChannelSettings(heartbeat_s=0.002, page=7)
        self.channels = Channels(self.hub, self.log, self.bus, Namespaces(OPTIONS), pace, Telemetry())
        self.loses = False
        self._number = 0
        self.clients = [Client(self) for _ in range(CLIENTS)]
        for client in self.clients:
            for channel in CHANNELS:
                client.join(channel, keep=True)

    def epoch(self, channel: str) -> str:
        return self.log.memory._channel(channel).epoch

    def top(self, channel: str) -> int:
        return self.log.memory._channel(channel).top

    def publish(self, channel: str, count: int) -> None:
        """It is kept, and the bus brings it, unless it loses it."""
        for _ in range(count):
            self._number += 1
            data = msgspec.Raw(msgspec.json.encode([self._number, LARGE]))
            draft = Draft(channel, data, str(self._number), "2026-01-01T00:00:00Z")
            appended = self.log.memory._append(draft, OPTIONS["room"])
            if not self.loses:
                self.channels.following.receive(draft.publication(appended.data, appended.position))

    async def do(self, step: Step) -> None:
        what, which, count = step
        client, channel = self.clients[which % CLIENTS], CHANNELS[which % len(CHANNELS)]
        match what:
            case "publish":
                self.publish(channel, count)
            case "join":
                client.join(channel, keep=True)
            case "subscribe":
                client.join(channel, keep=False)
            case "leave":
                client.leave(channel)
            case "reconnect":
                client.reconnect()
            case "go":
                client.disconnect()
            case "stall":
                client.outbox.pause(buffered=65_536)
            case "read":
                client.outbox.resume()
            case "log":
                self.log.fails = not self.log.fails
            case "bus":
                self.bus.fails = not self.bus.fails
            case "lose":
                self.loses = not self.loses
                if not self.loses:
                    self.channels.following.lost_track()
            case _:
                await asyncio.sleep(0.001 * count)
        for _ in range(1 + which % 4):  # a subscription has begun when the client hears of another
            await asyncio.sleep(0)
        for each in self.clients:
            each.look()

    async def heal(self) -> None:
        """Everything works again, and everybody reads: then everybody gets to the end of what they want."""
        self.log.fails = self.bus.fails = False
        if self.loses:
            await self.do(("lose", 0, 0))
        for client in self.clients:
            client.outbox.resume()
        await asyncio.sleep(0.01)
        for channel in CHANNELS:
            self.publish(channel, 1)

        def is_done() -> bool:
            for client in self.clients:
                client.look()
            return all(
                client.position.get(channel) == self.top(channel)
                and client.connection in self.hub.subscribers(channel)
                for client in self.clients
                for channel in client.wants
            )

        await eventually(is_done)


async def run(steps: list[Step]) -> None:
    world = World()
    world.channels.start()
    await asyncio.sleep(0)  # the clients have begun to subscribe
    try:
        for step in steps:
            await world.do(step)
        await world.heal()
        for client in world.clients:
            assert client.faults == []
            assert client.sink.closed is None
            wanted = {channel for channel in CHANNELS if client.connection in world.hub.subscribers(channel)}
            assert wanted == client.wants
        assert world.channels.joining._pending == {}
    finally:
        await world.channels.stop()


KINDS = ("publish", "join", "subscribe", "leave", "reconnect", "go", "stall", "read", "log", "bus", "lose", "rest")


# A user's only client comes back while a repair of its channel is under way.
@example(
    [
        ("lose", 7, 4),
        ("publish", 0, 1),
        ("publish", 2, 21),
        ("lose", 0, 1),
        ("lose", 7, 13),
        ("lose", 7, 1),
        ("go", 9, 1),
        ("publish", 0, 1),
        ("publish", 3, 24),
        ("reconnect", 0, 1),
    ]
)
@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 11), st.integers(1, 25)), max_size=30))
def test_nothing_is_missed_repeated_or_reordered(steps: list[Step]) -> None:
    """Fails if any interleaving loses a message in silence, or leaves a client off a channel that it asked for."""
    asyncio.run(run(steps))
