"""`heliograph.connect` against real replicas."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import heliograph
from heliograph import (
    AsyncPublisher,
    BadChannel,
    BadData,
    BadSetting,
    ChannelSubscription,
    Client,
    ClientClosed,
    ClientError,
    ClientState,
    Joined,
    Lost,
    Message,
    NoSocket,
    NotAnswered,
    RequestRefused,
    RunProgress,
    RunState,
)
from heliograph.client.connection.events import Transport
from heliograph.client.connection.link import INVALID_TOKEN, Closed
from heliograph.client.connection.socket_link import SocketLink
from tests.conftest import StartReplica
from tests.support.gate import gate_to
from tests.support.redis_server import RedisServer
from tests.support.tokens import JWT, OPENED, soon, token
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("sooner_for_clients")

TRANSPORTS: tuple[Transport, ...] = ("websocket", "sse", "poll")


@asynccontextmanager
async def publisher_of(redis_server: RedisServer, namespace: str) -> AsyncIterator[AsyncPublisher]:
    async with AsyncPublisher(
        redis_server.url, prefix=f"{namespace}:", bus_channel=f"{namespace}:events"
    ) as publisher:
        yield publisher


async def data_of(source: Client | ChannelSubscription, count: int) -> list[Any]:
    """The data of the next messages."""
    found = []
    async with asyncio.timeout(10):
        async for message in source:
            found.append(message.data)
            if len(found) == count:
                break
    return found


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_is_said_is_heard_over_every_transport(start_replica: StartReplica, transport: Transport) -> None:
    """Fails if a transport loses, repeats or reorders messages, or gives them without who, when and where."""
    replica = await start_replica()
    async with (
        heliograph.connect(replica.url, user="bob", channels=["news", "a,b"], transports=[transport]) as bob,
        heliograph.connect(replica.url, user="alice") as alice,
    ):
        assert bob.state.state == "connected"
        assert (bob.state.user, bob.state.replica, bob.state.transport) == ("bob", "replica-1", transport)
        ack = await alice.send("bob", {"text": "우주여행고양이 \u2028"})
        assert ack.delivery == "local"
        published = await alice.publish("news", 2)
        await alice.publish("a,b", 3, ephemeral=True)
        found: list[Message] = []
        async for message in bob:
            found.append(message)
            if len(found) == 3:
                break
        by_channel = {message.channel: message for message in found}
        mine = by_channel["#bob"]
        assert (mine.data, mine.sender, mine.message_id) == (
            {"text": "우주여행고양이 \u2028"},
            "alice",
            ack.message_id,
        )
        assert mine.sent_at.endswith("Z")
        assert by_channel["news"].cursor == published.cursor
        assert (by_channel["a,b"].data, by_channel["a,b"].cursor) == (3, None)


async def test_history_presence_and_runs(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if what is kept, who is there, or how a run stands cannot be asked for."""
    replica = await start_replica()
    async with (
        publisher_of(redis_server, namespace) as publisher,
        heliograph.connect(replica.url, user="alice") as alice,
    ):
        for number in range(3):
            await publisher.publish("chat:1", number)
        page = await alice.history("chat:1", limit=2)
        assert ([each.data for each in page.publications], page.more) == ([0, 1], True)
        rest = await alice.history("chat:1", cursor=page.cursor)
        assert ([each.data for each in rest.publications], rest.more) == ([2], False)
        async with alice.subscribe("chat:1"):

            async def is_there() -> bool:
                return await alice.presence("chat:1") == {"alice": 1}

            await eventually(is_there)
        assert await alice.get_run("7") is None
        await publisher.publish_progress("7", "RUNNING", 40, "half way")
        run = await alice.get_run("7")
        assert run == RunState("run:7", "RUNNING", 40, ("half way",))


