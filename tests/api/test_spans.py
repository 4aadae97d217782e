"""Spans of OpenTelemetry over two replicas: what is published by HTTP, by a publisher and by any program."""

import asyncio
import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from heliograph.application import build_replica
from heliograph.client.publisher import AsyncPublisher, Publisher
from heliograph.cluster.replica_spans import ReplicaSpans
from heliograph.errors import BadSetting, PublishError
from heliograph.protocol.traceparent import is_sampled
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.http import http_client
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.replicas import RunningReplica, settings_for
from tests.support.spans import NOT_RECORDED, RECORDED, SPAN, TRACE, WRONG, Spans, about, parent_id, span_id, trace_id
from tests.support.waiting import eventually

KEY = "a key of more than sixteen bytes"
OPTIONS: dict[str, Any] = {"api": {"key": KEY}, "otel": {"enabled": True}}


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
async def two(spans: Spans, start_replica: StartReplica) -> list[RunningReplica]:
    return [await start_replica("replica-1", **OPTIONS), await start_replica("replica-2", **OPTIONS)]


@pytest.fixture
async def http(two: list[RunningReplica]) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(two[0].url, headers={"X-API-Key": KEY}) as client:
        yield client


@pytest.fixture
async def viewers(two: list[RunningReplica]) -> AsyncIterator[list[Client]]:
    """Three clients on a channel: two on the first replica, one on the second. The last is bob."""
    places = ((two[0], "ann"), (two[0], "eve"), (two[1], "bob"))
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(Client(each.url, path=f"/ws?user={user}&channels=chat:1"))
            for each, user in places
        ]
        for client in clients:
            await client.next("subscribed")
        yield clients


async def heard(viewers: list[Client], data: object) -> list[dict[str, Any]]:
    return [await each.next("message", data=data) for each in viewers]


async def test_the_spans_of_a_publication(
    spans: Spans, http: httpx.AsyncClient, viewers: list[Client], two: list[RunningReplica]
) -> None:
    """Fails if a step has no span, or one for each connection, or the wrong parent; or clients' frames change."""
    plain = (await http.post("/api/publish", json={"channel": "chat:1", "data": 0})).json()
    messages = await heard(viewers, 0)
    assert not spans.all()
    headers = {"traceparent": RECORDED, "tracestate": "vendor=x"}
    answer = (await http.post("/api/publish", json={"channel": "chat:1", "data": 1}, headers=headers)).json()
    assert answer["result"] == {**plain["result"], "offset": 2}
    traced = await heard(viewers, 1)
    assert [list(each) for each in traced] == [list(each) for each in messages]
    await eventually(lambda: len(spans.all()) == 4)

    [publish], [append] = spans.named("publish chat:{name}"), spans.named("append chat:{name}")
    deliveries = spans.named("deliver chat:{name}")
    assert {trace_id(each) for each in spans.all()} == {TRACE}
    assert (parent_id(publish), parent_id(append)) == (SPAN, span_id(publish))
    assert [parent_id(each) for each in deliveries] == [span_id(publish)] * 2
    assert [each.kind for each in (publish, append, *deliveries)] == [
        SpanKind.PRODUCER,
        SpanKind.CLIENT,
        SpanKind.CONSUMER,
        SpanKind.CONSUMER,
    ]
    message_id = traced[0]["message_id"]
    assert about(publish, "messaging.system", "messaging.operation.type", "messaging.destination.name") == [
        "heliograph",
        "send",
        "chat:1",
    ]
    assert about(publish, "messaging.message.id", "messaging.client.id") == [message_id, "replica-1"]
    assert about(append, "db.system.name", "heliograph.position.offset", "heliograph.delivery") == [
        "redis",
        2,
        "remote",
    ]
    names = ("messaging.client.id", "heliograph.connections", "messaging.message.id", "messaging.operation.type")
    assert [about(each, *names) for each in deliveries] == [
        ["replica-1", 2, message_id, "process"],
        ["replica-2", 1, message_id, "process"],
    ]
    assert publish.context is not None
    assert publish.context.trace_state.get("vendor") == "x"
    # What travels with it is that of the publishing span, and clients whose protocol has tags can read it.
    page = (await http.post("/api/history", json={"channel": "chat:1", "limit": 10})).json()["result"]
    assert [each.get("tags") for each in page["publications"]] == [
        None,
        {"traceparent": f"00-{TRACE}-{span_id(publish)}-01", "tracestate": "vendor=x"},
    ]


