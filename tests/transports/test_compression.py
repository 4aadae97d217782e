"""permessage-deflate on a replica: who gets compressed frames, and what clients that compress may take."""

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

import heliograph
from heliograph.hub.deflate import Deflater
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.raw_socket import CONTINUATION, PING, PONG, TEXT, RawSocket
from tests.support.replicas import RunningReplica
from tests.support.waiting import eventually

RSV1 = 0x40
ROWS = [{"host": f"web-{number}", "status": "finished", "changed": False} for number in range(40)]  # about 2 KiB
OFFER = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}


@pytest.fixture
async def one(start_replica: StartReplica) -> RunningReplica:
    """A replica that compresses."""
    return await start_replica(redis_url=None, compression={"enabled": True})


def deflate(text: str) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (compressor.compress(text.encode()) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


@pytest.fixture
async def sockets(one: RunningReplica) -> AsyncIterator[list[ClientConnection]]:
    """One socket for each thing that a client may offer, all subscribed to `news`; the last offers nothing."""
    offers = [None, *(ClientPerMessageDeflateFactory(server_max_window_bits=bits) for bits in (None, None, 9, 9))]
    url = one.url.replace("http", "ws", 1)
    async with AsyncExitStack() as stack:
        opened = []
        for number, offer in enumerate([*reversed(offers)]):
            socket = await stack.enter_async_context(
                connect(
                    f"{url}/ws?user=user{number}&channel=news",
                    proxy=None,
                    compression=None,
                    extensions=None if offer is None else [offer],
                )
            )
            while json.loads(await socket.recv())["type"] != "subscribed":
                pass
            opened.append(socket)
        yield opened


async def test_a_publication_is_compressed_once_for_each_window(
    one: RunningReplica, sockets: list[ClientConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if it is compressed for each connection, or a client gets what it did not agree to read."""
    compressed: list[int] = []
    remember = Deflater._remember

    def counted(deflater: Deflater, payload: bytes, data: bytes) -> None:
        compressed.append(len(data))
        remember(deflater, payload, data)

    monkeypatch.setattr(Deflater, "_remember", counted)
    names = [socket.protocol.extensions and socket.protocol.extensions[0].name for socket in sockets]
    assert names == ["permessage-deflate"] * 4 + [[]]
    for number in range(2):
        async with asyncio.timeout(5):
            await one.replica.manager.publish("news", [number, ROWS])
            received = [json.loads(await socket.recv()) for socket in sockets]
        assert [each["data"] for each in received] == [[number, ROWS]] * len(sockets)
        assert len({json.dumps(each) for each in received}) == 1
    assert len(compressed) == 4, "two messages, two windows"
    assert max(compressed) < len(json.dumps(ROWS)) / 5


async def test_our_own_client_and_raw_frames(one: RunningReplica) -> None:
    """Fails if the Python client cannot be heard or hears nothing, or a compressed request is another one."""
    async with (
        heliograph.connect(one.url, user="bob") as bob,
        Client(one.url, user="carol") as carol,
        RawSocket(one.url, "/ws?user=alice", headers=OFFER) as raw,
    ):
        await raw.next("connected")
        [bobs], [carols] = (one.replica.hub.connections_of(user) for user in ("bob", "carol"))
        assert bobs.encoding is not carols.encoding, "bob offers compression, carol does not"
        text = json.dumps({"type": "send", "to": "bob", "data": ROWS, "id": 1})
        data = deflate(text)
        await raw.send(TEXT | RSV1, data)
        assert (await raw.next("ack"))["id"] == 1
        # In three frames, with a ping between them; then as it is, for a client need not compress.
        await raw.send(TEXT | RSV1, data[:10], fin=False)
        await raw.send(PING, b"still there?")
        await raw.send(CONTINUATION, data[10:20], fin=False)
        await raw.send(CONTINUATION, data[20:])
        assert await raw.frame() == (PONG, b"still there?")
        await raw.next("ack")
        await raw.send(TEXT, text.encode())
        await raw.next("ack")
        await bob.send("carol", ROWS)
        assert (await carol.next("message"))["data"] == ROWS
        async with asyncio.timeout(5):
            heard = [event.data async for event in _messages(bob, 3)]
        assert heard == [ROWS] * 3


async def test_centrifuge_clients_compress_too(one: RunningReplica) -> None:
    """Fails if a client of another wire format is left out, or cannot read what it gets."""
    url = f"{one.url.replace('http', 'ws', 1)}/connection/websocket"
    async with connect(url, proxy=None) as socket, asyncio.timeout(5):
        assert [extension.name for extension in socket.protocol.extensions] == ["permessage-deflate"]
        await socket.send('{"id":1,"connect":{"data":{"user":"bob"}}}')
        assert "connect" in json.loads(await socket.recv())
        await one.replica.manager.publish("#bob", ROWS)
        assert json.loads(await socket.recv())["push"]["pub"]["data"] == ROWS


async def _messages(client: heliograph.Client, count: int) -> AsyncIterator[heliograph.Message]:
    async for event in client:
        if isinstance(event, heliograph.Message):
            yield event
            if not (count := count - 1):
                return


async def test_a_user_pays_for_what_it_inflates_to(start_replica: StartReplica) -> None:
    """Fails if compression is a way around the limits of one user or of one message."""
    limits: dict[str, Any] = {"user_bytes_per_second": 10_000, "frame_bytes": 60_000}
    one = await start_replica(redis_url=None, compression={"enabled": True}, limits=limits)
    frame = deflate(json.dumps({"type": "send", "to": "bob", "data": "x" * 50_000, "id": 1}))
    assert len(frame) < 300
    async with RawSocket(one.url, "/ws?user=alice", headers=OFFER) as raw:
        for _ in range(3):
            await raw.send(TEXT | RSV1, frame)
        await raw.next("ack")
        assert (await raw.next("error"))["code"] == "rate_limited"
    async with RawSocket(one.url, "/ws?user=alice", headers=OFFER) as raw:
        await raw.send(TEXT | RSV1, deflate(json.dumps({"type": "ping", "x": "x" * 60_000})))
        assert (await raw.closed())[0] == 1009


async def test_a_flood_of_small_bombs_is_read_at_the_pace_of_a_user(start_replica: StartReplica) -> None:
    """Fails if thousands of small frames, each of the largest size when it is inflated, keep others waiting."""
    one = await start_replica(
        redis_url=None,
        compression={"enabled": True},
        limits={"user_bytes_per_second": 131_072, "messages_per_second": 100, "user_messages_per_second": 200},
    )
    frame = deflate(json.dumps({"type": "ping", "x": "x" * 65_000}))
    head = bytes((0x80 | RSV1 | TEXT, 0x80 | 126)) + len(frame).to_bytes(2) + bytes(4)
    async with (
        RawSocket(one.url, "/ws?user=mallory", headers=OFFER) as raw,
        Client(one.url, user="alice") as alice,
        Client(one.url, user="bob") as bob,
    ):
        await raw.next("connected")
        loop = asyncio.get_running_loop()
        flood = asyncio.create_task(loop.sock_sendall(raw.socket, (head + frame) * 20_000))
        slowest = 0.0
        for number in range(20):
            began = loop.time()
            await alice.send("bob", number)
            assert (await bob.next("message"))["data"] == number
            slowest = max(slowest, loop.time() - began)
        read = one.replica.telemetry.traffic["websocket"].messages_in
        assert read < 100, "not 20,000"
        assert slowest < 0.5, "a second and more, if all of it were inflated"
        flood.cancel()
        await asyncio.wait([flood])


async def test_nobody_must_compress(one: RunningReplica) -> None:
    """Fails if a client that offers nothing, or what we cannot do, gets what it cannot read, or no connection."""
    for offer, answered in (
        ("permessage-deflate; server_max_window_bits=8", 101),
        ("permessage-bzip2", 101),
        ("permessage-deflate;", 400),
    ):
        async with RawSocket(one.url, "/ws?user=alice", headers={"Sec-WebSocket-Extensions": offer}) as raw:
            assert raw.status == answered
            assert "permessage-deflate" not in raw.head
            if answered == 101:
                await raw.next("connected")
                await one.replica.manager.publish("#alice", ROWS)
                assert (await raw.next("message"))["data"] == ROWS
                await raw.send(TEXT | RSV1, deflate("{}"))
                assert (await raw.closed())[0] == 1002
    await eventually(lambda: one.replica.hub.connections == 0)
