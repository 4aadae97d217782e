"""Receipts: what a client says that it has received, as senders and backends read it."""

from collections.abc import AsyncIterator
from typing import Any, Literal

import httpx
import msgspec
import pytest

from heliograph import Message, connect
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.http import http_client
from tests.support.replicas import RunningReplica
from tests.support.waiting import eventually

KEY = "a key of more than sixteen bytes"


@pytest.fixture(params=["memory", "redis"])
async def two(request: pytest.FixtureRequest, start_replica: StartReplica) -> list[RunningReplica]:
    """Two replicas; one and the same without Redis."""
    options = {"api": {"key": KEY}}
    if request.param == "memory":
        return [await start_replica(redis_url=None, **options)] * 2
    return [await start_replica("replica-1", **options), await start_replica("replica-2", **options)]


@pytest.fixture
async def http(two: list[RunningReplica]) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(two[1].url, headers={"X-API-Key": KEY}) as client:
        yield client


async def receipts(http: httpx.AsyncClient, **params: Any) -> Any:
    answer = (await http.post("/api/receipts", json={"user": "bob", **params})).json()
    return answer["result"]["receipts"] if "result" in answer else answer["error"]


def parts(cursor: str) -> tuple[str, int]:
    epoch, _, offset = cursor.rpartition("=")[2].rpartition(".")
    return epoch, int(offset)


async def test_a_receipt_is_noted_for_the_device_and_read_on_any_replica(
    two: list[RunningReplica], http: httpx.AsyncClient
) -> None:
    """Fails if it is not answered or not found, counts for another device or channel, or goes back."""
    async with (
        Client(two[0].url, path="/ws?user=bob&device=phone&channels=news") as phone,
        Client(two[1].url) as laptop,
    ):
        await phone.next("subscribed")
        await laptop.say({"type": "connect", "user": "bob", "device": "laptop"})
        await laptop.next("connected")
        for number in range(3):
            await phone.send("bob", number)
        cursors = [(await phone.next("message"))["cursor"] for _ in range(3)]
        await phone.say({"type": "publish", "channel": "news", "data": 1})
        news = (await phone.next("message"))["cursor"]
        await phone.say({"type": "received", "cursor": f"{cursors[1]}&{news}", "id": 7})
        assert await phone.next("received") == {"type": "received", "id": 7}
        await laptop.messages(3)
        await laptop.say({"type": "received", "cursor": cursors[0]})
        assert await laptop.next("received") == {"type": "received"}
        await phone.say({"type": "received", "cursor": cursors[0]})
        await phone.next("received")

        async def known() -> bool:
            return len(await receipts(http)) == 3

        await eventually(known)
        found = await receipts(http)
        assert all(each.pop("at").endswith("Z") for each in found)
        epoch, _ = parts(cursors[0])
        assert found == [
            {"device": "laptop", "channel": "#bob", "epoch": epoch, "offset": 1},
            {"device": "phone", "channel": "#bob", "epoch": epoch, "offset": 2},
            {"device": "phone", "channel": "news", "epoch": parts(news)[0], "offset": 1},
        ]
        asked = await receipts(http, position={"epoch": epoch, "offset": 2})
        assert [(each["device"], each["received"]) for each in asked] == [("laptop", False), ("phone", True)]


async def test_what_cannot_have_been_received_is_refused(two: list[RunningReplica], http: httpx.AsyncClient) -> None:
    """Fails if a client can say that it received what it was not sent, or what it is not on."""
    async with Client(two[0].url, user="bob") as bob:
        await bob.send("bob", 1)
        cursor = (await bob.next("message"))["cursor"]
        epoch, _ = parts(cursor)
        wrong = {
            f"%23bob={epoch}.2": "was sent '#bob' up to",
            f"%23bob={epoch}.{10**19}": "was sent '#bob' up to",
            "%23bob=ffffffff.1": "another epoch",
            f"{cursor}&news=e.1": "not subscribed to 'news'",
            f"%23eve={epoch}.1": "not subscribed to '#eve'",
            "nonsense": "not one that this cluster has given",
            "": "names no channel",
        }
        for number, (text, why) in enumerate(wrong.items()):
            await bob.say({"type": "received", "cursor": text, "id": number})
            error = await bob.next("error", id=number)
            assert why in error["message"], text
            assert error["code"] == "bad_request"
        await bob.say({"type": "received", "id": 99})
        assert (await bob.next("error", id=99))["code"] == "bad_request"
        await bob.nothing_more()
    for device in ("", "x" * 65, "a\nb"):
        async with Client(two[0].url) as bob:
            await bob.say({"type": "connect", "user": "bob", "device": device})
            assert "a device's name" in (await bob.next("error"))["message"]
            assert await bob.close_code() == 3501
    assert await receipts(http) == []


