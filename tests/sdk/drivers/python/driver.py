"""The driver of the Python SDK: commands on standard input, events and results on standard output.

../../driver.py describes the commands and the events.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import centrifuge

Fields = dict[str, Any]


def write(line: Fields) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class Protocol:
    """The JSON client takes and gives values, the Protobuf client bytes."""

    def __init__(self, name: str) -> None:
        self.is_protobuf = name == "protobuf"

    def encode(self, value: Any) -> Any:
        return json.dumps(value).encode() if self.is_protobuf else value

    def decode(self, value: Any) -> Any:
        if self.is_protobuf:
            return json.loads(value) if value else None
        return value

    def info(self, info: centrifuge.ClientInfo | None) -> Fields | None:
        if info is None:
            return None
        return {
            "client": info.client,
            "user": info.user,
            "conn_info": self.decode(info.conn_info),
            "chan_info": self.decode(info.chan_info),
        }

    def publication(self, publication: centrifuge.Publication) -> Fields:
        return {
            "data": self.decode(publication.data),
            "offset": publication.offset,
            "info": self.info(publication.info),
            "tags": dict(publication.tags or {}),
        }


class Reporter:
    """Reports what a client (of its server-side subscriptions) and a subscription have in common."""

    def __init__(self, protocol: Protocol, **about: str) -> None:
        self.protocol = protocol
        self.about = about

    def emit(self, event: str, context: Any = None, **fields: Any) -> None:
        channel = {"channel": context.channel} if hasattr(context, "channel") else {}
        write({**channel, **self.about, "event": event, **fields})

    async def on_subscribing(self, context: Any) -> None:
        self.emit(
            "subscribing", context, code=getattr(context, "code", None), reason=getattr(context, "reason", None)
        )

    async def on_subscribed(self, context: Any) -> None:
        position = context.stream_position
        self.emit(
            "subscribed",
            context,
            recoverable=context.recoverable,
            positioned=context.positioned,
            was_recovering=context.was_recovering,
            recovered=context.recovered,
            position=position and {"offset": position.offset, "epoch": position.epoch},
            data=self.protocol.decode(context.data),
        )

    async def on_unsubscribed(self, context: Any) -> None:
        self.emit(
            "unsubscribed", context, code=getattr(context, "code", None), reason=getattr(context, "reason", None)
        )

    async def on_publication(self, context: Any) -> None:
        self.emit("publication", context, **self.protocol.publication(context.pub))

    async def on_join(self, context: Any) -> None:
        self.emit("join", context, info=self.protocol.info(context.info))

    async def on_leave(self, context: Any) -> None:
        self.emit("leave", context, info=self.protocol.info(context.info))

    async def on_error(self, context: Any) -> None:
        code = getattr(context.error, "code", context.code)
        self.emit("error", context, code=code, message=str(context.error))


class ClientReporter(Reporter, centrifuge.ClientEventHandler):  # type: ignore[misc] # it has no types
    async def on_connecting(self, context: centrifuge.ConnectingContext) -> None:
        self.emit("connecting", code=context.code, reason=context.reason)

    async def on_connected(self, context: centrifuge.ConnectedContext) -> None:
        self.emit("connected", id=context.client, data=self.protocol.decode(context.data))

    async def on_disconnected(self, context: centrifuge.DisconnectedContext) -> None:
        self.emit("disconnected", code=context.code, reason=context.reason)


class SubscriptionReporter(Reporter, centrifuge.SubscriptionEventHandler):  # type: ignore[misc] # as above
    pass


def hand_out(tokens: list[str], **about: str) -> Callable[..., Awaitable[str]]:
    """Return a function that returns one token after the other, and the last one again and again."""
    left = list(tokens)

    async def get_token(*_: str) -> str:
        write({**about, "event": "token"})
        return left.pop(0) if len(left) > 1 else left[0]

    return get_token


class Driver:
    def __init__(self) -> None:
        self.clients: dict[str, tuple[centrifuge.Client, Protocol]] = {}

    async def run(self, command: Fields) -> Fields | None:
        """Carry out one command and return its result. Raises the SDK's errors."""
        what, name = command.pop("do"), command.pop("client")
        if what == "open":
            self.open(name, **command)
            return None
        client, protocol = self.clients[name]
        channel = command.get("channel", "")
        match what:
            case "connect":
                await client.connect()
            case "disconnect":
                await client.disconnect()
            case "subscribe":
                await self.subscribe(name, **command)
            case "unsubscribe":
                subscription = client.get_subscription(channel)
                assert subscription is not None
                await subscription.unsubscribe()
            case "publish":
                await client.publish(channel, protocol.encode(command["data"]))
            case "rpc":
                answer = await client.rpc(command["method"], protocol.encode(command["data"]))
                return {"data": protocol.decode(answer.data)}
            case "presence":
                clients = (await client.presence(channel)).clients
                return {"clients": {key: protocol.info(info) for key, info in clients.items()}}
            case "presence_stats":
                stats = await client.presence_stats(channel)
                return {"num_clients": stats.num_clients, "num_users": stats.num_users}
            case "history":
                since = command.get("since") and centrifuge.StreamPosition(**command["since"])
                found = await client.history(channel, command["limit"], since, command.get("reverse", False))
                publications = [protocol.publication(each) for each in found.publications]
                return {"offset": found.offset, "epoch": found.epoch, "publications": publications}
            case _:
                raise NotImplementedError(f"this driver cannot {what}")
        return None

    def open(self, name: str, *, url: str, protocol: str, **given: Any) -> None:
        kept = Protocol(protocol)
        options: Fields = {"use_protobuf": kept.is_protobuf, "name": "sdk-test"}
        if "token" in given:
            options["token"] = given["token"]
        if "tokens" in given:
            options["get_token"] = hand_out(given["tokens"], client=name)
        client = centrifuge.Client(
            url,
            events=ClientReporter(kept, client=name),
            min_reconnect_delay=0.05,
            max_reconnect_delay=0.5,
            proxy=None,
            **options,
        )
        self.clients[name] = client, kept

    async def subscribe(self, name: str, *, channel: str, **given: Any) -> None:
        client, protocol = self.clients[name]
        subscription = client.get_subscription(channel)
        if subscription is None:
            options: Fields = {"join_leave": given.get("join_leave", False)}
            if "token" in given:
                options["token"] = given["token"]
            if "tokens" in given:
                options["get_token"] = hand_out(given["tokens"], client=name, channel=channel)
            if "delta" in given:
                options["delta"] = centrifuge.DeltaType(given["delta"])
            subscription = client.new_subscription(
                channel,
                events=SubscriptionReporter(protocol, client=name, channel=channel),
                min_resubscribe_delay=0.05,
                max_resubscribe_delay=0.5,
                **options,
            )
        await subscription.subscribe()


async def answer(driver: Driver, command: Fields) -> None:
    request = command.pop("id")
    try:
        write({"id": request, "result": await driver.run(command) or {}})
    except Exception as error:  # noqa: BLE001 - whatever the SDK raises is the test's to judge
        write({"id": request, "error": {"code": getattr(error, "code", 0), "message": str(error)}})


async def main() -> None:
    driver = Driver()
    lines = asyncio.StreamReader(limit=2**24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    tasks: set[asyncio.Task[None]] = set()
    async for line in lines:
        task = asyncio.create_task(answer(driver, json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    for client, _ in driver.clients.values():
        await client.disconnect()


asyncio.run(main())
