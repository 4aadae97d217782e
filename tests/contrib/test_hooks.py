"""`Hooks` in a real FastAPI application and a real Django site: the same functions, asked by a real replica."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Cookie, Depends, FastAPI, Response
from websockets.asyncio.client import connect as open_socket

from heliograph.contrib.fastapi import Hooks
from heliograph.contrib.hooks import (
    KEY_HEADER,
    Client,
    ConnectRequest,
    Disconnect,
    Message,
    PublishRequest,
    RefreshRequest,
    Refuse,
    RpcRequest,
    SubRefreshRequest,
    SubscribeRequest,
    Subscription,
    answer_of,
    read_request,
)
from heliograph.errors import BadData, BadSetting
from tests.conftest import StartReplica
from tests.support.centrifuge import CentrifugeClient
from tests.support.cluster import ROOT
from tests.support.http import http_client
from tests.support.ports import can_listen, free_port
from tests.support.site import ServedApp
from tests.support.waiting import eventually

SECRET = "a secret of the tests"
NAMES = ("connect", "subscribe", "publish", "rpc", "refresh")


def application() -> FastAPI:
    """A FastAPI application whose users have a cookie with their name."""
    api, hooks = FastAPI(), Hooks(SECRET)

    def session_user(session: Annotated[str | None, Cookie()] = None) -> str | None:
        return session

    @hooks.connect
    def connect(asked: ConnectRequest, user: Annotated[str | None, Depends(session_user)]) -> Client | None:
        if user is None:
            return None
        return Client(user, channels=["news"], info={"name": user.title()}, meta={"plan": "pro"})

    @hooks.subscribe
    async def subscribe(asked: SubscribeRequest) -> Subscription | bool:
        return Subscription(info={"role": "member"}) if asked.channel == f"of:{asked.user}" else False

    @hooks.publish
    def publish(asked: PublishRequest) -> Message | bool:
        return Message({"checked": asked.data}) if asked.data != "rude" else False

    @hooks.rpc
    async def rpc(asked: RpcRequest) -> Any:
        match asked.method:
            case "sum":
                return {"sum": sum(asked.data), "plan": asked.meta["plan"]}
            case "leave":
                raise Disconnect("as you wish", 4501)
            case _:
                raise Refuse(f"there is no {asked.method}", 404)

    @hooks.refresh
    def refresh(asked: RefreshRequest) -> float | bool:
        return asked.user == "alice"

    @api.get("/login/{user}")
    def log_in(user: str, response: Response) -> str:
        response.set_cookie("session", user)
        return "welcome"

    api.include_router(hooks.router, prefix="/live")
    return api


@pytest.fixture(params=["fastapi", "django"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """The URL of a running backend."""
    if request.param == "fastapi":
        async with ServedApp(application()) as served:
            yield served.url
        return
    port = free_port()
    command = [sys.executable, "-m", "tests.contrib.django_site", str(port), SECRET]
    site = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
    try:
        await eventually(lambda: not can_listen(port) or site.returncode is not None, within_s=20)
        yield f"http://127.0.0.1:{port}"
    finally:
        site.kill()
        await site.wait()


async def test_a_session_is_enough(start_replica: StartReplica, backend: str) -> None:
    """Fails if a user who is logged in at the backend cannot use the cluster, or can do what the backend forbids."""
    hooks: dict[str, Any] = {name: f"{backend}/live/{name}" for name in NAMES}
    one = await start_replica(
        redis_url=None,
        auth={"mode": "hook"},
        hooks={**hooks, "timeout_s": 10, "static_headers": {KEY_HEADER: SECRET}},
        namespaces={"of": {"presence": True}},
    )
    async with httpx.AsyncClient() as browser:
        await browser.get(f"{backend}/login/alice")
        cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    await _as_a_plain_client(one.url, cookie)
    await _as_a_client_of_an_sdk(one.url, cookie)
    async with CentrifugeClient(one.url, connect=None) as stranger:
        assert (await stranger.refused("connect"))["code"] == 103
        assert await stranger.close_code() == 3507


async def _as_a_plain_client(url: str, cookie: str) -> None:
    address = url.replace("http", "ws", 1) + "/ws"
    async with open_socket(address, origin=url, additional_headers={"Cookie": cookie}, proxy=None) as socket:  # type: ignore[arg-type]

        async def say(*frames: str) -> list[str]:
            for frame in frames:
                await socket.send(frame)
            return [str(await socket.recv()) for _ in frames]

        [connected] = await say('{"type":"connect"}')
        assert '"user":"alice"' in connected
        assert '"channel":"news"' in str(await socket.recv())
        [refused] = await say('{"type":"subscribe","channel":"of:bob","id":1}')
        assert '"code":"not_allowed","message":"permission denied"' in refused
        [subscribed] = await say('{"type":"subscribe","channel":"of:alice","id":2}')
        assert '"type":"subscribed"' in subscribed
        answers = await say(
            '{"type":"publish","channel":"of:alice","data":"rude","id":3}',
            '{"type":"rpc","method":"sum","data":[1,2],"id":4}',
            '{"type":"rpc","method":"nothing","data":0,"id":5}',
        )
        assert "not_allowed" in answers[0]
        assert '"data":{"sum":3,"plan":"pro"}' in answers[1]
        assert '"message":"there is no nothing"' in answers[2]
        assert '"number":404' in answers[2]
        both = await say('{"type":"publish","channel":"of:alice","data":"hi","id":6}') + [str(await socket.recv())]
        assert any('"data":{"checked":"hi"}' in frame for frame in both)
        await socket.send('{"type":"rpc","method":"leave","data":0}')
        async with asyncio.timeout(5):
            await socket.wait_closed()
        assert (socket.close_code, socket.close_reason) == (4501, "as you wish")


async def _as_a_client_of_an_sdk(url: str, cookie: str) -> None:
    async with CentrifugeClient(url, connect={"headers": {"Cookie": cookie}}) as alice:
        assert set(alice.connected["subs"]) == {"#alice", "news"}
        await alice.call("subscribe", channel="of:alice")
        [client] = (await alice.call("presence", channel="of:alice"))["presence"].values()
        assert (client["conn_info"], client["chan_info"]) == ({"name": "Alice"}, {"role": "member"})
        assert (await alice.refused("subscribe", channel="of:bob"))["code"] == 103
        assert (await alice.call("rpc", method="sum", data=[3, 4]))["data"] == {"sum": 7, "plan": "pro"}
        assert (await alice.refused("rpc", method="nothing", data=0))["code"] == 404
        await alice.call("publish", channel="of:alice", data="hi")
        assert await alice.publications("of:alice", 1) == [{"checked": "hi"}]


async def test_nobody_else_may_ask(backend: str) -> None:
    """Fails if a stranger can call the functions in any user's name, or a request that is none reaches them."""
    body = {"client": "c", "user": "alice", "method": "sum", "data": [1], "meta": {"plan": "x"}}
    async with http_client(backend, headers={"Cookie": "a=b"}) as http:
        assert (await http.post("/live/rpc", json=body)).status_code == 403
        assert (await http.post("/live/rpc", json=body, headers={KEY_HEADER: SECRET[:-1]})).status_code == 403
        shown = {KEY_HEADER: SECRET}
        assert (await http.post("/live/rpc", json=body, headers=shown)).json() == {
            "result": {"data": {"sum": 1, "plan": "x"}}
        }
        assert (await http.post("/live/rpc", json={"client": "c"}, headers=shown)).status_code in (400, 422)
        assert (await http.post("/live/sub_refresh", json=body, headers=shown)).status_code == 404
        assert (await http.get("/live/rpc", headers=shown)).status_code == 405
        refreshed = [
            (await http.post("/live/refresh", json={"client": "c", "user": user}, headers=shown)).json()
            for user in ("alice", "bob")
        ]
    assert refreshed == [{"result": {}}, {"result": {"expired": True}}]


