"""What every HTTP answer says, whoever gives it."""

import pytest

from heliograph.transports import runs
from tests.conftest import StartReplica
from tests.support.http import http_client
from tests.support.raw_socket import RawSocket


async def test_no_answer_is_taken_for_another_type(
    start_replica: StartReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if some answer lets a browser guess what it is: an event stream with a user's text, say, as a page."""
    one = await start_replica(redis_url=None, api={"key": "a key of more than sixteen bytes"})

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(runs, "check_channel", broken)
    async with http_client(one.url) as http:
        for path, status in (
            ("/", 200),
            ("/health", 200),
            ("/metrics", 200),
            ("/static/heliograph.js", 200),
            ("/static/nothing", 404),
            ("/nothing", 404),
            ("/api/poll?user=alice", 200),
            ("/api/poll", 400),
            ("/api/publish", 405),
            ("/api/openapi.json", 200),
            ("/sse", 400),
            ("/sse/", 307),
            ("/metrics%0a", 400),
            ("/api/runs/7", 500),
        ):
            answer = await http.get(path)
            assert (answer.status_code, answer.headers.get_list("x-content-type-options")) == (status, ["nosniff"]), (
                path
            )
        async with http.stream("GET", "/sse?user=alice") as stream:
            assert stream.headers["x-content-type-options"] == "nosniff"
    async with RawSocket(one.url, "/ws?user=a", headers={"Origin": "https://evil.test"}) as refused:
        assert refused.status == 403
        assert refused.head.lower().count("x-content-type-options: nosniff") == 1


async def test_a_redirect_stays_where_it_is(start_replica: StartReplica) -> None:
    """Fails if whoever chooses the `Host` header chooses where others are led."""
    one = await start_replica(redis_url=None)
    async with http_client(one.url, headers={"Host": "evil.test"}) as http:
        answer = await http.get("/sse/?user=alice")
        assert answer.status_code == 307
        assert answer.headers["location"] == "/sse?user=alice"
