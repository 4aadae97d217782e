"""The clients of an audit: who reads and who writes. They note what they do and see, and judge nothing."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from heliograph import AsyncPublisher, PublishError
from heliograph.codecs.plain.cursor import format_cursor, parse_cursor
from loadtest.auditing.history import (
    Acknowledged,
    Closed,
    Connected,
    Continues,
    Error,
    Failed,
    Publish,
    Received,
)
from loadtest.auditing.scene import Scene

if TYPE_CHECKING:
    from heliograph.protocol.position import Position

AGAIN_S: Final = 0.2  # until a subscriber asks again for a channel that it was refused
ANSWER_S: Final = 5.0  # how long an acknowledgement may take before nobody knows
OPEN_S: Final = 3.0  # how long a handshake may take
STAYS_S: Final = (0.2, 4.0)  # how long a subscriber stays that comes and goes
ASKED_AGAIN: Final = 0.2  # of what was acknowledged, as if the answer had been lost
ONE_ATTEMPT_S: Final = 1.0  # how long a publisher tries before the repeater does


def _open(port: int, query: str) -> connect:
    return connect(f"ws://127.0.0.1:{port}/ws?{query}", proxy=None, compression=None, open_timeout=OPEN_S)


class Subscriber:
    """A user on one channel (and on their own), who comes back with their cursor whatever happens.

    `ports`: of the replicas; the first one is where it begins. `leaves`: it comes and goes.
    """

    def __init__(self, name: str, scene: Scene, ports: list[int], *, user: str, channel: str, leaves: bool) -> None:
        self.name = name
        self.positions: dict[str, Position | None] = {f"#{user}": None, channel: None}
        self.leaves = leaves
        self._scene = scene
        self._dice = scene.dice(name)
        self._ports = ports
        self.user = user
        self._channel = channel
        self._socket: ClientConnection | None = None
        self._is_welcome = asyncio.Event()
        self._is_welcome.set()

    async def run(self) -> None:
        """Connect, again and again, until cancelled."""
        for port in itertools.chain([self._ports[0]], self._elsewhere()):
            await self._is_welcome.wait()
            try:
                await self._visit(port)
            except (OSError, TimeoutError, WebSocketException) as error:
                if isinstance(error, ConnectionClosed) and self._is_welcome.is_set():
                    _note_closed(self._scene, self.name, port, error)
                await asyncio.sleep(self._dice.uniform(0, 0.1))

    async def stay_away(self) -> None:
        """Leave, and do not come back before `come_back`."""
        self._is_welcome.clear()
        if self._socket is not None:
            await self._socket.close()

    def come_back(self) -> None:
        self._is_welcome.set()

    def _elsewhere(self) -> Iterator[int]:
        while True:
            yield self._dice.choice(self._ports)

    async def _visit(self, port: int) -> None:
        """One connection: until it ends, or we leave."""
        query = f"user={quote(self.user)}"
        if (own := self.positions[f"#{self.user}"]) is not None:
            query += f"&cursor={quote(format_cursor({f'#{self.user}': own}), safe='')}"
        async with _open(port, query) as socket:
            self._scene.history.note(Connected, client=self.name, replica=str(port))
            self._socket = socket
            await self._subscribe(socket)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._dice.uniform(*STAYS_S) if self.leaves else None):
                    while True:
                        frame = json.loads(await socket.recv())
                        self._note(frame)
                        if frame["type"] == "error" and "id" in frame:
                            await asyncio.sleep(AGAIN_S)
                            await self._subscribe(socket)

    async def _subscribe(self, socket: ClientConnection) -> None:
        """Ask for the channel, from where we stand."""
        subscribe: dict[str, Any] = {"type": "subscribe", "channel": self._channel, "id": 1}
        if (position := self.positions[self._channel]) is not None:
            subscribe["cursor"] = format_cursor({self._channel: position})
        await socket.send(json.dumps(subscribe))

    def _note(self, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "connected":
                own = f"#{self.user}"
                if self.positions[own] is None and frame["cursor"]:
                    self._continues(own, frame["cursor"], recovered=False)
            case "subscribed":
                self._continues(frame["channel"], frame["cursor"], recovered=frame["recovered"])
            case "message":
                channel = frame["channel"]
                position = self.positions[channel] = parse_cursor(frame["cursor"])[channel]
                sender, number = frame["data"]
                self._scene.history.note(
                    Received,
                    reader=self.name,
                    channel=channel,
                    epoch=position.epoch,
                    offset=position.offset,
                    sender=sender,
                    number=number,
                )
            case "error":
                self._scene.history.note(Error, reader=self.name, code=frame["code"])

    def _continues(self, channel: str, cursor: str, *, recovered: bool) -> None:
        position = self.positions[channel] = parse_cursor(cursor)[channel]
        self._scene.history.note(
            Continues,
            reader=self.name,
            channel=channel,
            epoch=position.epoch,
            offset=position.offset,
            recovered=recovered,
        )


def _note_closed(scene: Scene, name: str, port: int, error: ConnectionClosed) -> None:
    scene.history.note(Closed, client=name, replica=str(port), how=str(error), excuse=scene.excuse(port))


class Sender:
    """Publishes numbered messages through replicas. One without an answer counts as unknown; the next follows."""

    def __init__(self, name: str, scene: Scene, ports: list[int], channels: list[str], per_s: float) -> None:
        self._name = name
        self._scene = scene
        self._dice = scene.dice(name)
        self._ports = ports
        self._channels = channels
        self._per_s = per_s
        self._numbers = itertools.count(1)

    async def run(self) -> None:
        """Publish until the scene's publishing ends."""
        for port in itertools.cycle(self._ports):
            if not self._scene.publishing:
                return
            try:
                async with _open(port, f"user={self._name}") as socket:
                    self._scene.history.note(Connected, client=self._name, replica=str(port))
                    await self._publish_on(socket)
            except ConnectionClosed as error:
                _note_closed(self._scene, self._name, port, error)
            except (OSError, TimeoutError, WebSocketException):
                await asyncio.sleep(0.1)

    async def _publish_on(self, socket: ClientConnection) -> None:
        while self._scene.publishing:
            channel = self._dice.choice(self._channels)
            what = {"sender": self._name, "number": next(self._numbers), "channel": channel}
            frame: dict[str, Any] = {"data": [self._name, what["number"]], "id": what["number"]}
            if channel.startswith("#"):
                frame |= {"type": "send", "to": channel[1:]}
            else:
                frame |= {"type": "publish", "channel": channel}
            self._scene.history.note(Publish, **what)
            try:
                await socket.send(json.dumps(frame))
                async with asyncio.timeout(ANSWER_S):
                    while (answer := json.loads(await socket.recv())).get("id") != frame["id"]:
                        pass
            except (OSError, TimeoutError, WebSocketException):
                self._scene.history.note(Failed, **what, code="no answer")
                raise
            if answer["type"] != "ack":
                self._scene.history.note(Failed, **what, code=answer["code"])
            elif cursor := answer.get("cursor"):
                position = parse_cursor(cursor)[channel]
                self._scene.history.note(Acknowledged, **what, epoch=position.epoch, offset=position.offset)
            else:
                self._scene.history.note(Acknowledged, **what)
            await asyncio.sleep(self._dice.expovariate(self._per_s))


