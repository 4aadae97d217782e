"""Requests that the server answers past the application: the same answers, on the same connection, in order."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from heliograph.api.direct_batch import IN_A_ROW
from heliograph.server import direct
from tests.conftest import StartReplica
from tests.support.http import http_client
from tests.support.redis_server import RedisServer
from tests.support.replicas import RunningReplica
from tests.support.waiting import eventually

KEY = "a key of sixteen"
API = {"key": KEY, "body_bytes": 4096}
HEAD = f"POST /api/publish HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\n"


def body(channel: str = "news", data: object = 1, **others: object) -> bytes:
    return json.dumps({"channel": channel, "data": data, **others}).encode()


def post(content: bytes, *headers: str, head: str = HEAD) -> bytes:
    lines = "".join(f"{header}\r\n" for header in (*headers, f"Content-Length: {len(content)}"))
    return f"{head}{lines}\r\n".encode() + content


@dataclass(frozen=True)
class Answer:
    """One response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def offset(self) -> int:
        """Where the publication stands in its channel."""
        offset = json.loads(self.body)["result"]["offset"]
        assert isinstance(offset, int)
        return offset


class Line:
    """A TCP connection to a replica, and the responses on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> Answer:
        async with asyncio.timeout(5):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status, *fields = head.strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
            content = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(status.split()[1]), headers, content)

    async def is_closed(self) -> bool:
        async with asyncio.timeout(5):
            return await self.reader.read() == b""


@asynccontextmanager
async def line_to(one: RunningReplica) -> AsyncIterator[Line]:
    parts = urlsplit(one.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()


@pytest.fixture
def direct_answers(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What was answered past the application."""
    answers: list[bytes] = []
    answer = direct.DirectCycle.answer

    def counted(self: direct.DirectCycle, content: bytes) -> None:
        answers.append(content)
        answer(self, content)

    monkeypatch.setattr(direct.DirectCycle, "answer", counted)
    return answers


@pytest.mark.parametrize("where", ["direct_method.is_key", "publishing.check_data"])
async def test_a_fault_of_ours_is_not_said_to_be_the_clients(
    start_replica: StartReplica, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """Fails if an unexpected error while a request is read is answered as a bad request, or leaves no trace."""
    one = await start_replica(redis_url=None, api=API)

    def fails(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(f"heliograph.api.{where}", fails)
    async with line_to(one) as line:
        line.writer.write(post(body()))
        assert (await line.answer()).status == 500
        assert await line.is_closed()
    assert "RuntimeError: broken" in caplog.text


async def test_it_goes_past_the_application(start_replica: StartReplica, direct_answers: list[bytes]) -> None:
    """Fails if the usual publish takes the long way, or is answered without a header that every answer has."""
    one = await start_replica(api=API)
    async with line_to(one) as line:
        for number in (1, 2, 3):
            line.writer.write(post(body(data={"n": number}, idempotency_key=f"key {number}")))
            answer = await line.answer()
            assert (answer.status, answer.offset) == (200, number)
    assert len(direct_answers) == 3
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "date" in answer.headers
    assert "connection" not in answer.headers


@pytest.mark.parametrize(
    ("content", "status", "text"),
    [
        (b"", 400, "the body is not JSON"),
        (b"[]", 400, "must be a JSON object"),
        (b'{"channel": "news"', 400, "the body is not JSON"),
        (b'{"channel": "news"}', 200, "'data': field required"),
        (body(channel=""), 200, "must not be empty"),
        (body(channel="#"), 200, "must not be empty"),
        (body(channel="a\nb"), 200, "control characters"),
        (b'{"channel": 5, "data": 1}', 200, "'channel'"),
        (b'{"channel": "news", "data": 1e999}', 400, "Number out of range"),
        (b'{"channel": "news", "data": "\xff"}', 400, "the body is not JSON"),
        (b'{"channel": "news", "data": ' + b"[" * 200 + b"]" * 200 + b"}", 200, "nested deeper"),
        (body(idempotency_key="k" * 257), 200, "'idempotency_key'"),
        (body(idempotency_key=5), 200, "'idempotency_key'"),
        (body(version=5), 200, "not supported"),
        (body(data="x" * 5000), 413, "4096"),
    ],
)
async def test_what_is_wrong_is_said_by_the_application(
    start_replica: StartReplica, content: bytes, status: int, text: str
) -> None:
    """Fails if bad input is answered otherwise than by the application, or the next request suffers from it."""
    one = await start_replica(redis_url=None, api=API)
    async with line_to(one) as line:
        line.writer.write(post(content))
        answer = await line.answer()
        assert answer.status == status
        assert text in answer.body.decode()
        if status != 413:  # the connection ends with that
            line.writer.write(post(body()))
            assert (await line.answer()).offset == 1


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (post(body(), head=HEAD.replace(KEY, "another key")), 401),
        (post(body(), head=HEAD.replace("X-API-Key: ", "X-Nothing: ")), 401),
        (post(body(), head=HEAD.replace("POST", "PUT")), 405),
        (post(body(), head=HEAD.replace("/api/publish", "/api/publish?a=b")), 200),
        (post(body(), head=HEAD.replace("/api/publish", "/api/%70ublish")), 200),
        (post(body(), head=HEAD.replace("X-API-Key: ", "Authorization: apikey ")), 200),
        (post(body(), "Expect: 100-continue"), 200),
        (post(body(x=None)), 200),
        (HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body()), body()), 200),
    ],
)
async def test_what_is_unusual_is_answered_by_the_application(
    start_replica: StartReplica, direct_answers: list[bytes], request_bytes: bytes, status: int
) -> None:
    """Fails if a request that is right but not usual is not answered as ever, or one without the key is served."""
    one = await start_replica(redis_url=None, api=API)
    async with line_to(one) as line:
        line.writer.write(request_bytes)
        answer = await line.answer()
        if answer.status == 100:
            answer = await line.answer()
        assert answer.status == status
        assert not direct_answers
        line.writer.write(post(body()))
        assert (await line.answer()).offset == (2 if status == 200 else 1)


