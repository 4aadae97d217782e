"""Requests that a proxy and a replica could read in two ways: none of them hides another request."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import pytest

from heliograph.server.http import MOST_PIPELINED
from tests.conftest import StartReplica
from tests.support.replicas import RunningReplica

KEY = "a key of sixteen"
BODY = json.dumps({"channel": "news", "data": 1}).encode()
SMUGGLED_BODY = json.dumps({"channel": "smuggled", "data": 1}).encode()
SMUGGLED = b"POST /api/publish HTTP/1.1\r\nHost: localhost\r\nX-API-Key: %b\r\nContent-Length: %d\r\n\r\n%b" % (
    KEY.encode(),
    len(SMUGGLED_BODY),
    SMUGGLED_BODY,
)
PUBLISH = f"POST /api/publish HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\n".encode()
POLL = b"GET /api/poll?user=alice&wait=0 HTTP/1.1\r\nHost: localhost\r\n"
STREAM = b"GET /sse?user=alice HTTP/1.1\r\nHost: localhost\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
CHUNK = b"%x\r\n%b\r\n" % (len(BODY), BODY)


@asynccontextmanager
async def line_to(one: RunningReplica) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    parts = urlsplit(one.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def said(one: RunningReplica, data: bytes, *, first_within_s: float = 0.25) -> bytes:
    """What the replica says until it closes the connection, or says nothing more for a while."""
    async with line_to(one) as (reader, writer):
        writer.write(data)
        answer = b""
        try:
            while True:
                async with asyncio.timeout(0.25 if answer else first_within_s):
                    more = await reader.read(65_536)
                if not more:
                    return answer + b"<closed>"
                answer += more
        except TimeoutError:
            return answer
        except ConnectionError:
            return answer + b"<closed>"


async def published(one: RunningReplica, channel: str) -> int:
    result = await one.replica.reading.history(channel, None, 100)
    return result.position.offset


REFUSED = {
    "both lengths": PUBLISH + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "both lengths, the other way round": PUBLISH
    + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    "two lengths": PUBLISH + b"Content-Length: 0\r\nContent-Length: 300\r\n\r\n" + SMUGGLED,
    "the same length twice": PUBLISH + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n" + SMUGGLED,
    "a list of lengths": PUBLISH + b"Content-Length: 0, 0\r\n\r\n" + SMUGGLED,
    "a signed length": PUBLISH + b"Content-Length: +0\r\n\r\n" + SMUGGLED,
    "a hexadecimal length": PUBLISH + b"Content-Length: 0x0\r\n\r\n" + SMUGGLED,
    "a length that is too large": PUBLISH + b"Content-Length: 99999999999999999999999\r\n\r\n" + SMUGGLED,
    "an empty length": PUBLISH + b"Content-Length:\r\n\r\n" + SMUGGLED,
    "a space before the colon": PUBLISH + b"Content-Length : 0\r\n\r\n" + SMUGGLED,
    "a coding that is none": PUBLISH + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunked not last": PUBLISH + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunked twice": PUBLISH + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a folded coding": PUBLISH + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a folded field": PUBLISH + b"X-Folded: one\r\n two\r\nContent-Length: 0\r\n\r\n" + SMUGGLED,
    "a field that begins with a space": PUBLISH[: PUBLISH.index(b"\r\n") + 2]
    + b" X-Folded: one\r\nContent-Length: 0\r\n\r\n"
    + SMUGGLED,
    "a lone CR in a field": PUBLISH + b"X-Lone: one\rContent-Length: 300\r\nContent-Length: 0\r\n\r\n" + SMUGGLED,
    "a zero in a field": PUBLISH + b"X-Zero: one\x00two\r\nContent-Length: 0\r\n\r\n" + SMUGGLED,
    "no name": PUBLISH + b": value\r\nContent-Length: 0\r\n\r\n" + SMUGGLED,
    "no colon": PUBLISH + b"Content-Length 0\r\n\r\n" + SMUGGLED,
    "a chunk with a sign": PUBLISH + b"Transfer-Encoding: chunked\r\n\r\n+0\r\n\r\n" + SMUGGLED,
    "a chunk with a prefix": PUBLISH + b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n" + SMUGGLED,
    "a chunk with a space": PUBLISH + b"Transfer-Encoding: chunked\r\n\r\n 0\r\n\r\n" + SMUGGLED,
    "a chunk that is too large": PUBLISH
    + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffffff\r\n\r\n"
    + SMUGGLED,
    "a chunk of negative size": PUBLISH + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + SMUGGLED,
    "a chunk that is longer than its size": PUBLISH
    + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n"
    + SMUGGLED,
    "a bare LF behind a chunk's size": PUBLISH + b"Transfer-Encoding: chunked\r\n\r\n0\n\r\n" + SMUGGLED,
    "a bare LF behind a chunk": PUBLISH
    + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\n0\r\n\r\n" % (len(BODY), BODY)
    + SMUGGLED,
    "a bare LF in a chunk's extension": PUBLISH + b"Transfer-Encoding: chunked\r\n\r\n0;a\nb\r\n\r\n" + SMUGGLED,
    "a version that is none": b"GET /health HTTP/1.9\r\n\r\n" + SMUGGLED,
    "a tab": b"GET\t/health HTTP/1.1\r\nHost: localhost\r\n\r\n" + SMUGGLED,
    "a method that is none": b"G=T /health HTTP/1.1\r\nHost: localhost\r\n\r\n" + SMUGGLED,
    "a poll with both lengths": POLL + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a stream with both lengths": STREAM
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
}
# The rest is the body of the request, or dropped with it: never a request.
NO_REQUEST = {
    "a body as long as the other request": PUBLISH + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    "the other request in a chunk": PUBLISH
    + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED),
    "a GET with a body": HEALTH + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    "a poll with a body": POLL + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    "a poll with a chunk": POLL
    + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED),
    "a stream with a body": STREAM + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    "a request behind a stream": STREAM + b"\r\n" + SMUGGLED,
    "in the extension of a chunk": PUBLISH
    + b"Transfer-Encoding: chunked\r\n\r\n0;"
    + SMUGGLED.replace(b"\r\n", b" ")
    + b"\r\n\r\n",
    "in a trailer": PUBLISH
    + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-Trailer: "
    + SMUGGLED.replace(b"\r\n", b" ")
    + b"\r\n\r\n",
    "an upgrade with a body": HEALTH
    + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED)
    + SMUGGLED,
}
# These are right, if unusual: both requests are carried out.
TWO_REQUESTS = {
    "one behind the other": PUBLISH + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY + SMUGGLED,
    "chunks": PUBLISH + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK + b"0\r\n\r\n" + SMUGGLED,
    "chunks with extensions and trailers": PUBLISH
    + b'Transfer-Encoding: Chunked\r\n\r\n%x;a=b;c\r\n%b\r\n000;d="e"\r\nX-Trailer: f\r\n\r\n' % (len(BODY), BODY)
    + SMUGGLED,
    "empty lines before": b"\r\n\r\n" + PUBLISH + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY + SMUGGLED,
    "a length with zeros": PUBLISH + b"Content-Length: 000%d\r\n\r\n" % len(BODY) + BODY + SMUGGLED,
}


async def test_what_has_two_readings_is_refused_and_ends_the_connection(start_replica: StartReplica) -> None:
    """Fails if a request whose length can be read in two ways is answered, and what follows is taken for another."""
    one = await start_replica(redis_url=None, api={"key": KEY})

    async def attempt(name: str, data: bytes) -> tuple[str, bytes]:
        return name, await said(one, data)

    for name, answer in await asyncio.gather(*(attempt(*each) for each in REFUSED.items())):
        assert answer.startswith(b"HTTP/1.1 400 "), (name, answer)
        assert answer.endswith(b"<closed>"), (name, answer)
        assert answer.count(b"HTTP/1.1 ") == 1, (name, answer)
    assert await published(one, "smuggled") == 0
    assert await published(one, "news") == 0


async def test_a_body_is_never_a_request(start_replica: StartReplica) -> None:
    """Fails if what belongs to one request is carried out as another one, on any way that requests take."""
    one = await start_replica(redis_url=None, api={"key": KEY})

    async def attempt(name: str, data: bytes) -> tuple[str, bytes]:
        return name, await said(one, data)

    for name, answer in await asyncio.gather(*(attempt(*each) for each in NO_REQUEST.items())):
        assert answer.count(b"HTTP/1.1 ") == 1, (name, answer)
    assert await published(one, "smuggled") == 0


async def test_requests_that_are_right_are_carried_out_each(start_replica: StartReplica) -> None:
    """Fails if the strictness hits what the standard allows."""
    one = await start_replica(redis_url=None, api={"key": KEY})
    for count, (name, data) in enumerate(TWO_REQUESTS.items(), start=1):
        answer = await said(one, data)
        assert answer.count(b"HTTP/1.1 200 ") == 2, (name, answer)
        assert await published(one, "news") == count, name
        assert await published(one, "smuggled") == count, name


WITHOUT_KEY = b"POST /api/publish HTTP/1.1\r\nHost: localhost\r\n"
LENGTH = b"Content-Length: %d\r\n\r\n" % len(BODY)
# The status of the only answer; None if the connection ends without one.
NO_ANSWER_OF_ANOTHER = {
    "a wrong chunk behind a request that is not answered yet": (
        HEALTH + b"\r\n" + PUBLISH + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        None,
    ),
    "a key in a trailer": (
        WITHOUT_KEY + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK + b"0\r\nX-API-Key: %b\r\n\r\n" % KEY.encode(),
        b"401",
    ),
    "a request behind the last one": (PUBLISH + b"Connection: close\r\n" + LENGTH + BODY + SMUGGLED, b"200"),
    "more headers than may be": (PUBLISH + b"a:b\r\n" * 300 + LENGTH + BODY, b"431"),
    "a URL without a path": (b"GET http://localhost HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
}


async def test_no_answer_is_taken_for_that_of_another_request(
    start_replica: StartReplica, caplog: pytest.LogCaptureFixture
) -> None:
    """Fails if a refusal overtakes an answer, or a request is carried out that is refused or comes too late."""
    one = await start_replica(redis_url=None, api={"key": KEY})
    for name, (data, status) in NO_ANSWER_OF_ANOTHER.items():
        answer = await said(one, data, first_within_s=5)
        assert answer.count(b"HTTP/1.1 ") == (status is not None), (name, answer)
        assert status is None or answer.split(b" ")[1] == status, (name, answer)
    async with line_to(one) as (reader, writer), asyncio.timeout(5):
        writer.write(WITHOUT_KEY + b"Transfer-Encoding: chunked\r\n\r\n")
        assert (await reader.readuntil(b"}}")).startswith(b"HTTP/1.1 401 "), "before its body has come"
        writer.write(b"zz\r\n")
        assert await reader.read() == b"", "a second answer to the same request"
    assert await published(one, "smuggled") == 0
    assert await published(one, "news") == 1, "the one before the last"
    assert "unexpected error" not in caplog.text


async def test_a_pipeline_has_an_end(start_replica: StartReplica) -> None:
    """Fails if one packet of the shortest requests makes the server keep thousands of them."""
    one = await start_replica(redis_url=None)
    async with line_to(one) as (reader, writer), asyncio.timeout(20):
        writer.write((HEALTH + b"\r\n") * MOST_PIPELINED)
        for _ in range(MOST_PIPELINED):
            await reader.readuntil(b"HTTP/1.1 200 ")
    async with line_to(one) as (reader, writer), asyncio.timeout(20):
        writer.write((HEALTH + b"\r\n") * 5000)
        answers = b""
        with suppress(ConnectionError):
            while more := await reader.read(65_536):
                answers += more
        assert answers.count(b"HTTP/1.1 200 ") < 5000


async def test_expect_and_head(start_replica: StartReplica) -> None:
    """Fails if a client that waits for `100 Continue` waits in vain, or an answer to HEAD brings a body."""
    one = await start_replica(redis_url=None, api={"key": KEY})
    async with line_to(one) as (reader, writer), asyncio.timeout(5):
        for _ in range(2):
            writer.write(PUBLISH + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(BODY)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            await reader.readuntil(b"}}")
        for path in (b"/health", b"/api/poll?user=alice", b"/sse?user=alice"):
            writer.write(b"HEAD %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 ")
        writer.write(HEALTH + b"Connection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 "), "nothing stands between the answers"
