"""Operators: who can log in, what a cookie is good for and when not, and what operators may do with it."""

import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.http import http_client
from tests.support.redis_server import RedisServer
from tests.support.replicas import RunningReplica
from tests.support.tokens import JWT, token
from tests.support.waiting import eventually

KEY = "a key of this very test"
CONSOLE = {"X-Heliograph-Console": "1"}
IN_JWT_MODE: dict[str, Any] = {"auth": JWT, "console": {"enabled": True}, "api": {"key": KEY}}


@pytest.fixture
async def two(start_replica: StartReplica) -> list[RunningReplica]:
    return [await start_replica(f"replica-{number}", **IN_JWT_MODE) for number in (1, 2)]


@pytest.fixture
async def browser(two: list[RunningReplica]) -> AsyncIterator[httpx.AsyncClient]:
    """A client that keeps cookies, as a browser does, and asks the first replica unless told otherwise."""
    async with http_client(two[0].url, headers=CONSOLE) as http:
        yield http


def cookie_of(answer: httpx.Response) -> str:
    return answer.headers["set-cookie"].split(";")[0].split("=", 1)[1]


async def test_a_session_from_login_to_logout(two: list[RunningReplica], browser: httpx.AsyncClient) -> None:
    """Fails if an operator is not one on every replica, or still is after the logout, or scripts read the cookie."""
    before = (await browser.get("/api/session")).json()
    assert before == {"operator": None, "ways": ["key", "token"]}
    assert (await browser.post("/api/info", json={})).status_code == 401

    answer = await browser.post("/api/login", json={"key": KEY})
    assert answer.status_code == 200, answer.text
    assert answer.json()["operator"]["way"] == "key"
    assert 28_700 < answer.json()["operator"]["expires_in"] <= 28_800
    attributes = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "max-age=28800"} <= attributes
    assert not any(each.startswith(("path", "secure", "domain")) for each in attributes)
    encrypted = await browser.post(
        "/api/login", json={"key": KEY}, headers={"Origin": two[0].url.replace("http", "https")}
    )
    assert "secure" in encrypted.headers["set-cookie"].lower()
    assert KEY not in answer.headers["set-cookie"]

    secret = cookie_of(answer)
    for replica in two:
        async with http_client(replica.url, headers={**CONSOLE, "Cookie": f"heliograph_operator={secret}"}) as http:
            assert (await http.get("/api/session")).json()["operator"]["name"] == ""
            assert {each["name"] for each in (await http.post("/api/info", json={})).json()["result"]["nodes"]}
            assert len((await http.get("/api/cluster")).json()["replicas"]) == 2
    async with http_client(two[1].url, headers={**CONSOLE, "Cookie": f"heliograph_operator={secret}"}) as http:
        gone = await http.post("/api/logout", json={})
        assert (gone.json()["operator"], "Max-Age=0" in gone.headers["set-cookie"]) == (None, True)
    async with http_client(two[0].url, headers={**CONSOLE, "Cookie": f"heliograph_operator={secret}"}) as http:
        assert (await http.get("/api/session")).json()["operator"] is None
        assert (await http.post("/api/info", json={})).status_code == 401


async def test_tokens_of_operators(two: list[RunningReplica], browser: httpx.AsyncClient) -> None:
    """Fails if a token without the claim makes an operator, or one is an operator for longer than the token."""
    for claims in ({}, {"admin": 1}, {"admin": "true"}, {"admin": False}, {"admin": [True]}):
        answer = await browser.post("/api/login", json={"token": token("mallory", **claims)})
        assert answer.status_code == 401, claims
        assert "admin" in answer.json()["error"]["message"]
    assert (await browser.post("/api/login", json={"token": "x"})).status_code == 401
    answer = await browser.post("/api/login", json={"token": token("ada", admin=True, expires_in=40)})
    assert answer.json()["operator"]["name"] == "ada"
    assert 30 < answer.json()["operator"]["expires_in"] <= 40
    assert (await browser.post("/api/info", json={})).status_code == 200
    # Kept out, she is no operator either.
    await browser.post("/api/disconnect", json={"user": "ada", "block_s": 60})
    assert (await browser.post("/api/info", json={})).status_code == 401
    assert (await browser.get("/api/session")).json()["operator"] is None


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Heliograph-Console": ""},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "none"},
    ],
)
async def test_pages_of_others_are_no_operators(browser: httpx.AsyncClient, headers: dict[str, str]) -> None:
    """Fails if a browser that is led here by another page acts for the operator who is logged in, or logs one in."""
    await browser.post("/api/login", json={"key": KEY})
    assert (await browser.post("/api/info", json={})).status_code == 200
    if not headers.get("X-Heliograph-Console", "1"):
        del browser.headers["X-Heliograph-Console"]
        headers = {}
    assert (await browser.post("/api/info", json={}, headers=headers)).status_code == 401
    assert (await browser.get("/api/session", headers=headers)).json()["operator"] is None
    for path in ("/api/login", "/api/logout"):
        assert (await browser.post(path, json={"key": KEY}, headers=headers)).status_code == 403