def batch(*commands: object, **others: object) -> bytes:
    return json.dumps({"commands": commands, **others}).encode()


MANY = {
    "batch": batch(*({"publish": {"channel": "news", "data": n}} for n in range(100))),
    "parallel batch": batch(*({"publish": {"channel": "news", "data": n}} for n in range(100)), parallel=True),
    "broadcast": json.dumps({"channels": [f"news{n}" for n in range(100)], "data": {"n": 1}}).encode(),
    "with a bad channel": batch(*({"publish": {"channel": name, "data": 1}} for name in ("a", "", "#", "b"))),
    "to bad channels": json.dumps({"channels": ["a", "", "#", "b"], "data": 1}).encode(),
    "with a key": batch(*({"publish": {"channel": "a", "data": 1, "idempotency_key": "k"}} for _ in range(2))),
}


@pytest.mark.parametrize("redis", [True, False])
async def test_many_publications_go_past_it_too(
    start_replica: StartReplica, direct_answers: list[bytes], redis: bool
) -> None:
    """Fails if a batch or a broadcast is answered otherwise than by the application, but for the positions."""
    where: dict[str, Any] = {} if redis else {"redis_url": None}
    one = await start_replica(api={"key": KEY}, **where)
    async with line_to(one) as line:
        for kind, content in MANY.items():
            method = "broadcast" if b"channels" in content else "batch"
            head = HEAD.replace("publish", method)
            answers = []
            for target in (f"/api/{method}", f"/api/{method}?"):
                line.writer.write(post(content, head=head.replace(f"/api/{method}", target)))
                answer = await line.answer()
                assert answer.status == 200
                answers.append(json.loads(answer.body))
            assert json.loads(direct_answers.pop()) == answers[0], kind
            assert not direct_answers, "the second is answered by the application"
            assert without_positions(answers[0]) == without_positions(answers[1]), kind
            if "batch" in kind:
                offsets = [reply["publish"]["offset"] for reply in answers[0]["replies"]]
                assert offsets == list(range(offsets[0], offsets[0] + 100))


def without_positions(answer: Any) -> Any:
    if isinstance(answer, dict):
        return {key: without_positions(value) for key, value in answer.items() if key != "offset"}
    return [without_positions(each) for each in answer] if isinstance(answer, list) else answer


OTHERS = {
    "no commands": batch(),
    "too many": batch(*[{"publish": {"channel": "a", "data": 1}}] * 4),
    "another method": batch({"publish": {"channel": "a", "data": 1}}, {"history": {"channel": "a"}}),
    "tags": batch({"publish": {"channel": "a", "data": 1, "tags": {"a": "b"}}}),
    "two methods": batch({"publish": {"channel": "a", "data": 1}, "history": {"channel": "a"}}),
    "too deep": batch({"publish": {"channel": "a", "data": 1}}, {"publish": {"channel": "b", "data": [[[[[1]]]]]}}),
    "too many channels": json.dumps({"channels": ["a"] * 4, "data": 1}).encode(),
    "no channels": b'{"channels": [], "data": 1}',
    "too deep a broadcast": b'{"channels": ["a"], "data": [[[[[1]]]]]}',
}


async def test_what_is_unusual_in_them_is_answered_by_the_application(
    start_replica: StartReplica, direct_answers: list[bytes]
) -> None:
    """Fails if a limit holds only on one of the two ways, or a batch is carried out twice in part."""
    one = await start_replica(redis_url=None, api={"key": KEY, "batch": 3}, limits={"depth": 4})
    async with line_to(one) as line:
        for kind, content in OTHERS.items():
            method = "broadcast" if b"channels" in content else "batch"
            line.writer.write(post(content, head=HEAD.replace("publish", method)))
            answer = await line.answer()
            assert answer.status == 200, kind
            assert not direct_answers, kind
        line.writer.write(post(body("a")))
        assert (await line.answer()).offset == 4, "those before were one of each kind that may be"


