"""One cursor, every transport, any replica: a client that keeps moving misses and repeats nothing."""

import asyncio
import random
from typing import Any
from urllib.parse import urlencode

import pytest

from heliograph.codecs.plain.bookmark import Bookmark
from heliograph.codecs.plain.cursor import parse_cursor
from heliograph.protocol.position import Positions
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.event_source import EventSource
from tests.support.http import http_client
from tests.support.poller import Poller
from tests.support.replicas import RunningReplica
from tests.support.waiting import eventually

USER = "우주여행고양이"
CHANNELS = ("news", "방:42")
OWN = f"#{USER}"
KEPT = {"history_size": 5000}
NAMESPACES = {"": KEPT, "#": {**KEPT, "client_publish": False}}


class Wanderer:
    """Reads by one endpoint after the other. Keeps what it has got of each channel, and where it stands."""

    def __init__(self) -> None:
        self.got: dict[str, list[int]] = {OWN: [], **{channel: [] for channel in CHANNELS}}
        self.lost: list[str] = []  # channels whose recovery was denied
        self.cursor = ""

    def take(self, event: dict[str, object]) -> None:
        if event["type"] == "message":
            self.got[str(event["channel"])].append(event["data"]["number"])  # type: ignore[index]
        elif event["type"] == "subscribed" and self.cursor and not event["recovered"]:
            self.lost.append(str(event["channel"]))

    @property
    def count(self) -> int:
        return sum(map(len, self.got.values()))

    async def websocket(self, replica: RunningReplica, count: int) -> None:
        """Read until `count` messages more have come."""
        query = {"user": USER, "channels": ",".join(CHANNELS), "cursor": self.cursor}
        bookmark, subscribed, until = Bookmark(), 0, self.count + count
        async with Client(replica.url, path=f"/ws?{urlencode(query)}") as client:
            while self.count < until or subscribed < len(CHANNELS) + bool(self.cursor):
                event = await client.next("connected", "subscribed", "message")
                subscribed += event["type"] == "subscribed"
                bookmark.move(parse_cursor(event["cursor"]))
                self.take(event)
        self.cursor = str(bookmark)

    async def sse(self, replica: RunningReplica, count: int) -> None:
        until = self.count + count
        channels = ",".join(CHANNELS)
        async with EventSource(replica.url, last_event_id=self.cursor, user=USER, channels=channels) as events:
            while self.count < until:
                self.take(await events.event())
            self.cursor = events.last_event_id

    async def poll(self, replica: RunningReplica, count: int) -> None:
        until = self.count + count
        async with Poller(replica.url, cursor=self.cursor, user=USER, channels=",".join(CHANNELS)) as poller:
            while self.count < until:
                for event in await poller.poll():
                    self.take(event)
                self.cursor = poller.cursor


async def three(start_replica: StartReplica) -> list[RunningReplica]:
    return [await start_replica(f"replica-{number}", namespaces=NAMESPACES) for number in (1, 2, 3)]


async def publish(replicas: list[RunningReplica], each: int, dice: random.Random) -> None:
    """Messages numbered from 1 on each of the channels, published on any replica."""
    for number in range(1, each + 1):
        for channel in (OWN, *CHANNELS):
            data = {"number": number, "text": f"{number}번째 메시지"}
            await dice.choice(replicas).replica.manager.publish(channel, data)
        await asyncio.sleep(0)


async def test_from_socket_to_stream_to_polls_and_back(start_replica: StartReplica) -> None:
    """Fails if an endpoint leaves a channel out of its cursor, or says it is elsewhere than what it has told."""
    replicas, dice, each = await three(start_replica), random.Random(1), 120
    wanderer = Wanderer()
    await wanderer.websocket(replicas[0], 0)
    assert set(parse_cursor(wanderer.cursor)) == {OWN, *CHANNELS}
    publishing = asyncio.create_task(publish(replicas, each, dice))
    await wanderer.websocket(replicas[0], 20)
    await wanderer.sse(replicas[1], 50)
    await wanderer.poll(replicas[2], 50)
    await wanderer.websocket(replicas[1], 50)
    await wanderer.sse(replicas[2], 1)
    await wanderer.websocket(replicas[0], 3 * each - wanderer.count)
    await publishing
    assert wanderer.got == {channel: list(range(1, each + 1)) for channel in (OWN, *CHANNELS)}
    assert wanderer.lost == []


@pytest.mark.parametrize("seed", range(3))
async def test_any_way_through_doors_and_replicas(start_replica: StartReplica, seed: int) -> None:
    """Fails if some order of endpoints, replicas and moments loses or repeats something."""
    replicas, dice, each = await three(start_replica), random.Random(seed), 100
    wanderer = Wanderer()
    await wanderer.websocket(replicas[0], 0)
    publishing = asyncio.create_task(publish(replicas, each, dice))
    while (left := 3 * each - wanderer.count) > 0:
        endpoint = dice.choice((wanderer.websocket, wanderer.sse, wanderer.poll))
        await endpoint(dice.choice(replicas), min(left, dice.choice((1, 2, 7, 40))))
    await publishing
    assert wanderer.got == {channel: list(range(1, each + 1)) for channel in (OWN, *CHANNELS)}
    assert wanderer.lost == []


