"""One program for each Centrifuge client SDK, all driven the same way, so that each scenario runs over all of them.

A driver reads commands, one JSON object a line, and writes events and results. A command has an `id`, what to `do`,
and the name of a `client`; one driver holds many clients:

    open            url, protocol ("json", "protobuf"), token or tokens, transport, emulation
    connect, disconnect
    subscribe       channel, token or tokens, join_leave, delta
    unsubscribe     channel
    publish         channel, data
    rpc             method, data                     gives data
    presence        channel                          gives clients: {client: info}
    presence_stats  channel                          gives num_clients, num_users
    history         channel, limit, since, reverse   gives publications, offset, epoch
    deltas          channel                          gives count: publications that came as a delta

`token` is handed to the SDK as it is; of `tokens` its callback returns one after the other, and the last one again
and again. The driver answers `{"id", "result"}`, or `{"id", "error": {"code", "message"}}` with the SDK's error.

An event has `client` and `event`, and `channel` where it concerns one: connecting, connected (id), disconnected,
error, message, token (the SDK has asked for one), subscribing, subscribed, unsubscribed, publication (data, offset,
info, tags), join and leave (info). `code` and `reason` come with what ends or begins anew.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from tests.support.waiting import eventually

Fields = dict[str, Any]


class SdkError(Exception):
    """What the SDK raised: `code` is the server's, or 0 where the SDK has none."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True)
class Sdk:
    """An SDK as the scenarios run it."""

    name: str
    driver: str
    protocol: str = "json"
    transport: str = "websocket"
    can_delta: bool = True


class Driver(Protocol):
    """A program that carries out commands with an SDK."""

    async def call(self, **command: Any) -> Fields:
        """Carry out one command and return its result. Raises SdkError."""

    def register(self, client: "Client") -> None:
        """Add the events of the client of this name to its list from now on."""

    async def stop(self) -> None:
        """End it."""


class ProgramDriver:
    """A driver that is a program."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._results: dict[int, asyncio.Future[Fields]] = {}
        self._clients: dict[str, Client] = {}
        self._process: asyncio.subprocess.Process
        self._reading: asyncio.Task[None]

    async def start(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**24
        )
        self._reading = asyncio.create_task(self._read(), name="sdk-driver")
        return self

    async def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 5)
        except TimeoutError:
            self._process.kill()
        await self._reading

    async def call(self, **command: Any) -> Fields:
        assert self._process.stdin is not None
        request = len(self._results)
        result = self._results[request] = asyncio.get_running_loop().create_future()
        self._process.stdin.write(json.dumps({"id": request, **command}).encode() + b"\n")
        return await asyncio.wait_for(result, 20)

    def register(self, client: "Client") -> None:
        self._clients[client.name] = client

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for text in self._process.stdout:
            line = json.loads(text)
            if "id" in line and "event" not in line:
                result = self._results[line["id"]]
                if result.cancelled():
                    continue
                if "error" in line:
                    result.set_exception(SdkError(line["error"]["code"] or 0, line["error"]["message"]))
                else:
                    result.set_result(line["result"])
            else:
                self._clients[line["client"]].take(line)
        for result in self._results.values():
            if not result.done():
                result.set_exception(SdkError(0, f"the driver has ended: {' '.join(self._command)}"))


class Client:
    """A client of an SDK, and everything that it has reported."""

    def __init__(self, driver: Driver, sdk: Sdk, name: str) -> None:
        self._driver = driver
        self.sdk = sdk
        self.name = name
        self.events: list[Fields] = []
        self._by_kind: dict[tuple[str, str | None], list[Fields]] = defaultdict(list)

    async def call(self, do: str, **command: Any) -> Fields:
        return await self._driver.call(do=do, client=self.name, **command)

    def take(self, event: Fields) -> None:
        """Add an event."""
        self.events.append(event)
        self._by_kind[event["event"], None].append(event)
        if "channel" in event:
            self._by_kind[event["event"], event["channel"]].append(event)

    def saw(self, event: str, channel: str | None = None) -> list[Fields]:
        """The events of this kind so far; of a channel, if one is named."""
        return self._by_kind[event, channel]

    def data(self, channel: str) -> list[Any]:
        """What was published on a channel."""
        return [each["data"] for each in self.saw("publication", channel)]

    async def until(self, event: str, channel: str | None = None, *, count: int = 1, within_s: float = 10) -> Fields:
        """Wait until there are so many events of this kind; return the one that made it so many."""
        try:
            await eventually(lambda: len(self.saw(event, channel)) >= count, within_s=within_s)
        except AssertionError:
            last = [{**each, "data": "…"} if "data" in each else each for each in self.events[-8:]]
            raise AssertionError(
                f"{self.sdk.name}: {len(self.saw(event, channel))} of {count} {event} ({channel}); last: {last}"
            ) from None
        return self.saw(event, channel)[count - 1]

    async def connect(self) -> Fields:
        count = len(self.saw("connected")) + 1
        await self.call("connect")
        return await self.until("connected", count=count)

    async def subscribe(self, channel: str, **options: Any) -> Fields:
        count = len(self.saw("subscribed", channel)) + 1
        await self.call("subscribe", channel=channel, **options)
        return await self.until("subscribed", channel, count=count)
