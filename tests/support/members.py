"""Replicas without a server: all of a replica but its sockets, so that routing can be seen frame by frame."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from heliograph.application import Replica, build_replica
from heliograph.backends.redis import server
from heliograph.cluster.pubsub_manager import PubSubManager
from heliograph.codecs.plain.codec import PlainCodec
from heliograph.hub.connection import Connection
from heliograph.hub.frames import Encoding, payload_only
from heliograph.hub.outbox import Outbox
from heliograph.protocol.events import Connected
from heliograph.telemetry import Traffic
from tests.support.replicas import redis_of, settings_for
from tests.support.waiting import eventually

OUTBOX_BYTES = 1 << 20


@dataclass
class RecordingSink:
    """A socket that keeps what is written to it. `fails`: each write raises."""

    fails: bool = False
    writes: list[list[bytes]] = field(default_factory=list)
    closed: int | None = None
    reason: str = ""
    on_close: Callable[[], object] | None = None
    on_write: Callable[[list[bytes]], object] | None = None

    def write(self, frames: list[bytes]) -> None:
        if self.fails:
            raise ConnectionResetError("this socket is broken")
        self.writes.append(frames)
        if self.on_write is not None:
            self.on_write(frames)

    def close(self, code: int, reason: str) -> None:
        assert self.closed is None, "closed twice"
        self.closed, self.reason = code, reason
        if self.on_close is not None:
            self.on_close()

    @property
    def frames(self) -> list[dict[str, Any]]:
        return [json.loads(frame) for write in self.writes for frame in write]


class Device:
    """One connection of a user, with a `RecordingSink` for a socket."""

    def __init__(self, member: "Member", user: str, *, fails: bool = False, outbox_bytes: int = OUTBOX_BYTES) -> None:
        self.sink = RecordingSink(fails=fails)
        self.outbox = Outbox(self.sink, member.flush_scheduler, outbox_bytes)
        self.connection = Connection(
            f"device-of-{user}", user, member.encoding, self.outbox, on_dropped=member.replica.manager.disconnect
        )
        self._member = member

    def greet(self) -> None:
        """What the transport does when `connect` has returned."""
        member = self._member.replica.node.name
        self.connection.open(
            Connected(user=self.connection.user, session="s", replica=member, positions={}, ping_s=25)
        )

    @property
    def got(self) -> list[Any]:
        """The data of every message so far."""
        return [frame["data"] for frame in self.sink.frames if frame["type"] == "message"]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Every frame of a type so far."""
        return [frame for frame in self.sink.frames if frame["type"] == kind]


class Member:
    """A replica that has joined the cluster and serves no sockets."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.flush_scheduler = replica.flush_scheduler
        self.encoding = Encoding(PlainCodec(32), payload_only, Traffic())
        self.send = replica.manager.send_message

    @property
    def redis(self) -> server.RedisServer:
        """The Redis that it shares with the others."""
        return redis_of(self.replica)

    @property
    def bus(self) -> PubSubManager:
        """Its bus over Redis."""
        assert isinstance(self.replica.bus, PubSubManager)
        return self.replica.bus

    async def connect(self, user: str, **options: Any) -> Device:
        """Connect a device as the transport does: register, then greet."""
        device = Device(self, user, **options)
        device.outbox.hold()
        await self.replica.manager.connect(device.connection)
        device.greet()
        return device

    def disconnect(self, device: Device) -> None:
        self.replica.manager.disconnect(device.connection)

    async def holders(self, user: str) -> dict[str, int]:
        """What the directory says: lease -> connections."""
        return await self.replica.directory._backend.holders(user)


class Members:
    """`async with Members(url, namespace) as members:` — the replicas of one cluster, stopped at the block's end."""

    def __init__(self, redis_url: str | None, namespace: str, routing: str = "shared") -> None:
        self._redis_url = redis_url
        self._routing = routing
        self._namespace = namespace
        self._started: list[Member] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(member.replica.node.stop() for member in self._started))

    async def start(self, name: str = "replica-1", *, ready: bool = True, **options: Any) -> Member:
        """Have one more replica join. `ready=False` does not wait until it has heard its canary."""
        options.setdefault("redis_url", self._redis_url)
        options["bus"] = {"routing": self._routing, **options.get("bus", {})}
        member = Member(build_replica(settings_for(namespace=self._namespace, **options), name))
        self._started.append(member)
        await member.replica.node.start()
        if ready:
            await eventually(lambda: member.replica.node.ready)
        return member

    async def several(self, count: int, **options: Any) -> list[Member]:
        """Have replica-1, replica-2 … join, all at once."""
        names = [f"replica-{number}" for number in range(1, count + 1)]
        return list(await asyncio.gather(*(self.start(name, **options) for name in names)))