async def test_what_a_drain_says_is_whole(start_replica: StartReplica) -> None:
    """Fails if `reconnect` leaves out a channel, or its cursor is not where the client stands."""
    one = await start_replica("replica-1", drain={"grace_s": 0.5, "window_s": 0})
    two = await start_replica("replica-2")
    async with Client(one.url, path=f"/ws?{urlencode({'user': USER, 'channels': ','.join(CHANNELS)})}") as client:
        for _ in CHANNELS:
            await client.next("subscribed")
        last = Positions()
        for number in range(3):
            for channel in (OWN, *CHANNELS):
                await two.replica.manager.publish(channel, number)
                last |= parse_cursor((await client.next("message"))["cursor"])
        one.server.handle_exit(15, None)
        assert parse_cursor((await client.next("reconnect"))["cursor"]) == last
        assert set(last) == {OWN, *CHANNELS}
    await one.task


async def test_what_a_drain_says_to_one_that_is_still_catching_up(start_replica: StartReplica) -> None:
    """Fails if a client that is sent off in the middle of its history would lose the rest of it, or begin anew."""
    one = await start_replica("replica-1", namespaces=NAMESPACES, channels={"page": 10}, drain={"grace_s": 0.3})
    two = await start_replica("replica-2", namespaces=NAMESPACES)
    block = "x" * 20_000
    begin = (await two.replica.manager.publish("news", "first")).position
    for number in range(300):
        await two.replica.manager.publish("news", [number, block])
    assert begin is not None
    query = {"user": USER, "cursor": f"news={begin.epoch}.{begin.offset}"}
    async with Client(one.url, path=f"/ws?{urlencode(query)}") as client:
        await client.next("message")  # and read no further: what is left does not fit into the socket
        [connection] = list(one.replica.hub)
        cursor = one.replica.channels.joining.positions_of(connection)
        assert begin.offset < cursor["news"].offset < begin.offset + 300
        one.server.handle_exit(15, None)
        reconnect = await client.next("reconnect")
        told = [frame for frame in client._seen if frame["type"] == "message"]
        assert parse_cursor(reconnect["cursor"])["news"] == parse_cursor(told[-1]["cursor"])["news"]
    await one.task


@pytest.mark.parametrize("by", ["redis", "memory"])
async def test_who_comes_for_the_first_time_may_have_all_that_is_kept(start_replica: StartReplica, by: str) -> None:
    """Fails if a first visit cannot get, by every transport, what was sent to the user and said before it."""
    one = await start_replica() if by == "redis" else await start_replica(redis_url=None)
    for number in range(3):
        for channel in (OWN, "news"):
            await one.replica.manager.publish(channel, number)
    # `replay` for the user's own channel; the position 0.0, which is in no log, for the others.
    query: dict[str, Any] = {"user": USER, "channels": "news", "cursor": "news=0.0", "replay": ""}
    async with Client(one.url, path=f"/ws?{urlencode(query)}") as client:
        by_socket = [await client.next("message") for _ in range(6)]
    async with EventSource(one.url, **query) as events:
        by_stream = [await events.next("message") for _ in range(6)]
    async with Poller(one.url, **query) as poller:
        answer = (await poller.ask(wait=0)).json()
        by_poll = [event for event in answer["events"] if event["type"] == "message"]
    for told in (by_socket, by_stream, by_poll):
        for channel in (OWN, "news"):
            assert [each["data"] for each in told if each["channel"] == channel] == [0, 1, 2]
    assert set(parse_cursor(answer["cursor"])) == {OWN, "news"}


async def test_a_name_with_a_comma_is_one_channel_at_every_door(start_replica: StartReplica) -> None:
    """Fails if `orders:1,2` is taken for two other channels, on which nothing ever comes."""
    one = await start_replica(redis_url=None)
    query = urlencode([("user", USER), ("channel", "orders:1,2"), ("channels", "a,b"), ("channel", "orders:3")])
    expected = {"orders:1,2", "a", "b", "orders:3"}
    async with (
        Client(one.url, path=f"/ws?{query}") as socket,
        http_client(one.url) as http,
        http.stream("GET", f"/sse?{query}") as stream,
    ):
        assert stream.status_code == 200
        assert {(await socket.next("subscribed"))["channel"] for _ in expected} == expected
        events = (await http.get(f"/api/poll?{query}")).json()["events"]
        assert {event["channel"] for event in events} == expected
        await eventually(
            lambda: {frozenset(each.channels) for each in one.replica.hub} == {frozenset({OWN, *expected})}
        )


@pytest.mark.parametrize("twice", ["user=alice&user=bob", "user=alice&cursor=a&cursor=b", "user=alice&channels=a,,b"])
async def test_a_url_that_cannot_be_is_refused_at_every_door(start_replica: StartReplica, twice: str) -> None:
    """Fails if one of two values, or an empty name, is passed over in silence."""
    one = await start_replica(redis_url=None)
    async with http_client(one.url) as http:
        for path in ("/sse", "/api/poll"):
            answer = await http.get(f"{path}?{twice}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")
    async with Client(one.url, path=f"/ws?{twice}") as socket:
        assert (await socket.next("error"))["code"] == "bad_request"
