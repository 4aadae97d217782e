"""Server-sent events, read as the specification says."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread

import pytest

from loadtest.event_stream import EventStream
from loadtest.sources import Target
from loadtest.websocket import Ended, Refused

Serve = Callable[[bytes], Target]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(*parts: bytes) -> bytes:
    return HEAD + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@contextmanager
def served(answer: bytes) -> Iterator[tuple[Target, list[bytes]]]:
    """A server that gives this answer to the first who asks; also what it was asked."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_one() -> None:
            client, _ = listener.accept()
            with client:
                asked.append(client.recv(65_536))
                client.sendall(answer)

        thread = Thread(target=answer_one)
        thread.start()
        yield Target("cluster.example", "127.0.0.1", listener.getsockname()[1]), asked
        thread.join(10)


def test_events_comments_and_ids() -> None:
    answer = chunked(b"retry: 1000\n\n: keep-alive\n\n", b'id: #a=e.1\ndata: {"a":1}\n\nda', b"ta:{\ndata: }\r\n\r\n")
    with served(answer) as (target, asked):
        stream = EventStream(target, "/sse?user=a", "127.0.0.1", "#a=e.0")
        assert stream.receive() == [b'{"a":1}']
        assert stream.receive() == [b"{\n}"]
        with pytest.raises(Ended, match="the stream ended"):
            stream.receive()
        stream.close()
        stream.close()
    assert b"GET /sse?user=a HTTP/1.1" in asked[0]
    assert b"Last-Event-ID: #a=e.0" in asked[0]


def test_a_stream_that_is_cut_has_ended() -> None:
    with served(HEAD + b"ff\r\ndata: {") as (target, _):
        stream = EventStream(target, "/sse", "127.0.0.1")
        with pytest.raises(Ended):
            stream.receive()
        stream.close()


def test_a_refusal_says_how() -> None:
    answer = b'HTTP/1.1 429 No\r\nContent-Length: 22\r\n\r\n{"error":"too many..."}'
    with served(answer) as (target, _), pytest.raises(Refused, match=r"HTTP 429 .*too many"):
        EventStream(target, "/sse", "127.0.0.1")


def test_nobody_there() -> None:
    with pytest.raises(Refused, match="cannot connect"):
        EventStream(Target("nobody", "127.0.0.1", 9), "/sse", "127.0.0.1")