class Repeater:
    """Publishes numbered messages past the replicas, and repeats each with its key until there is an answer.

    It is a program that is told where Redis is by the cluster's variables. Now and then it publishes once more what
    was acknowledged, as if the answer had been lost.
    """

    def __init__(self, name: str, scene: Scene, channels: list[str], per_s: float) -> None:
        self._name = name
        self._scene = scene
        self._dice = scene.dice(name)
        self._channels = channels
        self._per_s = per_s

    async def run(self) -> None:
        """Publish until the scene's publishing ends."""
        async with AsyncPublisher(deadline_s=ONE_ATTEMPT_S) as publisher:
            for number in itertools.count(1):
                if not self._scene.publishing:
                    return
                channel = self._dice.choice(self._channels)
                while not await self._publish(publisher, channel, number) and self._scene.publishing:
                    pass
                if self._dice.random() < ASKED_AGAIN:
                    await self._publish(publisher, channel, number)
                await asyncio.sleep(self._dice.expovariate(self._per_s))

    async def _publish(self, publisher: AsyncPublisher, channel: str, number: int) -> bool:
        what = {"sender": self._name, "number": number, "channel": channel}
        self._scene.history.note(Publish, **what, repeats=True)
        try:
            done = await publisher.publish(channel, [self._name, number], idempotency_key=f"{self._name}-{number}")
        except PublishError:
            self._scene.history.note(Failed, **what, code="unavailable")
            return False
        self._scene.history.note(Acknowledged, **what, epoch=done.epoch, offset=done.offset)
        return True
