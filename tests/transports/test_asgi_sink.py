"""The endpoint under a server that offers plain ASGI: the same conversation, written with `send`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from unittest.mock import Mock

import pytest
import uvicorn
from starlette.types import Message

from heliograph.application import Replica, build_replica
from heliograph.hub.outbox import FlushScheduler, Outbox
from heliograph.protocol.codes import CloseCode
from heliograph.transports.asgi_sink import AsgiSink, Reader
from tests.support.asgi_socket import AsgiSocket
from tests.support.client import Client
from tests.support.emulated import EmulatedClient
from tests.support.ports import free_port
from tests.support.raw_socket import RawSocket
from tests.support.replicas import settings_for
from tests.support.waiting import eventually


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    """A replica without Redis and without a server."""
    replica = build_replica(settings_for(limits={"connect_timeout_s": 0.3, "outbox_bytes": 65_536}))
    await replica.node.start()
    yield replica
    await replica.node.stop()


async def test_the_whole_conversation(replica: Replica) -> None:
    """Fails if the endpoint only works under our own server: greeting, message, ack, error, each as text."""
    async with AsgiSocket(replica.app, query="user=alice") as alice, AsgiSocket(replica.app) as bob:
        assert alice.sent[0] == {"type": "websocket.accept"}
        assert (await alice.next("connected"))["user"] == "alice"
        bob.say({"type": "connect", "user": "안녕", "id": "c"})
        assert (await bob.next("connected"))["id"] == "c"
        alice.say({"type": "send", "to": "안녕", "data": {"글": "🚀"}, "id": 1})
        assert (await alice.next("ack"))["delivery"] == "local"
        message = await bob.next("message")
        assert (message["data"], message["from"]) == ({"글": "🚀"}, "alice")
        bob.say("nonsense")
        assert (await bob.next("error"))["code"] == "bad_json"
        bob.say({"type": "ping", "id": 2})
        assert await bob.next("pong") == {"type": "pong", "id": 2}
    assert replica.hub.connections == 0


async def test_a_server_that_cancels_the_application(replica: Replica) -> None:
    """Fails if a client stays online because its server ended the application before it said that the client left."""
    async with AsgiSocket(replica.app, query="user=alice") as alice:
        await alice.next("connected")
        alice.task.cancel()
        await eventually(lambda: replica.hub.connections == 0)


async def test_a_refusal_is_said_before_the_close(replica: Replica) -> None:
    """Fails if the error frame or the close is lost because the connection ends before they are written."""
    async with AsgiSocket(replica.app) as socket:
        socket.say({"type": "send", "to": "bob", "data": 1})
        await eventually(lambda: socket.close_code or socket.task.done())
        assert [frame["code"] for frame in socket.frames("error")] == ["bad_request"]
        assert socket.sent[-1]["type"] == "websocket.close"


class TestEndings:
    """Each way to be closed arrives as the close code that it has under our own server."""

    @pytest.mark.parametrize(
        ("say", "code"),
        [
            (lambda socket: socket.say({"type": "send", "to": "bob", "data": 1}), 3501),
            (lambda socket: socket.say_bytes(b"binary"), 1003),
            (lambda socket: None, 3501),  # nothing within connect_timeout_s
            (lambda socket: socket.say({"type": "connect", "user": ""}), 3501),
        ],
        ids=["another frame first", "binary", "silence", "bad user"],
    )
    async def test_close_codes(self, replica: Replica, say: Callable[[AsgiSocket], None], code: int) -> None:
        """Fails if the close is never sent."""
        async with AsgiSocket(replica.app) as socket:
            say(socket)
            await eventually(lambda: socket.task.done() or socket.close_code, within_s=2)
            assert socket.close_code == code

    async def test_a_closed_connection_ends(self, replica: Replica) -> None:
        """Fails if the application goes on after it has closed the connection (here: a token that expires)."""
        async with AsgiSocket(replica.app, query="user=alice") as socket:
            await socket.next("connected")
            (connection,) = replica.hub
            connection.close(CloseCode.EXPIRED, "the token has expired")
            await eventually(socket.task.done)
            assert socket.close_code == 3005
            assert replica.hub.connections == 0

    async def test_a_refused_handshake(self, replica: Replica) -> None:
        """Fails if a draining replica accepts under a server that cannot answer a handshake with HTTP."""
        replica.node._health.begin_draining()
        async with AsgiSocket(replica.app, query="user=alice") as socket:
            assert [message["type"] for message in socket.sent] == ["websocket.close"]
            await eventually(socket.task.done)


class TestBackPressure:
    async def test_messages_wait_for_the_server_and_come_in_order(self, replica: Replica) -> None:
        """Fails if frames overtake each other while `send` waits, or are lost after it."""
        async with AsgiSocket(replica.app, query="user=bob") as bob:
            await bob.next("connected")
            bob.block()
            for number in range(20):
                await replica.manager.send_message("bob", number)
                await asyncio.sleep(0)
            assert bob.frames("message") == []
            bob.unblock()
            await eventually(lambda: len(bob.frames("message")) == 20)
            assert [frame["data"] for frame in bob.frames("message")] == list(range(20))

    async def test_a_peer_that_does_not_read_is_closed_and_forgotten(self, replica: Replica) -> None:
        """Fails if a server that never finishes a `send` keeps the connection in the hub, or holds the others."""
        async with (
            AsgiSocket(replica.app, query="user=bob") as slow,
            AsgiSocket(replica.app, query="user=bob") as fast,
        ):
            await slow.next("connected")
            await fast.next("connected")
            slow.block()
            for number in range(40):
                await replica.manager.send_message("bob", [number, "x" * 5000])
                await asyncio.sleep(0)
            await eventually(lambda: len(fast.frames("message")) == 40)
            assert replica.hub.count("bob") == 1
            assert replica.telemetry.slow_closes == 1
            await eventually(slow.task.done, within_s=3)

    async def test_a_server_that_raises_ends_that_connection_alone(self, replica: Replica) -> None:
        """Fails if an error of `send` (the peer has gone) is not the end of the connection, or is a fault of ours."""
        async with (
            AsgiSocket(replica.app, query="user=bob") as broken,
            AsgiSocket(replica.app, query="user=bob") as good,
        ):
            await broken.next("connected")
            await good.next("connected")
            broken.fail(OSError("the peer has gone"))
            await replica.manager.send_message("bob", 1)
            await eventually(broken.task.done)
            assert await good.next("message")
            await eventually(lambda: replica.hub.count("bob") == 1)
            assert broken.task.exception() is None


class TestTheSinkAlone:
    async def test_it_holds_the_outbox_back_while_the_server_writes(self) -> None:
        """Fails if the sink takes more than it can write: back-pressure would never reach the outbox."""
        gate = asyncio.Event()
        sent: list[Message] = []

        async def send(message: Message) -> None:
            await gate.wait()
            sent.append(message)

        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError("the client says nothing")

        sink = AsgiSink(receive, send)
        outbox = Outbox(sink, FlushScheduler(asyncio.get_running_loop().call_soon), 10)
        sink.attach(outbox)
        reader = Mock(spec=Reader)
        running = asyncio.create_task(sink.run(reader))
        outbox.offer(b"12345")
        await asyncio.sleep(0)  # the turn's end
        assert outbox.offer(b"1234567890") is None
        assert outbox.offer(b"x") == CloseCode.SLOW
        gate.set()
        await eventually(lambda: len(sent) == 3)
        outbox.close(CloseCode.SHUTDOWN, "bye")
        async with asyncio.timeout(2):
            await running
        assert sent[-1] == {"type": "websocket.close", "code": 3001, "reason": "bye"}
        reader.lost.assert_called_once_with(1006)


class TestUnderStockUvicorn:
    """`uvicorn heliograph.main:app`: the same application under uvicorn's own WebSocket class."""

    @pytest.fixture
    async def url(self, replica: Replica) -> AsyncIterator[str]:
        port = free_port()
        config = uvicorn.Config(
            replica.app, host="127.0.0.1", port=port, ws="websockets-sansio", lifespan="off", log_config=None
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server._serve(), name="stock-uvicorn")
        await eventually(lambda: server.started)
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        await task

    async def test_a_conversation_and_its_end(self, url: str, replica: Replica) -> None:
        """Fails if what works in the harness above does not work under the server that people have."""
        async with Client(url, user="alice") as alice, Client(url, user="bob") as bob:
            for number in range(50):
                assert (await alice.send("bob", number))["delivery"] == "local"
            assert await bob.messages(50) == list(range(50))
            await bob.socket.send(b"binary")
            assert await bob.close_code() == 1003
            await eventually(lambda: replica.hub.count("bob") == 0)
            (connection,) = replica.hub
            connection.close(
                CloseCode.EXPIRED, "안녕 " * 40
            )  # of a backend's own; a close frame has room for 123 bytes
            assert await alice.close_code() == 3005
            assert (alice.socket.close_reason or "").startswith("안녕")
        async with Client(url, path="/ws?user=") as nobody:
            assert (await nobody.next("error"))["code"] == "bad_request"
            assert await nobody.close_code() == 3501

    @pytest.mark.parametrize("path", ["http_stream", "sse"])
    async def test_a_stream_and_posted_commands(self, url: str, replica: Replica, path: str) -> None:
        """Fails if a Centrifuge client without a WebSocket needs our own server."""
        async with EmulatedClient(url, path, user="alice") as alice:
            await alice.call("subscribe", channel="news")
            for number in range(50):
                await alice.call("publish", channel="news", data=number)
            assert await alice.publications("news", 50) == list(range(50))
            await replica.user_commands.disconnect_user("alice")
            assert (await alice.push("disconnect"))["code"] == 3503
            await alice.ended()
        await eventually(lambda: replica.hub.count("alice") == 0)

    async def test_a_client_that_does_not_read(self, url: str, replica: Replica) -> None:
        """Fails if back-pressure of the server does not reach the outbox: memory would grow without end."""
        async with RawSocket(url, "/ws?user=bob", receive_buffer=4096) as slow:
            assert slow.status == 101
            await eventually(lambda: replica.hub.count("bob") == 1)
            for _ in range(400):
                await replica.manager.send_message("bob", "x" * 50_000)
                await asyncio.sleep(0)
                if not replica.hub.count("bob"):
                    break
            assert replica.hub.count("bob") == 0
            assert replica.telemetry.slow_closes == 1

    async def test_refused_handshakes(self, url: str, replica: Replica) -> None:
        """Fails if a draining replica's 503 needs our own server."""
        replica.node._health.begin_draining()
        async with RawSocket(url, "/ws?user=alice") as raw:
            assert raw.status == 503