async def test_a_run_is_followed_by_all_who_ask(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if a viewer does not learn the state first, or the second viewer of a run on a client learns nothing."""
    replica = await start_replica()
    async with (
        publisher_of(redis_server, namespace) as publisher,
        heliograph.connect(replica.url, user="alice") as alice,
    ):
        await publisher.publish_progress("7", "RUNNING", 40, "half way")
        events: list[object] = []
        handled = alice.subscribe("run:7", events.append)
        await handled.ready()
        await eventually(lambda: handled.run is not None)
        async with alice.subscribe("run:7") as second:
            await eventually(lambda: second.run == handled.run)
            await publisher.publish_progress("7", "END", log="done")
            async for event in second.events():
                if isinstance(event, RunProgress):
                    break
        assert second.run is not None
        assert (second.run.state, second.run.progress, second.run.logs) == ("END", 40, ("half way", "done"))
        assert [type(event).__name__ for event in events] == ["Subscribed", "RunState", "RunProgress"]
        with pytest.raises(TypeError, match="handler"):
            await data_of(handled, 1)


async def test_who_comes_and_goes(start_replica: StartReplica) -> None:
    """Fails if a program cannot see who joins a channel that tells that."""
    replica = await start_replica()
    async with (
        heliograph.connect(replica.url, user="alice") as alice,
        alice.subscribe("chat:1") as chat,
        heliograph.connect(replica.url, user="bob", channels=["chat:1"]),
        asyncio.timeout(5),
    ):
        async for event in chat.events():
            if event == Joined("chat:1", "bob"):
                break


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_it_goes_on_on_another_replica_where_it_was(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str, transport: Transport
) -> None:
    """Fails if a broken connection loses or repeats a message, or tells of a loss that was none."""
    first, second = await start_replica("replica-1"), await start_replica("replica-2")
    lost: list[Lost] = []
    async with publisher_of(redis_server, namespace) as publisher, gate_to(first.url) as gate:
        options: dict[str, Any] = {"user": "bob", "channels": ["news"], "transports": [transport]}
        async with heliograph.connect(gate.url, **options) as bob:
            bob.on("lost", lost.append)
            await publisher.publish("news", 0)
            assert await data_of(bob, 1) == [0]
            gate.target = 0
            gate.cut()
            await eventually(lambda: bob.state.state == "reconnecting")
            for number in range(1, 20):
                await publisher.publish("news", number)
                await publisher.send_to_user("bob", f"mine {number}")
            gate.target = int(second.url.rpartition(":")[2])
            found = await data_of(bob, 38)
            assert [each for each in found if isinstance(each, int)] == list(range(1, 20))
            assert [each for each in found if isinstance(each, str)] == [f"mine {number}" for number in range(1, 20)]
            assert bob.state.replica == "replica-2"
            await publisher.publish("news", "live")
            assert await data_of(bob, 1) == ["live"]
    assert lost == []


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_drain_is_followed_without_a_gap(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str, transport: Transport
) -> None:
    """Fails if a deploy costs a client a message, or an interruption that it was told of beforehand."""
    drain = {"grace_s": 0.1, "window_s": 0.2, "deadline_s": 5}
    first = await start_replica("replica-1", drain=drain)
    second = await start_replica("replica-2")
    states: list[ClientState] = []
    async with (
        publisher_of(redis_server, namespace) as publisher,
        gate_to(first.url) as gate,
        heliograph.connect(gate.url, user="bob", channels=["news"], transports=[transport]) as bob,
    ):
        bob.on("state", states.append)
        gate.target = int(second.url.rpartition(":")[2])
        stopping = asyncio.create_task(first.stop())
        for number in range(60):
            await publisher.publish("news", number)
            await asyncio.sleep(0.01)
        assert await data_of(bob, 60) == list(range(60))
        await eventually(lambda: bob.state.replica == "replica-2")
        await stopping
    if transport == "websocket":
        assert {state.state for state in states[:-1]} == {"connected"}


async def test_where_no_socket_gets_through_it_falls_back_and_comes_up_again(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if an office's proxy keeps a program from hearing, or a client stays with polling for ever."""
    replica = await start_replica()
    async with (
        publisher_of(redis_server, namespace) as publisher,
        gate_to(replica.url, b"GET /ws", b"GET /sse") as gate,
        heliograph.connect(gate.url, user="bob", channels=["news"]) as bob,
    ):
        assert bob.state.transport == "poll"
        await publisher.publish("news", 1)
        assert await data_of(bob, 1) == [1]
        with pytest.raises(NoSocket):
            await bob.send("alice", "hello")
        later = bob.subscribe("later")
        await later.ready()
        await publisher.publish("later", "heard")
        assert await data_of(later, 1) == ["heard"]
        gate.forbidden.discard(b"GET /sse")
        await eventually(lambda: bob.state.transport == "sse")
        await publisher.publish("news", 2)
        assert await data_of(bob, 1) == [2]
        gate.forbidden.clear()
        await eventually(lambda: bob.state.transport == "websocket")
        assert (await bob.send("alice", "hello")).delivery == "stored"
        await publisher.publish("news", 3)
        assert await data_of(bob, 1) == [3]


async def test_sending_without_a_socket_gets_one_where_it_can(start_replica: StartReplica) -> None:
    """Fails if what is said over a fallback waits for the next upgrade although a socket would get through."""
    replica = await start_replica()
    async with gate_to(replica.url, b"GET /ws") as gate, heliograph.connect(gate.url, user="bob") as bob:
        assert bob.state.transport == "sse"
        gate.forbidden.clear()
        assert (await bob.send("alice", "hello")).delivery == "stored"


async def test_what_is_kept_is_sent_again_and_comes_once(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if a message is lost or doubled because the connection broke before its answer, or orders change."""
    replica = await start_replica()
    async with (
        gate_to(replica.url) as gate,
        heliograph.connect(gate.url, user="alice") as alice,
        heliograph.connect(replica.url, user="bob") as bob,
    ):
        sending = [asyncio.create_task(alice.send("bob", number)) for number in range(200)]
        await asyncio.sleep(0)
        await asyncio.sleep(0.002)
        gate.cut()
        acks = await asyncio.gather(*sending)
        assert len({ack.message_id for ack in acks}) == 200
        assert sorted(await data_of(bob, 200)) == list(range(200))
        assert (await alice.send("bob", "x", idempotency_key="k")).message_id == (
            await alice.send("bob", "x", idempotency_key="k")
        ).message_id
        once = alice.send("bob", "once", ephemeral=True)
        assert await data_of(bob, 1) == ["x"]
        await once
        async for message in bob:
            assert (message.data, message.cursor) == ("once", None)
            break


async def test_redis_away(start_replica: StartReplica, own_redis: RedisServer, namespace: str) -> None:
    """Fails if what is said while Redis is away is lost, doubled or refused at once, or nobody is told of a loss."""
    replica = await start_replica(redis_url=own_redis.url)
    async with (
        heliograph.connect(replica.url, user="alice") as alice,
        heliograph.connect(replica.url, user="bob", channels=["news"]) as bob,
    ):
        await alice.publish("news", "before")
        own_redis.stop()
        sending = asyncio.create_task(alice.publish("news", "during"))
        late = alice.subscribe("late")
        await asyncio.sleep(0.5)
        assert not sending.done()
        own_redis.start()
        assert (await sending).cursor
        await late.ready()
        events = []
        async with asyncio.timeout(10):
            async for event in bob.events():
                events.append(event.data if isinstance(event, Message) else type(event).__name__)
                if events[-1] == "during":
                    break
    assert events.count("before") == 1
    assert events.count("during") == 1
    assert "Lost" in events  # the log began anew


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_tokens_are_renewed(start_replica: StartReplica, transport: Transport) -> None:
    """Fails if a client is put out when its token expires although the program would give another."""
    replica = await start_replica(auth=JWT, namespaces=OPENED)
    given: list[str] = []

    async def get_token() -> str:
        given.append(token("bob", expires_in=soon() if len(given) < 2 else 60))
        return given[-1]

    states: list[ClientState] = []
    async with (
        heliograph.connect(replica.url, get_token=get_token, channels=["news"], transports=[transport]) as bob,
        heliograph.connect(replica.url, token=token("alice")) as alice,
    ):
        bob.on("state", states.append)
        await eventually(lambda: len(given) >= 3)
        await asyncio.sleep(0.5)
        await alice.send("bob", "still there")
        assert await data_of(bob, 1) == ["still there"]
    if transport == "websocket":
        assert [state.state for state in states] == ["closed"]


async def test_a_token_is_refused_while_another_connection_is_opened(start_replica: StartReplica) -> None:
    """Fails if two connections are opened at once: nobody would end the first of them."""
    replica = await start_replica(auth=JWT, namespaces=OPENED)
    asked: list[asyncio.Event] = []

    async def get_token() -> str:
        asked.append(asyncio.Event())
        if len(asked) > 1:
            await asked[-1].wait()
        return token("bob")

    async with heliograph.connect(replica.url, get_token=get_token) as bob:
        connection, link = bob._connection, bob._connection.link
        assert isinstance(link, SocketLink)
        connection.replace()
        await eventually(lambda: len(asked) == 2)
        link._end(Closed(INVALID_TOKEN, "no such token"))
        await eventually(lambda: "open" not in connection._timers)
        asked[1].set()
        await eventually(lambda: bob.state.state == "connected")
        assert len(asked) == 2


async def test_what_the_server_refuses_for_good_is_said(start_replica: StartReplica) -> None:
    """Fails if a program that is refused waits for ever, or is not told why."""
    replica = await start_replica(auth=JWT, namespaces={"#": {"client_send": False}})
    with pytest.raises(ClientClosed, match="token") as refused:
        await heliograph.connect(replica.url, token="no").open()
    assert (refused.value.code, refused.value.close_code) == ("closed", 3500)
    for transport in TRANSPORTS:
        with pytest.raises(ClientClosed):
            await heliograph.connect(replica.url, token="no", transports=[transport]).open()
    tokens = ["no", "no"]
    with pytest.raises(ClientClosed):
        await heliograph.connect(replica.url, get_token=tokens.pop).open()
    assert tokens == []
    with pytest.raises(ClientClosed, match="the client has closed: get_token gave no token"):
        await heliograph.connect(replica.url, get_token=lambda: None).open()

    def away() -> str:
        raise KeyError("session")

    reasons: list[str] = []
    for transport in TRANSPORTS:
        reasons.clear()
        client = heliograph.connect(replica.url, get_token=away, transports=[transport])
        client.on("state", lambda state: reasons.append(state.reason))
        opening = asyncio.create_task(client.open())
        await eventually(lambda: "no credentials: KeyError: 'session'" in reasons)
        await client.close()
        with pytest.raises(ClientClosed):
            await opening
    with pytest.raises(RequestRefused) as not_given:
        await heliograph.connect(replica.url, token=token("bob"), channels=["news"]).open()
    assert not_given.value.code == "not_allowed"
    async with heliograph.connect(replica.url, token=token("bob")) as bob:
        with pytest.raises(RequestRefused) as not_sent:
            await bob.send("alice", "hello")
        assert not_sent.value.code == "not_allowed"
        with pytest.raises(RequestRefused):
            await bob.subscribe("news").ready()
        with pytest.raises(RequestRefused):
            await data_of(bob.subscribe("news"), 1)
        with pytest.raises(RequestRefused):
            await bob.get_run("7")


async def test_a_server_that_does_not_answer_is_said_in_time() -> None:
    """Fails if a wrong address makes a program hang without a word."""
    with pytest.raises(NotAnswered, match=r"127\.0\.0\.1:9.*0\.5 s: .*attempts failed"):
        await heliograph.connect("http://127.0.0.1:9", user="bob", open_timeout_s=0.5).open()


async def test_a_server_that_closes_for_good_ends_what_is_iterated(start_replica: StartReplica) -> None:
    """Fails if a program waits for messages of a client that the server has put out, or is not told why."""
    replica = await start_replica()
    async with heliograph.connect(replica.url, user="bob", channels=["news"]) as bob:
        later = bob.subscribe("later")
        await later.ready()
        await bob.publish("news", "last")
        await replica.replica.user_commands.disconnect_user("bob", reason="put out")
        assert await data_of(bob, 1) == ["last"]
        for source in (bob, later):
            with pytest.raises(ClientClosed, match="put out") as closed:
                await data_of(source, 1)
            assert closed.value.close_code == 3503
        with pytest.raises(ClientClosed):
            await bob.send("alice", 1)


async def test_the_end_of_a_client_ends_all_that_waits(start_replica: StartReplica) -> None:
    """Fails if a task that iterates, waits or sends outlives the client, or `close` leaves something running."""
    replica = await start_replica()
    bob = heliograph.connect(replica.url, user="bob")
    with pytest.raises(ClientClosed):
        bob.subscribe("news")
    with pytest.raises(ClientClosed, match="not open"):
        await asyncio.wait_for(data_of(bob, 1), 5)
    async with bob:
        news = bob.subscribe("news")
        reading = [asyncio.create_task(data_of(source, 1)) for source in (bob, news)]
        await news.ready()
    assert await asyncio.gather(*reading) == [[], []]
    with pytest.raises(ClientClosed):
        await bob.publish("news", 1)
    with pytest.raises(ClientClosed, match="once"):
        await bob.open()
    await bob.close()


async def test_a_message_that_is_too_large_is_refused_and_no_other(start_replica: StartReplica) -> None:
    """Fails if the client sends it again and again, and loses the connection each time, until its time is over."""
    replica = await start_replica(redis_url=None)
    async with heliograph.connect(replica.url, user="bob", transports=["websocket"]) as bob:
        small, large, other = [bob.send("alice", data) for data in (1, "x" * 70_000, "y" * 40_000)]
        refused, *sent = await asyncio.gather(large, small, other, return_exceptions=True)
        assert isinstance(refused, RequestRefused), refused
        assert (refused.code, "too large" in str(refused)) == ("bad_request", True)
        assert [isinstance(each, heliograph.Ack) for each in sent] == [True, True], sent


async def test_a_program_that_reads_slowly_misses_nothing_and_holds_little(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if a slow loop fills the memory, loses messages, or holds up the channels of others."""
    replica = await start_replica()
    async with (
        publisher_of(redis_server, namespace) as publisher,
        heliograph.connect(replica.url, user="bob", channels=["slow"], max_queue=10) as bob,
    ):
        quick = bob.subscribe("quick")
        await quick.ready()
        for number in range(80):
            await publisher.publish("slow", number)
            await publisher.send_to_user("bob", f"mine {number}")
        await publisher.publish("quick", "at once")
        assert await data_of(quick, 1) == ["at once"]
        await asyncio.sleep(0.2)
        assert len(bob._queue._events) <= 12
        found = await data_of(bob, 160)
        assert [each for each in found if isinstance(each, int)] == list(range(80))
        assert [each for each in found if isinstance(each, str)] == [f"mine {number}" for number in range(80)]


async def test_a_cursor_that_was_kept_is_where_another_client_begins(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str
) -> None:
    """Fails if a program that was restarted cannot go on where it was, or begin with what is kept."""
    replica = await start_replica()
    async with publisher_of(redis_server, namespace) as publisher:
        async with heliograph.connect(replica.url, user="bob", channels=["news"]) as bob:
            await publisher.publish("news", 1)
            await publisher.send_to_user("bob", "mine 1")
            cursors = {}
            async for message in bob:
                cursors[message.channel] = message.cursor or ""
                if len(cursors) == 2:
                    break
        await publisher.publish("news", 2)
        await publisher.send_to_user("bob", "mine 2")
        kept = "&".join(cursors.values())
        async with heliograph.connect(replica.url, user="bob", channels=["news"], cursor=kept) as bob:
            assert set(await data_of(bob, 2)) == {2, "mine 2"}
        async with (
            heliograph.connect(replica.url, user="bob", cursor=kept) as bob,
            bob.subscribe("news", cursor=kept) as since,
        ):
            assert await data_of(since, 1) == [2]
            since.unsubscribe()
            await asyncio.sleep(0)
            async with bob.subscribe("news") as now:
                await publisher.publish("news", 3)
                assert await data_of(now, 1) == [3]
        async with heliograph.connect(replica.url, user="bob", channels=["news"], replay=True) as bob:
            assert set(await data_of(bob, 5)) == {1, 2, 3, "mine 1", "mine 2"}
            again = bob.subscribe("other", replay=True)
            await again.ready()


async def test_listeners_that_raise_stop_nobody(start_replica: StartReplica) -> None:
    """Fails if one mistake in a handler keeps others from hearing, or is not told to anybody."""
    replica = await start_replica()
    raised: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
    heard: list[Message] = []

    def fail(event: object) -> None:
        raise RuntimeError("a mistake")

    async with heliograph.connect(replica.url, user="bob") as bob:
        bob.on("message", fail)
        take_off = bob.on("message", heard.append)
        await bob.subscribe("news", fail).ready()
        await bob.send("bob", 1)
        await eventually(lambda: len(heard) == 1)
        take_off()
        take_off()
        await bob.send("bob", 2)
        await eventually(lambda: len(raised) >= 3)
    assert len(heard) == 1


async def test_what_cannot_be_is_refused_before_anything_is_sent(start_replica: StartReplica) -> None:
    """Fails if a mistake of the program is found by the server, or not at all."""
    replica = await start_replica()
    with pytest.raises(BadSetting, match="transports"):
        heliograph.connect(replica.url, user="bob", transports=[])
    with pytest.raises(BadChannel, match="iterate the client"):
        heliograph.connect(replica.url, user="bob", channels=["#bob"])
    async with heliograph.connect(replica.url, user="bob") as bob:
        with pytest.raises(BadChannel):
            bob.subscribe("")
        with pytest.raises(BadData):
            await bob.send("alice", object())
        with pytest.raises(ClientError):
            await bob.send("", 1)
