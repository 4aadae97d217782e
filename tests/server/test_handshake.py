"""The opening handshake: what is agreed to, and what is answered to everything else."""

import asyncio

import pytest

from heliograph.server.handshake import BadHandshake, accept_of, agreement, refusal
from tests.conftest import StartReplica
from tests.support.raw_socket import CLOSE, PING, PONG, TEXT, RawSocket
from tests.support.waiting import eventually

KEY = (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ==")
VERSION = (b"sec-websocket-version", b"13")


def test_the_key_is_answered_as_in_the_example_of_the_rfc() -> None:
    """Fails if no browser would believe that its handshake was understood (RFC 6455 section 1.3)."""
    assert accept_of(b"GET", [KEY, VERSION]) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_blanks_around_values_do_not_count() -> None:
    """Fails if optional white space of a header is taken for a part of the key."""
    padded = [(name, b"  " + value + b"\t") for name, value in (KEY, VERSION)]
    assert accept_of(b"GET", padded) == accept_of(b"GET", [KEY, VERSION])


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        (b"POST", [KEY, VERSION], 400),
        (b"GET", [VERSION], 400),
        (b"GET", [KEY, KEY, VERSION], 400),
        (b"GET", [(b"sec-websocket-key", b"dG9vIHNob3J0"), VERSION], 400),
        (b"GET", [(b"sec-websocket-key", b"\xff\xfe not base64"), VERSION], 400),
        (b"GET", [KEY], 426),
        (b"GET", [KEY, (b"sec-websocket-version", b"8")], 426),
        (b"GET", [KEY, VERSION, VERSION], 426),
    ],
)
def test_what_is_not_as_the_standard_wants_it(method: bytes, headers: list[tuple[bytes, bytes]], status: int) -> None:
    """Fails if a broken handshake is agreed to, or refused without a word why; 426 has to name our version."""
    with pytest.raises(BadHandshake) as refused:
        accept_of(method, headers)
    head, _, body = refused.value.response.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert body.decode().strip() == str(refused.value)
    assert (b"sec-websocket-version: 13" in head.split(b"\r\n")) == (status == 426)


def test_responses_are_whole() -> None:
    """Fails if a response lacks what ends it, or a status without a name breaks it."""
    assert agreement(b"k", [(b"date", b"now")]).endswith(b"sec-websocket-accept: k\r\ndate: now\r\n\r\n")
    assert b"content-length: 3\r\n" in refusal(503, [(b"content-length", b"9")], b"no\n"), "the true length"
    assert refusal(599, [], b"").startswith(b"HTTP/1.1 599 \r\n")


class TestOverSockets:
    @pytest.mark.parametrize(
        ("target", "headers", "status"),
        [
            ("/ws?user=a", {"Sec-WebSocket-Version": "7"}, 426),
            ("/ws?user=a", {"Sec-WebSocket-Key": "x"}, 400),
            ("/nothing", {}, 403),
        ],
    )
    async def test_a_refusal_is_an_answer(
        self, start_replica: StartReplica, target: str, headers: dict[str, str], status: int
    ) -> None:
        """Fails if a handshake that cannot be agreed to is met with silence, or its socket stays open."""
        one = await start_replica(redis_url=None)
        async with RawSocket(one.url, target, headers=headers) as raw:
            assert raw.status == status
            await eventually(lambda: not one.server.server_state.connections)

    async def test_bytes_in_the_url_that_are_not_escaped(self, start_replica: StartReplica) -> None:
        """Fails if a URL that is no URL ends in an error of ours."""
        one = await start_replica(redis_url=None)
        async with RawSocket(one.url, "/ws?user=ü".encode()) as raw:
            assert raw.status == 400

    async def test_frames_right_behind_the_handshake(self, start_replica: StartReplica) -> None:
        """Fails if what a client says before the application has the socket is lost, or comes in another order."""
        one = await start_replica(redis_url=None)
        async with RawSocket(one.url, "/ws") as raw:
            await raw.send(TEXT, b'{"type":"connect","user":"a"}')
            await raw.send(TEXT, b'{"type":"ping","id":1}')
            await raw.send(PING, b"x")
            assert (await raw.next("connected"))["user"] == "a"
            frames = {(await raw.frame())[0] for _ in range(2)}
            assert frames == {TEXT, PONG}

    async def test_a_stop_says_1012_to_whoever_is_left(self, start_replica: StartReplica) -> None:
        """Fails if uvicorn's end leaves sockets without a close frame, or waits for them."""
        one = await start_replica(redis_url=None)
        async with RawSocket(one.url, "/ws?user=a") as raw:
            await raw.next("connected")
            for each in list(one.server.server_state.connections):
                each.shutdown()
            opcode, payload = await raw.frame()
            assert (opcode, int.from_bytes(payload[:2])) == (CLOSE, 1012)
            await eventually(lambda: one.replica.hub.connections == 0)

    async def test_idle_sockets_keep_no_task(self, start_replica: StartReplica) -> None:
        """Fails if a socket that says nothing holds a coroutine: thousands of them would cost thousands of those."""
        one = await start_replica(redis_url=None)
        before = len(asyncio.all_tasks())
        async with RawSocket(one.url, "/ws?user=a") as first, RawSocket(one.url, "/ws?user=b") as second:
            for raw in (first, second):
                await raw.next("connected")
            await eventually(lambda: len(asyncio.all_tasks()) <= before)
            assert not one.server.server_state.tasks
