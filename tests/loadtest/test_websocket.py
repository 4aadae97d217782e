"""The client's WebSocket, against a server of another make."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from socket import SHUT_RDWR
from threading import Thread

import pytest
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from loadtest.sources import Target
from loadtest.websocket import Ended, Refused, WebSocket


@contextmanager
def served(
    handler: Callable[[ServerConnection], None],
    refuse: Callable[[ServerConnection, Request], Response | None] | None = None,
) -> Iterator[Target]:
    with serve(handler, "127.0.0.1", 0, process_request=refuse, compression=None) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield Target("cluster.example", "127.0.0.1", server.socket.getsockname()[1])
        server.shutdown()
        thread.join()


@contextmanager
def opened(target: Target) -> Iterator[WebSocket]:
    socket = WebSocket(target, "/ws?user=a", "127.0.1.1")
    try:
        yield socket
    finally:
        socket.cut()


def echo(connection: ServerConnection) -> None:
    for text in connection:
        connection.send(text)


def receive(socket: WebSocket, count: int) -> list[bytes]:
    texts: list[bytes] = []
    while len(texts) < count:
        texts += socket.receive()
    return texts


def read_to_the_end(socket: WebSocket) -> None:
    while True:
        socket.receive()


def test_it_comes_from_the_address_it_is_told_to_and_asks_for_the_path() -> None:
    def tell(connection: ServerConnection) -> None:
        assert connection.request is not None
        connection.send(f"{connection.remote_address[0]} {connection.request.path}")

    with served(tell) as target, opened(target) as socket:
        assert receive(socket, 1) == [b"127.0.1.1 /ws?user=a"]


def test_frames_of_every_size_come_back_whole_and_in_order() -> None:
    texts = [b"", b"x" * 125, b"x" * 126, "우주여행고양이".encode() * 1000, b"y" * 70_000]
    with served(echo) as target, opened(target) as socket:
        for text in texts:
            socket.send(text)
        assert receive(socket, len(texts)) == texts
        socket.close()


def test_frames_that_come_with_the_handshake_are_not_lost() -> None:
    def hurry(connection: ServerConnection) -> None:
        for number in range(50):
            connection.send(str(number))

    with served(hurry) as target, opened(target) as socket:
        assert receive(socket, 50) == [b"%d" % number for number in range(50)]


def test_a_goodbye_of_the_server_is_told_with_its_code() -> None:
    def dismiss(connection: ServerConnection) -> None:
        connection.close(3008, "slow")

    with served(dismiss) as target, opened(target) as socket, pytest.raises(Ended, match="closed with 3008 slow"):
        read_to_the_end(socket)


def test_a_server_that_vanishes() -> None:
    def vanish(connection: ServerConnection) -> None:
        connection.socket.shutdown(SHUT_RDWR)

    with served(vanish) as target, opened(target) as socket, pytest.raises(Ended, match="cut"):
        read_to_the_end(socket)


def test_our_own_goodbye_ends_the_reading() -> None:
    with served(echo) as target, opened(target) as socket:
        socket.close()
        with pytest.raises(Ended):
            read_to_the_end(socket)


def test_it_can_be_closed_and_cut_at_any_time() -> None:
    """A user that locust stops while it leaves leaves once more."""
    with served(echo) as target, opened(target) as socket:
        socket.close()
        socket.close()
        socket.cut()
        socket.close()
        with pytest.raises(Ended):
            socket.send(b"{}")
        with pytest.raises(Ended):
            read_to_the_end(socket)


def test_a_refusal_says_how() -> None:
    def refuse(connection: ServerConnection, _: Request) -> Response:
        return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "draining")

    with served(echo, refuse) as target, pytest.raises(Refused, match="HTTP 503 draining"):
        WebSocket(target, "/ws", "127.0.0.1")


def test_nobody_there() -> None:
    with pytest.raises(Refused, match="cannot connect"):
        WebSocket(Target("nobody", "127.0.0.1", 9), "/ws", "127.0.0.1")
