"""The spans of a consumer: each handling of an entry, in the trace of its author."""

import asyncio
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import Span, Tracer
from opentelemetry.trace import SpanKind, StatusCode

from heliograph.backends.redis.client import connect
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.streams import ShardedStream, StreamEntry
from heliograph.client.consumer import Consumer
from heliograph.client.publisher import Publisher
from tests.support.redis_server import RedisServer
from tests.support.spans import NOT_RECORDED, RECORDED, SPAN, TRACE, Spans, about, parent_id, span_id, trace_id
from tests.support.waiting import eventually


async def test_the_spans_of_a_consumer(redis_server: RedisServer, namespace: str) -> None:
    """Fails if a handler runs in no span or in a foreign one, or its failure is no error."""
    spans, seen = Spans(), []
    client = connect(redis_server.url, timeout_s=5)
    stream = ShardedStream(client, Keys(f"{namespace}:", f"{namespace}:events"), "orders")

    async def handle(entry: StreamEntry) -> None:
        seen.append(f"{trace.get_current_span().get_span_context().span_id:016x}")
        if entry["n"] == "bad":
            raise ValueError("no such order")

    for fields in (
        {"n": "1", "traceparent": RECORDED},
        {"n": "2", "traceparent": NOT_RECORDED},
        {"n": "bad", "traceparent": "x"},
    ):
        await stream.append("k", fields)
    consumer = Consumer(
        redis_server.url,
        "billing",
        handle,
        stream="orders",
        prefix=f"{namespace}:",
        block_s=0.05,
        max_attempts=1,
        otel=True,
    )
    running = asyncio.create_task(consumer.run())
    await eventually(lambda: len(spans.all()) == 3)
    consumer.stop()
    await running
    await client.aclose()
    first, second, bad = spans.all()
    assert [span_id(each) for each in (first, second, bad)] == seen
    assert (first.name, first.kind, parent_id(first), trace_id(first)) == (
        "process orders",
        SpanKind.CONSUMER,
        SPAN,
        TRACE,
    )
    names = ("messaging.consumer.group.name", "messaging.operation.type", "heliograph.deliveries")
    assert about(first, *names) == ["billing", "process", 1]
    assert (second.parent, bad.parent) == (None, None)
    assert (bad.status.status_code, bad.status.description) == (StatusCode.ERROR, "ValueError: no such order")


@pytest.mark.parametrize("broken", ["start_span", "end"])
async def test_what_a_program_brings_may_fail(
    redis_server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Fails if a message is not published, or an entry is not handled, because a span cannot be made or ended."""
    Spans()
    seen: list[str] = []

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    async def handle(entry: StreamEntry) -> None:
        seen.append(entry["n"])

    monkeypatch.setattr(Tracer if broken == "start_span" else Span, broken, fails)
    given: Any = {"prefix": f"{namespace}:", "otel": True}
    with Publisher(redis_server.url, bus_channel=f"{namespace}:events", **given) as publisher:
        assert publisher.publish("news", 1).offset == 1
    client = connect(redis_server.url, timeout_s=5)
    stream = ShardedStream(client, Keys(f"{namespace}:", f"{namespace}:events"), "orders")
    await stream.append("k", {"n": "1"})
    consumer = Consumer(redis_server.url, "billing", handle, stream="orders", block_s=0.05, max_attempts=1, **given)
    running = asyncio.create_task(consumer.run())
    await eventually(lambda: consumer.stats.handled == 1)
    consumer.stop()
    await running
    await client.aclose()
    assert seen == ["1"]