async def test_a_batch_while_redis_is_away(start_replica: StartReplica, own_redis: RedisServer) -> None:
    """Fails if each command of a batch waits for Redis, or one is published after one before it has failed."""
    one = await start_replica(redis_url=own_redis.url, api={"key": KEY})
    own_redis.stop()
    async with line_to(one) as line:
        for parallel in (False, True):
            content = batch(*[{"publish": {"channel": "a", "data": 1}}] * 100, parallel=parallel)
            line.writer.write(post(content, head=HEAD.replace("publish", "batch")))
            replies = json.loads((await line.answer()).body)["replies"]
            assert {reply["error"]["code"] for reply in replies} == {100}
            if not parallel:
                assert {reply["error"]["message"][:10] for reply in replies[IN_A_ROW:]} == {"not tried,"}


@pytest.mark.parametrize("pieces", [1, 7, 300])
async def test_pipelined_requests_are_answered_in_order(start_replica: StartReplica, pieces: int) -> None:
    """Fails if requests that come before the answers are mixed up, by whichever way each of them is answered."""
    one = await start_replica(api=API)
    requests = [post(body(data=number)) for number in range(10)]
    requests[3] = post(b"[]")
    requests[6] = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    sent = b"".join(requests)
    step = -(-len(sent) // pieces)
    async with line_to(one) as line:
        for start in range(0, len(sent), step):
            line.writer.write(sent[start : start + step])
            await asyncio.sleep(0)
        answers = [await line.answer() for _ in requests]
        assert [answer.status for answer in answers] == [200, 200, 200, 400, *[200] * 6]
        assert [answers[number].offset for number in (0, 1, 2, 4, 5, 7, 8, 9)] == list(range(1, 9))


async def test_smuggled_lengths_are_refused(start_replica: StartReplica) -> None:
    """Fails if a request whose length can be read in two ways is taken for one."""
    one = await start_replica(redis_url=None, api=API)
    for wrong in (
        "Content-Length: 3\r\nContent-Length: 30\r\n",
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: 3, 3\r\n",
        "Content-Length : 3\r\n",
    ):
        async with line_to(one) as line:
            line.writer.write(f"{HEAD}{wrong}\r\n".encode() + body())
            assert (await line.answer()).status == 400, wrong
            assert await line.is_closed()


async def test_a_body_that_does_not_come(start_replica: StartReplica) -> None:
    """Fails if a client that announces a body and does not send it keeps its connection."""
    one = await start_replica(redis_url=None, api=API, limits={"body_timeout_s": 0.3})
    async with line_to(one) as line:
        line.writer.write(post(body())[:-5])
        assert (await line.answer()).status == 408
        assert await line.is_closed()


async def test_idle_connections_are_closed(start_replica: StartReplica) -> None:
    """Fails if a connection stays for ever behind an answer, or is closed while one is on its way."""
    one = await start_replica(api=API, limits={"header_timeout_s": 0.5})
    async with line_to(one) as line:
        for number in (1, 2, 3):
            line.writer.write(post(body()))
            assert (await line.answer()).offset == number
            await asyncio.sleep(0.2)
        assert await line.is_closed()


async def test_connection_close_is_heeded(start_replica: StartReplica) -> None:
    """Fails if the connection stays open, or the answer does not say that it ends."""
    one = await start_replica(api=API)
    async with line_to(one) as line:
        line.writer.write(post(body(), "Connection: close"))
        answer = await line.answer()
        assert (answer.offset, answer.headers["connection"]) == (1, "close")
        assert await line.is_closed()


async def test_clients_that_leave_before_the_answer(start_replica: StartReplica) -> None:
    """Fails if a client that has gone harms the replica, or its publication is lost."""
    one = await start_replica(api=API)
    for _ in range(20):
        async with line_to(one) as line:
            line.writer.write(post(body()))
            await line.writer.drain()
            await asyncio.sleep(0)
    async with http_client(one.url, headers={"X-API-Key": KEY}) as http:

        async def all_are_there() -> bool:
            answer = await http.post("/api/history", json={"channel": "news"})
            return bool(answer.json()["result"]["offset"] == 20)

        await eventually(all_are_there)


async def test_redis_away(start_replica: StartReplica, own_redis: RedisServer) -> None:
    """Fails if an outage is not said with code 100, or the connection does not serve again afterwards."""
    one = await start_replica(redis_url=own_redis.url, api=API)
    async with line_to(one) as line:
        line.writer.write(post(body()))
        assert (await line.answer()).offset == 1
        own_redis.stop()
        line.writer.write(post(body()))
        answer = await line.answer()
        assert json.loads(answer.body)["error"]["code"] == 100


async def test_a_stop_lets_the_answer_out(start_replica: StartReplica) -> None:
    """Fails if a replica that stops swallows the answer to a request that it has begun, or hangs."""
    one = await start_replica(api=API)
    async with line_to(one) as line:
        line.writer.write(post(body()))
        assert (await line.answer()).offset == 1
        stopping = asyncio.create_task(one.stop())
        line.writer.write(post(body()))
        assert (await line.answer()).offset == 2
        async with asyncio.timeout(10):
            await stopping
        assert await line.is_closed()
