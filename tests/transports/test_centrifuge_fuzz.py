"""Clients that send anything at all, beside others that want to be served."""

import asyncio
from itertools import islice

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.codecs.centrifuge import frames
from tests.conftest import StartReplica
from tests.support.centrifuge import CentrifugeClient
from tests.support.client import Client
from tests.support.mutations import mutated
from tests.support.waiting import eventually

CONNECTIONS = 100  # of each format
FRAMES = 20  # of each connection

CONNECT: dict[str, str | bytes] = {
    "json": '{"id":1,"connect":{"data":{"user":"eve"}}}',
    "protobuf": frames.PROTOBUF[0],
}
LAST: dict[str, str | bytes] = {
    "json": '{"id":4000000000,"unsubscribe":{}}',
    "protobuf": b"\x08\x08\x80\xd0\xac\xf3\x0e\x32\x00",
}
MARK = {"json": b"4000000000", "protobuf": b"\x08\x80\xd0\xac\xf3\x0e\x3a\x00"}


async def misbehave(url: str, kind: str, lines: list[bytes]) -> None:
    """Connect, send the frames, and wait for the answer to a last one, or for the close."""
    offered = [Subprotocol("centrifuge-protobuf")] if kind == "protobuf" else None
    async with connect(f"{url}/connection/websocket?user=eve", proxy=None, subprotocols=offered) as socket:
        try:
            await socket.send(CONNECT[kind])
            for line in lines:
                await socket.send(line.decode(errors="replace") if kind == "json" else line)
            await socket.send(LAST[kind])
            await _answered(socket, MARK[kind])
        except ConnectionClosed:
            assert socket.close_code in (3501, 3503, 3004), (socket.close_code, socket.close_reason)
            assert socket.close_code != 3004, f"a fault of the server: {socket.close_reason}"


async def _answered(socket: ClientConnection, mark: bytes) -> None:
    async with asyncio.timeout(10):
        while True:
            frame = await socket.recv()
            if mark in (frame.encode() if isinstance(frame, str) else frame):
                return


async def test_no_bystander_is_hurt(start_replica: StartReplica, caplog: pytest.LogCaptureFixture) -> None:
    """Fails if some frame is a fault of the server, or another client's publications are late, lost or disordered."""
    one = await start_replica(redis_url=None, limits={"connections_per_user": 0}, presence={"grace_s": 0.1})
    url = one.url.replace("http", "ws", 1)
    async with CentrifugeClient(one.url, user="bob") as bob, Client(one.url, user="alice") as alice:
        await bob.call("subscribe", channel="quiet")
        await alice.say({"type": "subscribe", "channel": "quiet"})
        await alice.next("subscribed")
        sent = 0
        for kind, valid in (("json", frames.JSON), ("protobuf", frames.PROTOBUF)):
            random = mutated(valid, seed=7)
            for _ in range(CONNECTIONS // 10):
                group = [misbehave(url, kind, list(islice(random, FRAMES))) for _ in range(10)]
                await asyncio.gather(*group)
                await one.replica.manager.publish("quiet", sent)
                sent += 1
                assert (await bob.push("pub", "quiet"))["data"] == sent - 1
                assert (await alice.next("message", channel="quiet"))["data"] == sent - 1
        await eventually(lambda: one.replica.hub.connections == 2)
    assert [each.getMessage() for each in caplog.records if each.levelname == "ERROR"] == []
