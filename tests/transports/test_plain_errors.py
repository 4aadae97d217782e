"""What clients are told when Redis fails: what it means for them, and nothing of what is inside."""

import logging

import pytest

from heliograph.backends.redis import client
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.http import http_client
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

INSIDE = ("oom", "maxmemory", "127.0.0.1", "6379", "errno", "script", "command", "@user")


def is_plain(text: str, redis: RedisServer) -> bool:
    return not [word for word in (*INSIDE, str(redis.port)) if word in text.lower()]


async def test_redis_errors_stay_inside(
    start_replica: StartReplica,
    own_redis: RedisServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fails if the text of an error of Redis (addresses, commands, keys) reaches a client, or nobody can read it."""
    monkeypatch.setattr(client, "_logged_at", {})  # another test may have had the error logged just now
    one = await start_replica(redis_url=own_redis.url, api={"key": "a key of more than sixteen bytes"})
    with caplog.at_level(logging.WARNING, "heliograph.backends.redis.client"):
        async with Client(one.url, user="alice") as alice, http_client(one.url, timeout=20) as http:
            own_redis.command("CONFIG", "SET", "maxmemory", "1mb")
            for kind in ("full", "gone"):
                texts = []
                for frame in (
                    {"type": "send", "to": "bob", "data": 1},
                    {"type": "publish", "channel": "news", "data": 1},
                    {"type": "subscribe", "channel": f"other:{kind}"},
                    {"type": "history", "channel": "news"},
                    {"type": "presence", "channel": "chat:1"},
                ):
                    await alice.say({**frame, "id": frame["type"]})
                    answer = await alice.next(
                        "ack", "error", "subscribed", "history", "presence", id=frame["type"], within_s=10
                    )
                    if answer["type"] == "error":
                        assert answer["code"] == "unavailable"
                        texts.append(answer["message"])
                key = {"X-API-Key": "a key of more than sixteen bytes"}
                published = await http.post("/api/publish", json={"channel": "news", "data": 1}, headers=key)
                texts.append(published.json()["error"]["message"])
                for path in ("/api/runs/1", "/api/poll?user=eve"):
                    refused = await http.get(path)
                    if refused.status_code == 503:
                        texts.append(refused.json()["error"]["message"])
                assert len(texts) >= 3
                assert [text for text in texts if not is_plain(text, own_redis)] == []
                if kind == "full":
                    assert any("maxmemory" in record.getMessage() for record in caplog.records), "the log says it"
                    own_redis.command("CONFIG", "SET", "maxmemory", "0")
                    own_redis.stop()
                    await eventually(lambda: not one.replica.node.ready, within_s=10)
