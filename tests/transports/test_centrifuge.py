"""The WebSocket endpoint of Centrifuge SDKs, frame by frame."""

import asyncio
import time
from typing import Any, NoReturn

import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from heliograph.errors import BusUnavailable
from tests.conftest import StartReplica
from tests.support.centrifuge import CentrifugeClient
from tests.support.client import Client
from tests.support.redis_server import RedisServer
from tests.support.replicas import RunningReplica
from tests.support.tokens import JWT, bearer, token
from tests.support.waiting import eventually

NAMESPACES = {
    "short": {"history_size": 2},
    "cursors": {"ephemeral": True},
    "vip": {"client_subscribe": False},
    "board": {"presence": True, "join_leave": True},
}


@pytest.fixture
async def one(start_replica: StartReplica) -> RunningReplica:
    return await start_replica(
        redis_url=None, namespaces=NAMESPACES, emit={"events": ["message"]}, limits={"connections_per_user": 5}
    )


async def publish(replica: RunningReplica, channel: str, *values: Any) -> None:
    for value in values:
        await replica.replica.manager.publish(channel, value)


async def test_tags_come_with_the_publication(one: RunningReplica) -> None:
    """Fails if what a server has attached to a publication does not reach a client, live or later."""
    async with CentrifugeClient(one.url, user="bob") as bob:
        await bob.call("subscribe", channel="news")
        tags = {"kind": "공지"}
        one.replica.manager.submit("news", msgspec.Raw(b"1"), lambda _: None, tags=tags)
        assert (await bob.push("pub", "news"))["tags"] == tags
        [kept] = (await bob.call("history", channel="news", limit=1))["publications"]
        assert kept["tags"] == tags


async def test_a_server_subscribes_a_client(start_replica: StartReplica) -> None:
    """Fails if the client is not told with what, presence does not say it, or the subscription does not end."""
    one = await start_replica(redis_url=None, namespaces=NAMESPACES, auth={"subscription_grace_s": 0})
    commands = one.replica.user_commands
    async with CentrifugeClient(one.url, user="bob") as bob:
        arguments: dict[str, Any] = {"info": msgspec.Raw(b'{"seat":3}'), "data": msgspec.Raw(b'"hi"')}
        await commands.subscribe_user("bob", "board:1", expire_at=time.time() + 0.7, **arguments)
        subscribed = await bob.push("subscribe", "board:1")
        assert (subscribed["data"], subscribed["recoverable"]) == ("hi", True)
        present = (await bob.call("presence", channel="board:1"))["presence"]
        assert [each["chan_info"] for each in present.values()] == [{"seat": 3}]
        await publish(one, "board:1", 1)
        assert await bob.publications("board:1", 1) == [1]
        assert (await bob.push("unsubscribe", "board:1"))["code"] in (2000, 2501)