async def test_a_client_that_cannot_send_posts_its_receipts(
    two: list[RunningReplica], http: httpx.AsyncClient
) -> None:
    """Fails if a receipt over HTTP is not noted for its device, or what cannot have been received is."""
    async with Client(two[0].url, user="bob") as bob, http_client(two[1].url) as poster:

        async def say(body: Any, query: str = "?user=bob") -> tuple[int, Any]:
            content = body if isinstance(body, bytes) else msgspec.json.encode(body)
            response = await poster.post(f"/api/received{query}", content=content)
            return response.status_code, response.json()

        await bob.send("bob", 1)
        await bob.say({"type": "publish", "channel": "news", "data": 1, "id": "n"})
        cursor = (await bob.next("message"))["cursor"]
        news = (await bob.next("ack", id="n"))["cursor"]
        epoch, _ = parts(cursor)
        assert await say({"cursor": f"{cursor}&{news}", "device": "tv"}) == (200, {})
        for body, status, why in (
            ({"cursor": f"%23bob={epoch}.2"}, 400, "has kept '#bob' up to"),
            ({"cursor": "%23bob=ffffffff.1"}, 400, "another epoch"),
            ({"cursor": f"news={parts(news)[0]}.9"}, 400, "has not come to"),
            ({"cursor": "news=ffffffff.1"}, 400, "has not come to"),
            ({"cursor": f"{cursor}&other=e.1"}, 503, "how far 'other' has come"),
            ({"cursor": f"%23eve={epoch}.1"}, 403, "own channel of another user"),
            ({"cursor": ""}, 400, "names no channel"),
            ({"cursor": "nonsense"}, 400, "not one that this cluster has given"),
            ({"cursor": cursor, "device": "a\nb"}, 400, "a device's name"),
            ({"device": "tv"}, 400, "the body is not"),
            (b"\xff", 400, "the body is not"),
            (b" " * 65_537, 400, "larger than 65536 bytes"),
        ):
            answer = await say(body)
            assert answer[0] == status, (body, answer)
            assert why in answer[1]["error"]["message"]
        assert (await say({"cursor": cursor}, query=""))[0] == 400

        async def known() -> bool:
            found = {(each["device"], each["channel"]): each["offset"] for each in await receipts(http)}
            return found == {("tv", "#bob"): 1, ("tv", "news"): 1}

        await eventually(known)


async def test_the_python_client_says_what_the_program_has_taken(
    two: list[RunningReplica], http: httpx.AsyncClient
) -> None:
    """Fails if what waits in the client counts, what a handler got does not, or the last is lost at the end."""
    async with connect(two[0].url, user="bob", device="tablet", receipts=True) as bob:
        heard: list[object] = []
        news = bob.subscribe("news", heard.append)
        await news.ready()
        for number in range(3):
            await bob.send("bob", number)
        await bob.publish("news", 1)
        messages = aiter(bob)
        assert [(await anext(messages)).data for _ in range(2)] == [0, 1]
        await eventually(lambda: any(isinstance(each, Message) for each in heard))

    async def known() -> bool:
        found = {(each["device"], each["channel"]): each["offset"] for each in await receipts(http)}
        return found == {("tablet", "#bob"): 2, ("tablet", "news"): 1}

    await eventually(known)


@pytest.mark.parametrize("transport", ["sse", "poll"])
async def test_the_python_client_posts_what_it_has_taken(
    start_replica: StartReplica, transport: Literal["sse", "poll"]
) -> None:
    """Fails if a client without a socket says nothing, or for another device."""
    one = await start_replica(api={"key": KEY}, redis_url=None)
    async with (
        http_client(one.url, headers={"X-API-Key": KEY}) as http,
        connect(one.url, user="bob", device="tv", receipts=True, transports=[transport]) as bob,
    ):
        await http.post("/api/publish", json={"channel": "#bob", "data": 1})
        assert (await anext(aiter(bob))).channel == "#bob"

        async def known() -> bool:
            return [(each["device"], each["offset"]) for each in await receipts(http)] == [("tv", 1)]

        await eventually(known)