@pytest.mark.parametrize("broken", ["sampler", "processor"])
async def test_what_a_program_brings_may_fail(
    http: httpx.AsyncClient, viewers: list[Client], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Fails if a publication is refused, or its request is not answered, because a span cannot be made or ended."""

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError(f"the {broken} fails")

    if broken == "sampler":
        monkeypatch.setattr(ReplicaSpans, "publish", fails)
    else:
        monkeypatch.setattr(Span, "end", fails)
    answer = await http.post("/api/publish", json={"channel": "chat:1", "data": 1}, headers={"traceparent": RECORDED})
    assert answer.json()["result"]["offset"] == 1
    await heard(viewers, 1)


async def test_messages_to_a_user_batches_and_failures(
    spans: Spans, http: httpx.AsyncClient, viewers: list[Client], two: list[RunningReplica]
) -> None:
    """Fails if a way to publish loses the trace, an error is no error in it, or a message is counted wrongly."""
    recorded = {"traceparent": RECORDED}
    await http.post("/api/publish", json={"channel": "#bob", "data": 1}, headers=recorded)
    await http.post("/api/publish", json={"channel": "#bob", "data": 2, "skip_history": True}, headers=recorded)
    await heard(viewers[2:], 2)
    await eventually(lambda: len(spans.all()) == 5)  # what is not kept is not appended
    assert [
        about(each, "messaging.client.id", "heliograph.connections") for each in spans.named("deliver #{user}")
    ] == [["replica-2", 1]] * 2
    assert len(spans.named("append #{user}")) == 1

    spans.clear()
    await http.post("/api/broadcast", json={"channels": ["chat:1", "chat:2"], "data": 3}, headers=recorded)
    own = {"channel": "chat:1", "data": 4, "tags": {"traceparent": RECORDED.replace(SPAN, "00000000000000aa")}}
    commands = [{"publish": {"channel": "chat:1", "data": 5}}, {"publish": own}]
    await http.post("/api/batch", json={"commands": commands}, headers=recorded)
    await heard(viewers, 4)
    await eventually(lambda: len(spans.named("deliver chat:{name}")) == 6)
    publishing = spans.named("publish chat:{name}")
    assert [parent_id(each) for each in publishing] == [SPAN] * 4
    # A message that names its own trace stays in it; the request is a link away.
    [linked] = [each for each in publishing if each.links]
    assert (linked.kind, f"{linked.links[0].context.span_id:016x}") == (SpanKind.CLIENT, "00000000000000aa")
    assert sum(parent_id(each) == "00000000000000aa" for each in spans.named("deliver chat:{name}")) == 2

    spans.clear()
    refused = (await http.post("/api/publish", json={"channel": "#", "data": 1}, headers=recorded)).json()
    [publish] = spans.all()
    assert publish.status.status_code is StatusCode.ERROR
    assert publish.status.description == refused["error"]["message"]
    assert about(publish, "error.type") == [str(refused["error"]["code"])]


async def test_what_is_not_recorded_or_not_valid(
    spans: Spans, http: httpx.AsyncClient, viewers: list[Client], two: list[RunningReplica]
) -> None:
    """Fails if a trace that nobody records makes spans, or a header that is none stops a message."""
    for number, value in enumerate((NOT_RECORDED, *WRONG)):
        headers = {"traceparent": value}
        answer = await http.post("/api/publish", json={"channel": "chat:1", "data": number}, headers=headers)
        assert "result" in answer.json()
        await http.post("/api/publish", json={"channel": "chat:1", "data": -number, "tags": headers})
        await heard(viewers, -number)
    assert not spans.all()
    # A program that publishes with nothing but Redis takes part too.
    body = {"target_user_id": "bob", "message": "x", "message_id": "mine", "tags": {"traceparent": RECORDED}}
    await two[0].redis.client.publish(f"{two[0].redis.keys.prefix}events", json.dumps(body))
    await heard(viewers[2:], "x")
    await eventually(spans.all)
    [deliver] = spans.all()
    assert (parent_id(deliver), *about(deliver, "messaging.message.id")) == (SPAN, "mine")


def test_the_sampler_of_a_replica() -> None:
    """Fails if a replica whose sampler records nothing has messages carry its part of a trace."""
    provider = TracerProvider(sampler=ALWAYS_OFF)
    of_replica = ReplicaSpans(provider, "replica-1", {}, lambda publication: 0, provider.shutdown)
    assert of_replica.publish("chat:1", 1, {"traceparent": RECORDED}) is None


def test_an_exporter_that_takes_longer_than_the_replica(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Fails if a replica waits for an exporter that hangs, or its end is a traceback when the replica has ended."""
    monkeypatch.setattr("heliograph.cluster.replica_spans.STOP_S", 0.01)
    errors: list[object] = []
    monkeypatch.setattr(threading, "excepthook", errors.append)
    ended = threading.Event()
    asyncio.run(ReplicaSpans(TracerProvider(), "replica-1", {}, lambda _: 0, ended.wait).stop())
    [flushing] = [thread for thread in threading.enumerate() if thread.name == "flush-spans"]
    ended.set()
    flushing.join(10)
    assert errors == []
    assert "the last spans were not exported within 0.01 s" in caplog.messages


def test_traceparents() -> None:
    """Fails if a valid one of a later version is refused, or an invalid one is not."""
    assert is_sampled(RECORDED)
    assert is_sampled(f" {RECORDED}")
    assert is_sampled(f"cc-{TRACE}-{SPAN}-03-what-comes-later")
    assert not any(map(is_sampled, (NOT_RECORDED, *WRONG, f"{RECORDED}-more", RECORDED.upper())))


@pytest.mark.parametrize("way", ["redis", "http"])
async def test_publishers(
    spans: Spans,
    way: str,
    viewers: list[Client],
    two: list[RunningReplica],
    redis_server: RedisServer,
    namespace: str,
) -> None:
    """Fails if the span of a publisher has not the caller's as its parent, or the cluster does not continue it."""
    redis: dict[str, Any] = {"prefix": f"{namespace}:", "bus_channel": f"{namespace}:events"}
    url, options = (two[0].url, {"api_key": KEY}) if way == "http" else (redis_server.url, redis)
    tracer = trace.get_tracer("a program")
    with Publisher(url, otel=True, **options) as publisher:

        def publish() -> None:
            with tracer.start_as_current_span("a request"):
                publisher.publish("chat:1", 1)

        await asyncio.to_thread(publish)
        await heard(viewers, 1)
        of_replicas = 4 if way == "http" else 2  # over HTTP a replica publishes and appends it
        await eventually(lambda: len(spans.all()) == 2 + of_replicas)
        [request] = spans.named("a request")
        [own] = [each for each in spans.named("publish chat:{name}") if parent_id(each) == span_id(request)]
        assert own.kind is SpanKind.PRODUCER
        assert about(own, "messaging.message.body.size") == [1]
        for deliver in spans.named("deliver chat:{name}"):
            assert (trace_id(deliver), parent_id(deliver)) == (trace_id(own), span_id(own))
    async with AsyncPublisher(url, otel=True, deadline_s=0, **options) as asynchronous:
        with tracer.start_as_current_span("another"):
            await asynchronous.log_many(7, [("a", "stdout"), ("b", "stderr")])
        [lines] = spans.named("publish logs:{name}")[-1:] if way == "redis" else _unlinked(spans)
        assert about(lines, "messaging.batch.message_count") == [2]
        with pytest.raises(PublishError):
            await AsyncPublisher("http://127.0.0.1:9", api_key=KEY, otel=True, deadline_s=0).publish("chat:1", 1)
        [failed] = [each for each in spans.all() if each.status.status_code is StatusCode.ERROR]
        assert about(failed, "error.type") == ["PublishError"]
    spans.clear()
    # Without OpenTelemetry a program passes on what it was given.
    async with AsyncPublisher(url, **options) as untraced:
        for number, value in enumerate((RECORDED, NOT_RECORDED, *WRONG)):
            await untraced.send_to_user("bob", number, traceparent=value)
        await heard(viewers[2:], number)
        await eventually(lambda: spans.named("deliver #{user}"))
        [deliver] = spans.named("deliver #{user}")
        assert (trace_id(deliver), parent_id(deliver)) == (TRACE, SPAN)


def _unlinked(spans: Spans) -> list[Any]:
    """The span of the program, which a replica continues."""
    return [each for each in spans.named("publish logs:{name}") if not each.links]


def test_nothing_is_imported_unless_it_is_on() -> None:
    """Fails if a replica or a program pays for what it does not use."""
    code = (
        "import sys; from heliograph.application import build_replica; from heliograph.settings import Settings;"
        "from heliograph import Consumer, Publisher; build_replica(Settings());"
        "Publisher('redis://127.0.0.1:9'); Consumer('redis://127.0.0.1:9', 'g', print);"
        "mine = 'heliograph.spans', 'heliograph.cluster.replica_spans', 'heliograph.client.otel';"
        "print([each for each in mine if each in sys.modules])"  # redis-py imports OpenTelemetry where it finds it
    )
    environment = {**os.environ, "HELIOGRAPH_AUTH__MODE": "open"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Fails if a replica starts without what it is told to do, or a program fails by a variable of its neighbours."""
    for name in ("heliograph.cluster.replica_spans", "heliograph.client.otel"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BadSetting, match=r"HELIOGRAPH_OTEL__ENABLED needs OpenTelemetry: pip install"):
        build_replica(settings_for(otel={"enabled": True}))
    with pytest.raises(BadSetting, match="pip install"):
        Publisher("redis://127.0.0.1:9", otel=True)
    monkeypatch.setenv("HELIOGRAPH_OTEL__ENABLED", "true")
    Publisher("redis://127.0.0.1:9").close()
    assert "this program makes no spans" in caplog.text
    monkeypatch.setenv("HELIOGRAPH_OTEL__ENABLED", "perhaps")
    with pytest.raises(BadSetting, match="HELIOGRAPH_OTEL__ENABLED: must be true or false"):
        Publisher("redis://127.0.0.1:9")


class Collector(BaseHTTPRequestHandler):
    """What takes spans by OTLP over HTTP."""

    taken: list[ExportTraceServiceRequest] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        assert self.path == "/v1/traces"
        self.taken.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[str]:
    Collector.taken.clear()
    with ThreadingHTTPServer(("127.0.0.1", free_port()), Collector) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_a_real_exporter(collector: str) -> None:
    """Fails if the variables of OpenTelemetry do not count, or a replica ends before its last spans are out."""
    port = free_port()
    environment = {
        **os.environ,
        "HELIOGRAPH_AUTH__MODE": "open",
        "HELIOGRAPH_API__KEY": KEY,
        "HELIOGRAPH_OTEL__ENABLED": "true",
        "HELIOGRAPH_DRAIN__GRACE_S": "0",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "OTEL_BSP_SCHEDULE_DELAY": "60000",  # only the end of the replica has them exported
    }
    command = [sys.executable, "-m", "heliograph", "serve", "--port", str(port), "--name", "replica-7"]
    process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=subprocess.DEVNULL)
    try:
        async with http_client(f"http://127.0.0.1:{port}", headers={"X-API-Key": KEY}) as http:

            async def is_published() -> bool:
                try:
                    body, headers = {"channel": "#bob", "data": 1}, {"traceparent": RECORDED}
                    return (await http.post("/api/publish", json=body, headers=headers)).is_success
                except httpx.TransportError:
                    return False

            await eventually(is_published, within_s=30)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    [exported] = [each for request in Collector.taken for each in request.resource_spans]
    resource = {each.key: each.value.string_value for each in exported.resource.attributes}
    wanted = {
        "service.name": "heliograph",
        "service.instance.id": "replica-7",
        "deployment.environment.name": "test",
    }
    assert resource.items() >= wanted.items()
    found = {each.name: each for each in exported.scope_spans[0].spans}
    publish, append = found["publish #{user}"], found["append #{user}"]
    assert (publish.trace_id.hex(), publish.parent_span_id.hex()) == (TRACE, SPAN)
    assert append.parent_span_id == publish.span_id