async def test_no_other_origin_may_send_the_header(browser: httpx.AsyncClient) -> None:
    """Fails if a preflight lets a page of another origin send the header that makes the cookie count."""
    asked = {
        "Origin": "https://elsewhere.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-heliograph-console, content-type",
    }
    for path in ("/api/login", "/api/logout", "/api/info", "/api/disconnect"):
        answer = await browser.options(path, headers=asked)
        assert "x-heliograph-console" not in answer.headers.get("access-control-allow-headers", "").lower(), path
        assert "access-control-allow-credentials" not in answer.headers


async def test_bad_attempts_are_slowed_down(start_replica: StartReplica) -> None:
    """Fails if a key can be guessed as fast as the network is, or a body breaks the login."""
    one = await start_replica(redis_url=None, **{**IN_JWT_MODE, "limits": {"failed_attempts_per_minute": 3}})
    async with http_client(one.url, headers=CONSOLE) as http:
        for body in (b"", b"{", b"[]", b'{"key":1}', b'{"key":"\\ud800"}', b"x" * 40_000):
            answer = await http.post("/api/login", content=body)
            assert answer.status_code in (400, 401), body[:20]
        for key in ("", "no", KEY + "x", KEY[:-1]):
            await http.post("/api/login", json={"key": key})
        begun = time.monotonic()
        assert (await http.post("/api/login", json={"key": "no"})).status_code == 401
        assert time.monotonic() - begun > 0.9
        assert (await http.post("/api/login", json={"key": KEY})).status_code == 200