class TestConnect:
    async def test_everything_in_one_flush(self, one: RunningReplica) -> None:
        """Fails if commands that an SDK sends before the reply to `connect` are lost, or change their order."""
        async with CentrifugeClient(one.url, connect=None) as bob:
            commands = [
                bob.command("connect", data={"user": "bob"}),
                bob.command("subscribe", channel="news", flag=1),
                bob.command("publish", channel="news", data="hello"),
            ]
            await bob.say(*commands)
            replies = [(await bob.reply(each)).keys() for each in commands]
            assert replies == [{"id", "connect"}, {"id", "subscribe"}, {"id", "publish"}]
            assert await bob.publications("news", 1) == ["hello"]

    async def test_the_reply(self, one: RunningReplica) -> None:
        """Fails if an SDK would not learn its id, when to expect pings, or where its own channel stands."""
        async with CentrifugeClient(one.url, user="bob") as bob:
            reply = bob.connected
            assert reply["ping"] == 25
            assert reply["pong"] is True
            assert reply["client"] == reply["session"]
            assert reply["node"] == "replica-1"
            assert reply["subs"].keys() == {"#bob"}
            assert reply["subs"]["#bob"]["recoverable"] is True
            assert "expires" not in reply

    @pytest.mark.parametrize(
        ("frame", "code"),
        [
            ('{"id":1,"subscribe":{"channel":"news"}}', 3501),
            ("{}", 3501),
            ("no json", 3501),
            ('{"id":1,"connect":{}}', 3501),
        ],
    )
    async def test_a_bad_beginning_closes(self, one: RunningReplica, frame: str, code: int) -> None:
        """Fails if a client that is nobody is let in, or is not told that another attempt would not help."""
        async with CentrifugeClient(one.url, connect=None) as nobody:
            await nobody.socket.send(frame)
            assert await nobody.close_code() == code

    async def test_nothing_after_a_close_is_carried_out(self, one: RunningReplica) -> None:
        """Fails if commands of the same frame still have an effect, or count as more attempts of the address."""
        async with Client(one.url, user="alice") as alice, CentrifugeClient(one.url, connect=None) as bob:
            subscribe = bob.command("subscribe", channel="news")
            await bob.say(*[subscribe] * 5)
            assert await bob.close_code() == 3501
            async with CentrifugeClient(one.url, user="bob") as again:
                await again.say({"id": 0, "rpc": {}}, again.command("publish", channel="#alice", data="too late"))
                assert await again.close_code() == 3501
            await alice.nothing_more()
        assert sum(one.replica.telemetry.failed_attempts.values()) == 1

    async def test_too_many_connections_are_final(self, one: RunningReplica) -> None:
        """Fails if an SDK over the limit comes back again and again: 3010 means another thing to it."""
        async with CentrifugeClient(one.url, user="bob") as first:
            others = [CentrifugeClient(one.url, user="bob") for _ in range(4)]
            for other in others:
                await other.__aenter__()
            async with CentrifugeClient(one.url, connect=None) as sixth:
                await sixth.say(sixth.command("connect", data={"user": "bob"}))
                assert await sixth.close_code() == 3504
            for other in others:
                await other.socket.close()
            assert await first.call("unsubscribe", channel="x") == {}

    async def test_more_positions_than_channels(self, one: RunningReplica) -> None:
        """Fails if one frame of a client makes the server look at any number of channels."""
        subs = {f"channel:{number}": {"recover": True} for number in range(1000)}
        async with CentrifugeClient(one.url, connect=None) as bob:
            await bob.say(bob.command("connect", data={"user": "bob"}, subs=subs))
            assert await bob.close_code() == 3501

    async def test_a_log_that_cannot_be_read_now(self, one: RunningReplica, monkeypatch: pytest.MonkeyPatch) -> None:
        """Fails if a client waits for its reply until the log is back, or never learns where its channel stands."""

        async def fail(requests: object) -> NoReturn:
            raise BusUnavailable("not now")

        with monkeypatch.context() as patch:
            patch.setattr(one.replica.backends.log, "read", fail)
            async with CentrifugeClient(one.url, user="bob") as bob:
                assert bob.connected["subs"] == {"#bob": {}}
                patch.undo()
                assert (await bob.push("subscribe", "#bob"))["recoverable"] is True
                await publish(one, "#bob", "there")
                assert await bob.publications("#bob", 1) == ["there"]

    async def test_the_user_in_the_url(self, one: RunningReplica) -> None:
        """Fails if a client in open mode cannot say who it is in its address, as on `/ws`."""
        async with CentrifugeClient(one.url, query="?user=bob") as bob:
            assert bob.connected["subs"].keys() == {"#bob"}