def test_a_secret_that_anybody_guesses_is_none() -> None:
    """Fails if the functions can be called by whoever tries a few words."""
    with pytest.raises(BadSetting):
        Hooks("short")


@pytest.mark.parametrize(
    ("hook", "returned", "answer"),
    [
        ("connect", Client("bob"), b'{"result":{"user":"bob","channels":[]}}'),
        ("connect", None, b'{"error":{"code":103,"message":"permission denied","temporary":false}}'),
        ("subscribe", True, b'{"result":{}}'),
        ("subscribe", Subscription(expire_at=5.5), b'{"result":{"expire_at":5.5}}'),
        ("publish", True, b'{"result":{}}'),
        ("publish", Message(skip_history=True), b'{"result":{"skip_history":true}}'),
        ("rpc", None, b'{"result":{"data":null}}'),
        ("refresh", 12.5, b'{"result":{"expire_at":12.5}}'),
        ("sub_refresh", False, b'{"result":{"expired":true}}'),
        ("rpc", Refuse("busy", 1000, temporary=True), b'{"error":{"code":1000,"message":"busy","temporary":true}}'),
        ("publish", Disconnect("bye"), b'{"disconnect":{"code":4500,"reason":"bye"}}'),
    ],
)
def test_what_a_function_may_return(hook: str, returned: Any, answer: bytes) -> None:
    """Fails if an answer means something else to the cluster than to the function."""
    assert answer_of(hook, returned) == answer


@pytest.mark.parametrize(("hook", "returned"), [("connect", True), ("subscribe", None), ("publish", {}), ("x", 1)])
def test_what_is_no_answer_is_a_fault(hook: str, returned: Any) -> None:
    """Fails if a function that forgets to answer lets somebody in."""
    with pytest.raises(TypeError, match="no answer"):
        answer_of(hook, returned)


def test_requests_are_read_as_they_are_sent() -> None:
    """Fails if a field of a request is lost, or a newer cluster's is an error."""
    body = b'{"client":"c","user":"u","channel":"a:1","transport":"sse","meta":{"a":1},"newer":true}'
    expected = SubRefreshRequest(client="c", user="u", channel="a:1", transport="sse", meta={"a": 1})
    assert read_request("sub_refresh", body) == expected
    with pytest.raises(BadData):
        read_request("publish", body)
