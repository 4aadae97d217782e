"""Handshakes that are refused before a socket opens, clients that fail again and again, and subprotocols."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from heliograph.telemetry import Telemetry
from heliograph.transports import failed_attempts
from heliograph.transports.failed_attempts import MOST_ADDRESSES, MOST_HELD, FailedAttempts
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.http import http_client
from tests.support.replicas import RunningReplica
from tests.support.tokens import JWT, bearer, token
from tests.support.waiting import eventually

DELAY_S = 0.4


@pytest.fixture
def short_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failed_attempts, "DELAY_S", DELAY_S)


def ws(replica: RunningReplica, query: str = "") -> str:
    return f"{replica.url.replace('http', 'ws', 1)}/ws{query}"


async def status_of(replica: RunningReplica, query: str = "", **headers: str) -> int:
    """With what status a handshake is refused; 101 if it is not."""
    try:
        async with connect(ws(replica, query), additional_headers=headers, proxy=None):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


class TestRefusedBeforeASocketOpens:
    @pytest.mark.parametrize(
        ("query", "headers", "status"),
        [
            ("", lambda: {"Authorization": "Bearer nonsense"}, 401),
            ("", lambda: bearer(expires_in=-60), 401),
            ("", lambda: bearer(key="another secret of thirty-two bytes"), 401),
            ("?ticket=nobody-gave-it", dict, 401),
            (f"?token={token()}", dict, 401),
            ("/users/bob", lambda: bearer("alice"), 403),
            ("/users/alice", lambda: bearer("alice"), 101),
            ("", bearer, 101),
            ("", dict, 101),
        ],
    )
    async def test_what_is_known_by_then(
        self, start_replica: StartReplica, query: str, headers: Callable[[], dict[str, str]], status: int
    ) -> None:
        """Fails if a program that cannot get in is let in and then closed, or one that can is not let in."""
        one = await start_replica(auth=JWT, redis_url=None)
        assert await status_of(one, query, **headers()) == status
        assert one.replica.hub.connections == 0 or status == 101

    async def test_a_loop_that_reconnects_by_itself_ends(self, start_replica: StartReplica) -> None:
        """Fails if `async for socket in connect(…)` goes round for ever with a token that is bad."""
        one = await start_replica(auth=JWT, redis_url=None)
        rounds = connect(ws(one), additional_headers={"Authorization": "Bearer no"}, proxy=None).__aiter__()
        with pytest.raises(InvalidStatus) as refused:
            await anext(rounds)
        assert refused.value.response.headers["WWW-Authenticate"] == "Bearer"
        assert b"not valid" in refused.value.response.body

    @pytest.mark.parametrize(
        ("query", "headers", "code"),
        [("?ticket=no", {}, 3500), ("?token=x", {}, 3500), ("", bearer(expires_in=-60), 3005)],
    )
    async def test_a_page_is_told_by_a_close_code(
        self, start_replica: StartReplica, query: str, headers: dict[str, str], code: int
    ) -> None:
        """Fails if a browser, which cannot see a status, is not told why (it sees 1006 then)."""
        one = await start_replica(auth=JWT, redis_url=None)
        headers = {**headers, "Origin": one.url}
        async with connect(ws(one, query), additional_headers=headers, proxy=None) as socket:
            assert json.loads(await socket.recv())["code"] == "invalid_token"
            await socket.wait_closed()
            assert socket.close_code == code

    async def test_a_ticket_is_used_once_and_carries_its_channels(self, start_replica: StartReplica) -> None:
        """Fails if checking a ticket in the handshake uses it up before the client is let in."""
        one = await start_replica(auth=JWT, redis_url=None)
        async with http_client(one.url) as http:
            given = (await http.post("/api/ticket", headers=bearer(channels=["news"]))).json()["ticket"]
        async with Client(one.url, path=f"/ws?ticket={given}") as alice:
            assert (await alice.next("connected"))["user"] == "alice"
            await alice.next("subscribed", channel="news")
        assert await status_of(one, f"?ticket={given}") == 401


class TestAnotherTokenMayDo:
    @pytest.mark.parametrize("claims", [{"expires_in": -60}, {"nbf": time.time() + 86_400}])
    async def test_it_is_invited_back(self, start_replica: StartReplica, claims: dict[str, Any]) -> None:
        """Fails if a client with an expired token, or one that is early, is told to stay away for good."""
        one = await start_replica(auth=JWT, redis_url=None)
        async with Client(one.url) as client:
            await client.say({"type": "connect", "token": token(**claims)})
            assert (await client.next("error"))["code"] == "invalid_token"
            assert await client.close_code() == 3005

    async def test_clocks_may_differ_a_little(self, start_replica: StartReplica) -> None:
        """Fails if a token that a clock one second ahead has made is refused by default."""
        one = await start_replica(auth={"mode": "jwt", "secret": JWT["secret"]}, redis_url=None)
        for claims in ({"nbf": time.time() + 2}, {"expires_in": -2}):
            async with Client(one.url) as client:
                await client.say({"type": "connect", "token": token(**claims)})
                await client.next("connected")

    @pytest.mark.parametrize("exp", [10**400, 10**300, 253_402_300_800, 2**63])
    async def test_a_time_that_will_not_come(
        self, start_replica: StartReplica, caplog: pytest.LogCaptureFixture, exp: int
    ) -> None:
        """Fails if a number that no clock can hold is a fault of the server (1011), at connect or at refresh."""
        one = await start_replica(auth=JWT, redis_url=None)
        bad = token(expires_in=None, exp=exp)
        async with Client(one.url) as client:
            await client.say({"type": "connect", "token": bad})
            assert "'exp'" in (await client.next("error"))["message"]
            assert await client.close_code() == 3500
        async with Client(one.url) as client:
            await client.say({"type": "connect", "token": token()})
            await client.say({"type": "refresh", "token": bad, "id": 1})
            assert (await client.next("error", id=1))["code"] == "invalid_token"
        assert "Traceback" not in caplog.text

    async def test_an_end_can_be_asked_for(self, start_replica: StartReplica) -> None:
        """Fails if a token that is good for ever gets in where the settings say that none may be."""
        one = await start_replica(auth={**JWT, "require_exp": True}, redis_url=None)
        assert await status_of(one, **bearer(expires_in=None)) == 401
        assert await status_of(one, **bearer()) == 101


@pytest.mark.usefixtures("short_delay")
class TestFailingAgainAndAgain:
    async def test_only_failures_are_slowed(self, start_replica: StartReplica) -> None:
        """Fails if a client in a loop is answered as fast as it asks, or others of its address wait with it."""
        one = await start_replica(auth=JWT, redis_url=None, limits={"failed_attempts_per_minute": 3})
        started = time.monotonic()
        for _ in range(3):
            assert await status_of(one, Authorization="Bearer no") == 401
        assert time.monotonic() - started < DELAY_S
        failing = asyncio.create_task(status_of(one, Authorization="Bearer no"))
        started = time.monotonic()
        assert await status_of(one, **bearer()) == 101
        assert not failing.done()
        assert await failing == 401
        assert time.monotonic() - started > DELAY_S / 2
        assert one.replica.telemetry.failed_attempts == {"at_once": 3, "late": 1, "refused": 0}

    async def test_too_many_late_answers_are_refused(self, start_replica: StartReplica) -> None:
        """Fails if who opens many at once is served faster for it, or holds any number of sockets."""
        one = await start_replica(auth=JWT, redis_url=None, limits={"failed_attempts_per_minute": 1})
        got = await asyncio.gather(*(status_of(one, Authorization="Bearer no") for _ in range(MOST_HELD + 10)))
        assert got.count(401) == MOST_HELD + 1
        assert got.count(429) == 9

    async def test_on_every_endpoint(self, start_replica: StartReplica) -> None:
        """Fails if tokens, tickets or keys can be tried out without end on one of the endpoints."""
        options: dict[str, Any] = {"limits": {"failed_attempts_per_minute": 1}, "api": {"key": "a key of this test"}}
        one = await start_replica(auth=JWT, redis_url=None, **options)
        assert await status_of(one, Authorization="Bearer no") == 401
        async with http_client(one.url) as http:
            for method, path in (
                ("GET", "/sse?ticket=no"),
                ("GET", "/api/poll"),
                ("GET", "/api/runs/7"),
                ("POST", "/api/ticket"),
                ("POST", "/api/info"),
            ):
                started = time.monotonic()
                assert (await http.request(method, path)).status_code == 401, path
                assert time.monotonic() - started >= DELAY_S, path
        async with Client(one.url) as client:
            started = time.monotonic()
            await client.say({"type": "connect", "token": "no"})
            assert await client.close_code() == 3500
            assert time.monotonic() - started >= DELAY_S

    async def test_a_first_frame_that_is_wrong(self, start_replica: StartReplica) -> None:
        """Fails if a client may connect, say something wrong and be closed, in a loop without a pause."""
        one = await start_replica(auth=JWT, redis_url=None, limits={"failed_attempts_per_minute": 1})
        for least_s in (0, DELAY_S, DELAY_S):
            async with Client(one.url) as client:
                started = time.monotonic()
                await client.say({"type": "subscribe", "channel": "news"})
                assert "first frame" in (await client.next("error"))["message"]
                assert await client.close_code() == 3501
                assert time.monotonic() - started >= least_s
        async with Client(one.url) as client:
            started = time.monotonic()
            await client.say({"type": "connect", "token": token()})
            await client.next("connected")
            assert time.monotonic() - started < DELAY_S

    async def test_a_client_that_leaves_meanwhile(self, start_replica: StartReplica) -> None:
        """Fails if a late answer holds on to a socket that has gone, or its place is never given back."""
        one = await start_replica(auth=JWT, redis_url=None, limits={"failed_attempts_per_minute": 1})
        assert await status_of(one, Authorization="Bearer no") == 401
        for _ in range(3):
            async with Client(one.url) as client:
                await client.say({"type": "connect", "token": "no"})
        await eventually(lambda: one.replica.telemetry.failed_attempts["late"] == 3)
        assert await status_of(one, Authorization="Bearer no") == 401


@pytest.mark.usefixtures("short_delay")
async def test_the_table_is_bounded() -> None:
    """Fails if who comes from many addresses fills the memory, or one address can push out its own count."""
    table = FailedAttempts(1, Telemetry())
    assert await table.failed("mallory")
    for number in range(MOST_ADDRESSES + 100):
        assert await table.failed(f"address {number}")
    assert len(table._buckets) == MOST_ADDRESSES


class TestSubprotocols:
    @pytest.mark.parametrize(
        ("offered", "chosen"),
        [
            (["json"], "json"),
            (["v9", "json"], "json"),
            (["heliograph.json", "json"], "heliograph.json"),
            (["v9"], None),
        ],
    )
    async def test_the_first_known_one_is_chosen(
        self, start_replica: StartReplica, offered: list[str], chosen: str | None
    ) -> None:
        """Fails if a client that has to offer a subprotocol gets none back: browsers end the connection then."""
        one = await start_replica(redis_url=None)
        subprotocols = [Subprotocol(each) for each in offered]
        async with connect(ws(one, "?user=alice"), subprotocols=subprotocols, proxy=None) as socket:
            assert socket.subprotocol == chosen
            assert json.loads(await socket.recv())["type"] == "connected"