class TestSubscriptions:
    async def test_a_subscription_begins_at_the_top_and_recovers(self, one: RunningReplica) -> None:
        """Fails if a first subscription gets old publications, or one that returns misses or repeats any."""
        await publish(one, "news", 1, 2)
        async with CentrifugeClient(one.url, user="bob") as bob:
            begun = await bob.call("subscribe", channel="news")
            assert begun["offset"] == 2
            assert "was_recovering" not in begun
            await publish(one, "news", 3)
            pub = await bob.push("pub", "news")
            assert pub == {"data": 3, "offset": 3}
            assert await bob.call("unsubscribe", channel="news") == {}
            await publish(one, "news", 4, 5)
            position = {"recover": True, "epoch": begun["epoch"], "offset": 3}
            again = await bob.call("subscribe", channel="news", **position)
            assert again["recovered"] is again["was_recovering"] is True
            assert again["offset"] == 3, "the position that the client stated; publications bring it further"
            await publish(one, "news", 6)
            assert await bob.publications("news", 3) == [4, 5, 6]

    async def test_what_cannot_be_recovered(self, one: RunningReplica) -> None:
        """Fails if a client is told less than the truth, gets a part of what it missed, or is refused unasked."""
        await publish(one, "short:a", *range(9))
        async with CentrifugeClient(one.url, user="bob") as bob:
            top = await bob.call("subscribe", channel="short:a")
            await bob.call("unsubscribe", channel="short:a")
            old = {"channel": "short:a", "recover": True, "epoch": top["epoch"], "offset": 1}
            assert (await bob.refused("subscribe", **old, flag=2))["code"] == 112
            result = await bob.call("subscribe", **old)
            assert result["was_recovering"] is True
            assert "recovered" not in result
            assert result["offset"] == top["offset"]
            await publish(one, "short:a", "next")
            assert await bob.publications("short:a", 1) == ["next"]

    async def test_a_position_without_an_epoch(self, one: RunningReplica) -> None:
        """Fails if a client that knows only the offset cannot recover."""
        await publish(one, "news", 1, 2)
        async with CentrifugeClient(one.url, user="bob") as bob:
            result = await bob.call("subscribe", channel="news", recover=True, offset=1)
            assert result["recovered"] is True
            assert await bob.publications("news", 1) == [2]

    async def test_the_errors_that_sdks_act_on(self, one: RunningReplica) -> None:
        """Fails if a number is another one, so that an SDK gives up what it should try again, or the reverse."""
        async with CentrifugeClient(one.url, user="bob") as bob:
            await bob.call("subscribe", channel="news")
            assert (await bob.refused("subscribe", channel="news"))["code"] == 105
            assert (await bob.refused("subscribe", channel="#bob"))["code"] == 105
            assert (await bob.refused("subscribe", channel="#alice"))["code"] == 103
            assert (await bob.refused("subscribe", channel="vip:a"))["code"] == 103
            assert (await bob.refused("subscribe"))["code"] == 107
            assert (await bob.refused("publish", channel="news"))["code"] == 107
            assert (await bob.refused("dance"))["code"] == 104
            assert (await bob.refused("rpc", method="sum"))["code"] == 108

    async def test_a_channel_that_keeps_nothing(self, one: RunningReplica) -> None:
        """Fails if an SDK tries to recover where nothing is kept."""
        async with CentrifugeClient(one.url, user="bob") as bob:
            result = await bob.call("subscribe", channel="cursors:a")
            assert "recoverable" not in result
            await bob.call("publish", channel="cursors:a", data=1)
            pub = await bob.push("pub", "cursors:a")
            assert pub == {"data": 1, "info": {"user": "bob", "client": bob.connected["client"]}}

    async def test_a_run(self, one: RunningReplica) -> None:
        """Fails if a run is not a channel of updates that begins with its state, or recovers as none."""
        await publish(one, "run:7", {"state": "RUNNING", "progress": 10, "message": "begun"})
        async with CentrifugeClient(one.url, user="bob") as bob:
            begun = await bob.call("subscribe", channel="run:7")
            state = await bob.push("pub", "run:7")
            assert state["offset"] == begun["offset"] == 1
            assert state["data"] == {"state": "RUNNING", "progress": 10, "message": None, "logs": ["begun"]}
            await publish(one, "run:7", {"progress": 20, "message": "more"})
            update = await bob.push("pub", "run:7")
            assert update == {"offset": 2, "data": {"state": "RUNNING", "progress": 20, "message": "more"}}
            await bob.call("unsubscribe", channel="run:7")
            again = await bob.call("subscribe", channel="run:7", recover=True, offset=1, epoch=begun["epoch"])
            assert again["recovered"] is True
            assert await bob.push("pub", "run:7") == update

    async def test_the_server_takes_a_client_off_a_channel(self, one: RunningReplica) -> None:
        """Fails if an SDK is not told, or told to subscribe again."""
        async with CentrifugeClient(one.url, user="bob") as bob:
            await bob.call("subscribe", channel="news")
            await one.replica.user_commands.unsubscribe_user("bob", "news")
            assert (await bob.push("unsubscribe", "news"))["code"] == 2000

    async def test_the_server_takes_a_client_off_a_channel_that_it_is_joining(
        self, start_replica: StartReplica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if a client that joins several channels at once hears of its end twice, or never."""
        one = await start_replica(redis_url=None, auth=JWT)
        log, may_read = one.replica.backends.log, asyncio.Event()
        read = log.read

        async def late(requests: Any) -> Any:
            await may_read.wait()
            return await read(requests)

        monkeypatch.setattr(log, "read", late)
        async with CentrifugeClient(one.url, connect=None) as bob:
            command = bob.command("connect", token=token("bob", channels=["news", "sport"]))
            await bob.say(command)
            await eventually(lambda: one.replica.hub.count("bob"))
            await asyncio.sleep(0.05)
            await one.replica.user_commands.unsubscribe_user("bob", "news")
            may_read.set()
            assert (await bob.reply(command))["connect"]["subs"].keys() >= {"#bob", "sport"}
            assert (await bob.push("unsubscribe", "news"))["code"] == 2000
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(bob.push("unsubscribe"), 0.2)


class TestThePersonalChannel:
    async def test_messages_to_the_user(self, one: RunningReplica) -> None:
        """Fails if what a plain client sends does not come as a publication, or is lost while the client is away."""
        async with Client(one.url, user="alice") as alice:
            async with CentrifugeClient(one.url, user="bob") as bob:
                begun = bob.connected["subs"]["#bob"]
                await alice.send("bob", 1)
                pub = await bob.push("pub", "#bob")
                assert pub == {"data": 1, "offset": 1, "info": {"user": "alice", "client": ""}}
                await bob.call("publish", channel="#alice", data="answer")
                assert await alice.messages(1) == ["answer"]
            await alice.send("bob", 2)
            subs = {"#bob": {"recover": True, "epoch": begun["epoch"], "offset": 1}}
            async with CentrifugeClient(one.url, user="bob", connect={"subs": subs}) as bob:
                result = bob.connected["subs"]["#bob"]
                assert result["recovered"] is True
                assert result["offset"] == 1
                assert await bob.publications("#bob", 1) == [2]

    async def test_a_long_absence(self, one: RunningReplica) -> None:
        """Fails if the reply waits for what the client has missed, which waits for the reply."""
        large = "x" * 40_000
        async with CentrifugeClient(one.url, user="bob") as bob:
            begun = bob.connected["subs"]["#bob"]
        subs = {"#bob": {"recover": True, "epoch": begun["epoch"]}}
        for channel in ("news", "more"):
            subs[channel] = {"recover": True}
            await publish(one, channel, *[large] * 10)
        await publish(one, "#bob", *[large] * 20)
        async with CentrifugeClient(one.url, user="bob", connect={"subs": subs}) as bob:
            assert [each["recovered"] for each in bob.connected["subs"].values()] == [True] * 3
            for channel, count in (("#bob", 20), ("news", 10), ("more", 10)):
                assert await bob.publications(channel, count) == [large] * count


class TestPings:
    async def test_a_client_that_answers_stays(self, start_replica: StartReplica) -> None:
        """Fails if the server does not ping, or takes an answer for none."""
        one = await start_replica(redis_url=None, ping={"interval_s": 1, "timeout_s": 1})
        async with (
            CentrifugeClient(one.url, user="bob") as bob,
            CentrifugeClient(one.url, user="eve", pongs=False) as eve,
        ):
            assert bob.connected["ping"] == 1
            waiting = asyncio.create_task(bob.push("pub", "#bob"))
            with pytest.raises(Exception, match="3012"):
                await eve.push("pub")
            await publish(one, "#bob", "still there")
            assert (await waiting)["data"] == "still there"
            assert bob.pings >= 1

    async def test_an_answer_to_no_ping_closes(self, one: RunningReplica) -> None:
        """Fails if a client may send what costs a frame and means nothing."""
        async with CentrifugeClient(one.url, user="bob") as bob:
            await bob.say({})
            assert await bob.close_code() == 3501


class TestTokens:
    async def test_a_token_is_refreshed_in_band(self, start_replica: StartReplica) -> None:
        """Fails if an SDK is not told when to refresh, or a refresh has another form."""
        one = await start_replica(redis_url=None, auth=JWT)
        async with CentrifugeClient(one.url, connect={"token": token("bob", expires_in=60)}) as bob:
            assert bob.connected["expires"] is True
            assert 40 < bob.connected["ttl"] < 60
            refreshed = await bob.call("refresh", token=token("bob", expires_in=600))
            assert 560 < refreshed["ttl"] < 600
            assert refreshed["client"] == bob.connected["client"]
            assert (await bob.refused("refresh", token=token("eve")))["code"] == 103

    @pytest.mark.parametrize(
        ("text", "code"), [(token("bob", key="x" * 32), 3500), (token("bob", expires_in=-60), 3005)]
    )
    async def test_a_token_that_is_not_valid(self, start_replica: StartReplica, text: str, code: int) -> None:
        """Fails if an SDK goes on with a token that will never do, or gets no other for one that has expired."""
        one = await start_replica(redis_url=None, auth=JWT)
        async with CentrifugeClient(one.url, connect=None) as bob:
            command = bob.command("connect", token=text)
            await bob.say(command)
            if code == 3005:
                assert (await bob.reply(command))["error"]["code"] == 109
            assert await bob.close_code() == code

    async def test_a_token_in_a_header(self, start_replica: StartReplica) -> None:
        """Fails if a header of the handshake counts for more than the command, or a client gets a bare 401 for it."""
        one = await start_replica(redis_url=None, auth=JWT)
        for header, stated, user in (
            (bearer("eve"), {"token": token("bob")}, "bob"),
            (bearer("eve", expires_in=-60), {"token": token("bob")}, "bob"),
            (bearer("eve"), {}, "eve"),
        ):
            async with CentrifugeClient(one.url, connect=stated, headers=header) as client:
                assert client.connected["subs"].keys() == {f"#{user}"}
        expired = CentrifugeClient(one.url, connect=None, headers=bearer("eve", expires_in=-60))
        async with expired as client:
            assert (await client.refused("connect"))["code"] == 109


class TestOneChannelTwoProtocols:
    async def test_same_offsets_same_order(self, start_replica: StartReplica) -> None:
        """Fails if clients of the two protocols see a channel differently, on one replica or on two."""
        one, two = await start_replica("replica-1"), await start_replica("replica-2")
        async with Client(one.url, user="alice") as alice, CentrifugeClient(two.url, user="bob") as bob:
            await alice.say({"type": "subscribe", "channel": "news"})
            cursor = (await alice.next("subscribed"))["cursor"]
            position = await bob.call("subscribe", channel="news")
            for number in range(20):
                if number % 2:
                    await bob.call("publish", channel="news", data=number)
                else:
                    await alice.say({"type": "publish", "channel": "news", "data": number, "id": number})
                    await alice.next("ack", id=number)
            pubs = [await bob.push("pub", "news") for _ in range(20)]
            messages = [await alice.next("message") for _ in range(20)]
            assert [each["data"] for each in pubs] == [each["data"] for each in messages] == list(range(20))
            epoch = position["epoch"]
            assert [f"news={epoch}.{each['offset']}" for each in pubs] == [each["cursor"] for each in messages]
            assert [each["info"]["user"] for each in pubs] == [each["from"] for each in messages]
        # Both are away; each recovers from its own position.
        await publish(one, "news", "while away")
        async with Client(two.url, user="alice") as alice, CentrifugeClient(one.url, user="bob") as bob:
            await alice.say({"type": "subscribe", "channel": "news", "cursor": cursor})
            assert (await alice.next("subscribed"))["recovered"] is True
            assert (await alice.messages(21))[-1] == "while away"
            again = await bob.call(
                "subscribe", channel="news", recover=True, epoch=epoch, offset=position.get("offset", 0)
            )
            assert again["recovered"] is True
            assert (await bob.publications("news", 21))[-1] == "while away"

    async def test_a_gap_that_cannot_be_filled(self, start_replica: StartReplica, own_redis: RedisServer) -> None:
        """Fails if an SDK goes on over a gap without a word, or cannot subscribe again after it."""
        one = await start_replica(redis_url=own_redis.url, channels={"heartbeat_s": 0.2})
        async with Client(one.url, user="alice") as alice, CentrifugeClient(one.url, user="bob") as bob:
            await alice.say({"type": "subscribe", "channel": "news"})
            await alice.next("subscribed")
            begun = await bob.call("subscribe", channel="news")
            await bob.call("publish", channel="news", data=1)
            own_redis.command("FLUSHALL")
            assert (await bob.push("unsubscribe", "news"))["code"] == 2500
            assert (await alice.next("subscribed", within_s=8))["recovered"] is False
            again = await bob.call("subscribe", channel="news", recover=True, epoch=begun["epoch"], offset=1)
            assert "recovered" not in again
            assert again["epoch"] != begun["epoch"]
            await publish(one, "news", "after")
            assert (await bob.publications("news", 2))[-1] == "after"
            pushed = await bob.push("subscribe", "#bob")
            assert pushed["epoch"] != bob.connected["subs"]["#bob"]["epoch"]


class TestOthers:
    async def test_an_asynchronous_message_is_emitted(self, one: RunningReplica) -> None:
        """Fails if what a client sends without an id is answered, or closes the connection."""
        async with CentrifugeClient(one.url, user="bob") as bob:
            await bob.say({"send": {"data": {"clicked": 1}}})
            assert await bob.settled() == []
            assert one.replica.telemetry.frames_refused["unavailable"] == 1, "without Redis nothing is emitted"  # type: ignore[index]

    async def test_joins_and_leaves(self, start_replica: StartReplica) -> None:
        """Fails if an SDK that asks for it is not told who comes and goes, or one that does not ask is."""
        one = await start_replica(redis_url=None, namespaces=NAMESPACES)
        async with CentrifugeClient(one.url, user="bob") as bob, CentrifugeClient(one.url, user="carl") as carl:
            await carl.call("subscribe", channel="board:a")
            await bob.call("subscribe", channel="board:a", join_leave=True)
            async with Client(one.url, user="alice") as alice:
                await alice.say({"type": "subscribe", "channel": "board:a"})
                infos = [(await bob.push("join", "board:a"))["info"] for _ in range(2)]
                assert infos[0] == {"user": "bob", "client": bob.connected["client"]}
                assert (infos[1]["user"], infos[1]["client"]) == ("alice", alice.connected["session"])
            assert (await bob.push("leave", "board:a"))["info"] == infos[1]
            assert not [each for each in await carl.settled() if "join" in each.get("push", {})]

    async def test_a_draining_replica_closes_with_a_code_after_which_sdks_come_back(
        self, start_replica: StartReplica
    ) -> None:
        """Fails if a client hears what it cannot read, or stays away."""
        one = await start_replica(redis_url=None)
        async with CentrifugeClient(one.url, user="bob") as bob:
            stopping = asyncio.create_task(one.stop())
            assert await bob.close_code() == 3001
            await stopping
        await eventually(lambda: one.task.done())


class TestHistory:
    async def test_both_directions(self, one: RunningReplica) -> None:
        """Fails if a page is in the wrong order, or lacks or repeats a publication."""
        await publish(one, "news", *range(1, 8))
        async with CentrifugeClient(one.url, user="bob") as bob:

            async def offsets(**fields: Any) -> list[int]:
                result = await bob.call("history", channel="news", **fields)
                assert result["offset"] == 7
                found = result.get("publications", [])
                assert [each["offset"] for each in found] == [each["data"] for each in found]
                return [each["offset"] for each in found]

            epoch = (await bob.call("history", channel="news"))["epoch"]
            assert await offsets() == []
            assert await offsets(limit=-1) == [1, 2, 3, 4, 5, 6, 7]
            assert await offsets(limit=2) == [1, 2]
            assert await offsets(limit=2, since={"offset": 4, "epoch": epoch}) == [5, 6]
            assert await offsets(limit=-1, since={"offset": 5}) == [6, 7]
            assert await offsets(limit=2, reverse=True) == [7, 6]
            assert await offsets(limit=-1, reverse=True, since={"offset": 4, "epoch": epoch}) == [3, 2, 1]
            assert await offsets(limit=-1, reverse=True, since={"offset": 1}) == []
            other = {"offset": 1, "epoch": "other"}
            assert (await bob.refused("history", channel="news", since=other, limit=1))["code"] == 112

    async def test_what_is_no_longer_kept(self, one: RunningReplica) -> None:
        """Fails if publications that are gone hide those that are kept."""
        await publish(one, "short:a", *range(1, 600))
        async with CentrifugeClient(one.url, user="bob") as bob:
            for fields in ({"limit": -1}, {"limit": -1, "since": {"offset": 3}}):
                found = await bob.call("history", channel="short:a", **fields)
                assert [each["data"] for each in found["publications"]][-2:] == [598, 599]
            found = await bob.call("history", channel="short:a", limit=-1, reverse=True)
            assert [each["data"] for each in found["publications"]][:2] == [599, 598]

    async def test_a_long_history_comes_in_parts(self, one: RunningReplica, monkeypatch: pytest.MonkeyPatch) -> None:
        """Fails if one answer may be as large as everything that is kept, or much more is read for it."""
        await publish(one, "news", *["x" * 10_000] * 60)
        log, counted = one.replica.backends.log, [0]
        read = log.read

        async def count(requests: Any) -> Any:
            results = await read(requests)
            counted[0] += sum(len(each.publications) for each in results)
            return results

        monkeypatch.setattr(log, "read", count)
        async with CentrifugeClient(one.url, user="bob") as bob:
            forwards = await bob.call("history", channel="news", limit=-1)
            counted[0] = 0
            backwards = await bob.call("history", channel="news", limit=-1, reverse=True)
            assert counted[0] < 40
            assert 20 < len(forwards["publications"]) < 30
            assert [each["offset"] for each in backwards["publications"]][:3] == [60, 59, 58]
            assert len(backwards["publications"]) == len(forwards["publications"])
            await publish(one, "news", "x" * 300_000)
            large = await bob.call("history", channel="news", limit=-1, reverse=True)
            assert [each["offset"] for each in large["publications"]] == [61]


class TestProtobuf:
    @pytest.mark.parametrize("how", ["subprotocol", "query"])
    async def test_binary_frames(self, one: RunningReplica, how: str) -> None:
        """Fails if an SDK that asks for Protobuf gets JSON, or a subprotocol that it did not offer."""
        url = one.url.replace("http", "ws", 1) + "/connection/websocket?user=bob"
        offered = [Subprotocol("centrifuge-protobuf")] if how == "subprotocol" else None
        if how == "query":
            url += "&cf_protocol=protobuf"
        async with connect(url, proxy=None, subprotocols=offered) as socket:
            assert socket.subprotocol == (offered[0] if offered else None)
            await socket.send(b"\x04\x08\x01\x22\x00" + b"\x0a\x08\x02\x2a\x06\x0a\x04news")
            first, second = await socket.recv(), await socket.recv()
            assert isinstance(first, bytes)
            assert b"#bob" in first
            assert isinstance(second, bytes)
            assert second[1:3] == b"\x08\x02"
            await publish(one, "news", {"a": 1})
            pushed = await socket.recv()
            assert isinstance(pushed, bytes)
            assert b'{"a":1}' in pushed