async def test_a_session_ends_with_its_time_and_its_key(
    start_replica: StartReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a cookie outlives its session, or a key that was changed because it leaked."""
    one = await start_replica("replica-1", **IN_JWT_MODE)
    other_key = {**IN_JWT_MODE, "api": {"key": "another key of this test"}}
    two = await start_replica("replica-2", **other_key)
    async with http_client(one.url, headers=CONSOLE) as http:
        secret = cookie_of(await http.post("/api/login", json={"key": KEY}))
        headers = {**CONSOLE, "Cookie": f"heliograph_operator={secret}"}
        async with http_client(two.url, headers=headers) as other:
            assert (await other.get("/api/session")).json()["operator"] is None
        for forged in ("", "x", secret + "x", secret[:-1], "é" * 20, "x" * 5000):
            cookie = f"heliograph_operator={forged}".encode()
            answer = await http.get("/api/session", headers=[(b"cookie", cookie)])
            assert answer.json()["operator"] is None, forged[:20]
        monkeypatch.setattr(time, "time", lambda: time.monotonic() + 1e10)
        assert (await http.get("/api/session")).json()["operator"] is None


async def test_a_session_of_open_mode_ends_with_that_mode(start_replica: StartReplica) -> None:
    """Fails if whoever came to the console before it was protected stays an operator for eight hours."""
    was = await start_replica("replica-1")
    now = await start_replica("replica-2", **IN_JWT_MODE)
    async with http_client(was.url, headers=CONSOLE) as http:
        secret = cookie_of(await http.post("/api/login", json={}))
        assert (await http.get("/api/session")).json()["operator"]["way"] == "open"
    async with http_client(now.url, headers={**CONSOLE, "Cookie": f"heliograph_operator={secret}"}) as http:
        assert (await http.get("/api/session")).json()["operator"] is None
        assert (await http.post("/api/info", json={})).status_code == 401


async def test_without_redis_only_known_operators_are_let_in(
    start_replica: StartReplica, own_redis: RedisServer
) -> None:
    """Fails if an outage locks out the operator who looks for its cause, or lets somebody else in."""
    one = await start_replica(redis_url=own_redis.url, **IN_JWT_MODE)
    async with http_client(one.url, headers=CONSOLE) as http:
        await http.post("/api/login", json={"key": KEY})
        assert (await http.get("/api/session")).json()["operator"] is not None
        own_redis.stop()
        await eventually(lambda: not one.replica.node.ready)
        assert (await http.get("/api/session")).json()["operator"] is not None
        answer = (await http.post("/api/connections", json={})).json()["result"]
        assert [each["name"] for each in answer["replicas"]] == ["replica-1"]
        assert "cannot be reached" in answer["error"]
        assert (await http.post("/api/login", json={"key": KEY})).status_code == 503
    async with http_client(one.url, headers={**CONSOLE, "Cookie": "heliograph_operator=x"}) as http:
        assert (await http.get("/api/session")).json()["operator"] is None


@pytest.mark.parametrize(
    ("settings", "ways", "status"),
    [
        ({}, ["open"], 200),
        ({"auth": {"mode": "open", "open_to_network": True}}, [], 401),
        ({"api": {"key": KEY}}, ["key"], 401),
        ({"auth": JWT, "console": {"enabled": True}}, ["token"], 401),
    ],
)
async def test_who_is_an_operator_without_a_word(
    start_replica: StartReplica, settings: dict[str, Any], ways: list[str], status: int
) -> None:
    """Fails if everybody is an operator elsewhere than in open mode on one machine, or a program without a key is."""
    one = await start_replica(redis_url=None, **settings)
    async with http_client(one.url, headers=CONSOLE) as http:
        assert (await http.get("/api/session")).json()["ways"] == ways
        assert (await http.post("/api/login", json={})).status_code == status
        assert (await http.post("/api/info", json={})).status_code == status
    async with http_client(one.url) as program:
        assert (await program.post("/api/info", json={})).status_code == 401


async def test_who_comes_through_a_proxy_is_not_of_this_machine(start_replica: StartReplica) -> None:
    """Fails if a proxy on a developer's machine makes operators of everybody whom it lets in."""
    one = await start_replica(redis_url=None, trusted_proxies="127.0.0.1")
    async with http_client(one.url, headers={**CONSOLE, "X-Forwarded-For": "203.0.113.7"}) as http:
        assert (await http.get("/api/session")).json()["ways"] == []
        assert (await http.post("/api/login", json={})).status_code == 401
        http.headers["X-Forwarded-For"] = "127.0.2.9"
        assert (await http.get("/api/session")).json()["ways"] == ["open"]
        http.headers["Host"] = f"rebound.example:{one.url.rpartition(':')[2]}"
        assert (await http.post("/api/login", json={})).status_code == 403


async def test_where_the_console_is_off_no_cookie_counts(start_replica: StartReplica) -> None:
    """Fails if a replica without a console logs operators in, or believes the cookie of one that has."""
    with_console = await start_replica("replica-1", **IN_JWT_MODE)
    without = await start_replica("replica-2", **{**IN_JWT_MODE, "console": {"enabled": False}})
    async with http_client(with_console.url, headers=CONSOLE) as http:
        secret = cookie_of(await http.post("/api/login", json={"key": KEY}))
    async with http_client(without.url, headers={**CONSOLE, "Cookie": f"heliograph_operator={secret}"}) as http:
        assert (await http.get("/api/session")).status_code == 404
        assert (await http.post("/api/info", json={})).status_code == 401


async def test_what_operators_do_is_logged(
    browser: httpx.AsyncClient, two: list[RunningReplica], caplog: pytest.LogCaptureFixture
) -> None:
    """Fails if nobody can find out afterwards which operator has closed a user's connections."""
    caplog.set_level("INFO")
    await browser.post("/api/login", json={"token": token("ada", admin=True)})
    async with Client(two[1].url) as bob:
        await bob.say({"type": "connect", "token": token("bob")})
        await bob.next("connected")
        assert (await browser.post("/api/disconnect", json={"user": "bob"})).json() == {"result": {}}
        assert await bob.close_code() == 3503
    await browser.post("/api/connections", json={})
    lines = [(record.getMessage(), getattr(record, "user", None)) for record in caplog.records]
    assert ("an operator has logged in by token", "ada") in lines
    assert ("an operator (logged in by token) calls 'disconnect'", "ada") in lines
    assert not any("'connections'" in text for text, _ in lines)
