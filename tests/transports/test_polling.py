"""`/api/poll` over real HTTP: what is answered and when, what it costs, and what goes wrong around it."""

import asyncio
import time
from typing import Any

import pytest

from heliograph.codecs.plain.cursor import parse_cursor
from heliograph.hub.outbox import DRAINED_BYTES
from heliograph.protocol.codes import CloseCode
from heliograph.transports.poll_connection import PollConnection
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.poller import Poller
from tests.support.redis_server import RedisServer
from tests.support.replicas import RunningReplica
from tests.support.tokens import JWT, soon, token
from tests.support.waiting import eventually

SIGTERM = 15


@pytest.fixture
async def one(start_replica: StartReplica) -> RunningReplica:
    """One replica without Redis."""
    return await start_replica(redis_url=None)


async def publish(replica: RunningReplica, channel: str, *data: Any) -> None:
    for each in data:
        await replica.replica.manager.publish(channel, each)


def told(events: list[dict[str, Any]]) -> list[Any]:
    """The data of the messages among the events."""
    return [event["data"] for event in events if event["type"] == "message"]


def waiting_polls(replica: RunningReplica) -> int:
    """How many polls wait here."""
    sinks: list[Any] = [connection.outbox._sink for connection in replica.replica.hub]
    return sum(isinstance(sink, PollConnection) and sink._done is not None for sink in sinks)


async def waits(replica: RunningReplica) -> None:
    """Until a poll waits here."""
    await eventually(lambda: waiting_polls(replica))


class TestAnswers:
    async def test_the_first_is_given_at_once(self, one: RunningReplica) -> None:
        """Fails if a client that knows nothing yet has to wait, or is not told where each channel begins."""
        await publish(one, "logs:1", "a", "b")
        await publish(one, "run:7", {"state": "RUNNING", "progress": 10, "message": "시작"})
        started_at = time.monotonic()
        async with Poller(one.url, user="고양이", channels="news,logs:1,run:7") as poller:
            answer = (await poller.ask(wait=50)).json()
        assert time.monotonic() - started_at < 5
        assert (answer["user"], answer["replica"]) == ("고양이", "replica-1")
        assert set(parse_cursor(answer["cursor"])) == {"#고양이", "news", "logs:1", "run:7"}
        kinds = [(event["type"], event.get("channel", event.get("state"))) for event in answer["events"]]
        assert kinds == [
            ("subscribed", "news"),
            ("subscribed", "logs:1"),
            ("message", "logs:1"),
            ("message", "logs:1"),
            ("subscribed", "run:7"),
            ("initial_state", "RUNNING"),
        ]

    async def test_a_wait_ends_with_what_comes(self, one: RunningReplica) -> None:
        """Fails if what comes is only told at the end of the wait, or is not as it is on the socket."""
        async with (
            Poller(one.url, user="alice", channels="news") as poller,
            Client(one.url, path="/ws?user=alice&channels=news") as socket,
        ):
            await socket.next("subscribed")
            await poller.poll()
            waiting = asyncio.create_task(poller.poll(wait=50))
            await waits(one)
            await publish(one, "news", {"text": "안녕"})
            assert await asyncio.wait_for(waiting, 5) == [await socket.next("message")]

    async def test_a_wait_in_which_nothing_comes(self, one: RunningReplica) -> None:
        """Fails if an empty answer comes too soon or too late, changes the cursor, or tells what is no news."""
        async with Poller(one.url, user="alice", channels="news,run:7") as poller:
            await poller.poll()
            cursor, started_at = poller.cursor, time.monotonic()
            assert await poller.poll(wait=0.3) == []
            assert 0.3 <= time.monotonic() - started_at < 5
            assert poller.cursor == cursor
            assert await poller.poll(wait=0) == []

    async def test_what_came_between_two_polls_comes_in_one_answer(self, one: RunningReplica) -> None:
        """Fails if publications that waited are told one a poll, out of order, or not at all."""
        async with Poller(one.url, user="alice", channels="news") as poller:
            await poller.poll()
            await publish(one, "news", *range(50))
            await publish(one, "#alice", "mine")
            assert told(await poller.poll(wait=50)) == [*range(50), "mine"]
            assert await poller.poll(wait=0) == []

    async def test_an_answer_has_its_size_and_more_follows(self, start_replica: StartReplica) -> None:
        """Fails if an answer grows without end, or what did not fit is lost, repeated or waited for."""
        one = await start_replica(redis_url=None, poll={"answer_bytes": 20_000}, channels={"page": 10})
        await publish(one, "logs:1", *([number, "x" * 1500] for number in range(300)))  # 450 KB
        async with Poller(one.url, user="alice", channels="logs:1") as poller:
            numbers: list[int] = []
            polls = 0
            while len(numbers) < 300:
                polls += 1
                answer = await poller.ask(wait=5)
                assert len(answer.content) < 25_000
                [connection] = list(one.replica.hub)
                sink: Any = connection.outbox._sink
                assert sink._bytes < 20_000 + 3 * DRAINED_BYTES, "the rest stays in the log"
                poller.cursor = answer.json()["cursor"]
                numbers += [number for number, _ in told(answer.json()["events"])]
            assert numbers == list(range(300))
            assert polls > 20

    async def test_what_an_answer_has_left_over_waits_for_the_client(self, start_replica: StartReplica) -> None:
        """Fails if it counts as written to somebody who never asks again, or not against the limit of the outbox."""
        limits = {"outbox_bytes": 65_536}
        one = await start_replica(redis_url=None, poll={"answer_bytes": 20_000}, limits=limits)
        async with Poller(one.url, user="alice") as poller:
            await poller.poll()
            await publish(one, "#alice", *("x" * 1500 for _ in range(30)))
            [connection] = list(one.replica.hub)
            await eventually(lambda: connection.outbox.waiting_bytes > 30 * 1500)
            assert 0 < len(told(await poller.poll())) < 15
            await eventually(lambda: connection.outbox.is_paused)
            assert 20_000 < connection.outbox.waiting_bytes < 30 * 1500
            while told(await poller.poll(wait=0)):
                pass
            await eventually(lambda: connection.outbox.is_paused)
            assert connection.outbox.waiting_bytes == 0
            await publish(one, "#alice", *("x" * 1500 for _ in range(35)))
            assert told(await poller.poll())
            await publish(one, "#alice", *("x" * 1500 for _ in range(30)))
            await eventually(lambda: one.replica.hub.connections == 0)

    async def test_one_event_larger_than_an_answer_is_told_alone(self, start_replica: StartReplica) -> None:
        """Fails if what does not fit is never told."""
        one = await start_replica(redis_url=None, poll={"answer_bytes": 1024})
        async with Poller(one.url, user="alice") as poller:
            await poller.poll()
            await publish(one, "#alice", "x" * 5000, "small")
            assert [len(data) for data in told(await poller.poll())] == [5000]
            assert told(await poller.poll()) == ["small"]

    async def test_a_lost_answer_can_be_asked_for_again(self, one: RunningReplica) -> None:
        """Fails if an answer that never arrived takes its messages with it."""
        async with Poller(one.url, user="alice", channels="news") as poller:
            await poller.poll()
            await publish(one, "news", 1, 2)
            lost = await poller.ask()
            assert told(lost.json()["events"]) == [1, 2]
            assert told(await poller.poll()) == [1, 2]
            await publish(one, "news", 3)
            assert told(await poller.poll()) == [3]

    async def test_two_who_wait_from_one_place_both_get_it(self, one: RunningReplica) -> None:
        """Fails if two tabs with one cursor take each other's messages."""
        async with Poller(one.url, user="alice") as first, Poller(one.url, user="alice") as second:
            await first.poll()
            second.cursor = first.cursor
            waiting = [asyncio.create_task(poller.poll(wait=50)) for poller in (first, second)]
            await eventually(lambda: one.replica.hub.connections == 2)
            await publish(one, "#alice", "both")
            assert [told(await each) for each in waiting] == [["both"], ["both"]]

    async def test_a_run(self, one: RunningReplica) -> None:
        """Fails if what changed of a run is not told, or what did not is told again."""
        await publish(one, "run:7", {"state": "RUNNING", "progress": 10})
        async with Poller(one.url, user="alice", channels="run:7") as poller:
            await poller.poll()
            await publish(one, "run:7", {"progress": 20, "message": "half"})
            [progress] = await poller.poll()
            assert progress == {
                "type": "progress",
                "run_id": "7",
                "state": "RUNNING",
                "progress": 20.0,
                "message": "half",
            }
            await forget(one)
            assert await poller.poll(wait=0.1) == [], "it has seen that state"
            await forget(one)
            await publish(one, "run:7", {"state": "END", "progress": 100})
            [begun, state] = await poller.poll()
            assert (begun["type"], begun["channel"]) == ("subscribed", "run:7"), "whose state follows"
            assert (state["type"], state["state"], state["logs"]) == ("initial_state", "END", ["half"])

    async def test_another_replica_goes_on(self, start_replica: StartReplica) -> None:
        """Fails if a poll that lands elsewhere misses or repeats something, or is told what it knows."""
        one, two = await start_replica("replica-1"), await start_replica("replica-2")
        async with Poller(one.url, user="alice", channels="news") as here:
            await here.poll()
            await publish(two, "news", 1)
            assert told(await here.poll()) == [1]
            await publish(one, "news", 2)
            async with Poller(two.url, cursor=here.cursor, user="alice", channels="news") as there:
                events = await there.poll()
                assert [event["type"] for event in events] == ["message"]
                assert told(events) == [2]
                waiting = asyncio.create_task(there.poll(wait=50))
                await waits(two)
                await one.replica.manager.publish("#alice", "direct")
                assert told(await waiting) == ["direct"]

    async def test_what_is_lost_is_said(self, one: RunningReplica) -> None:
        """Fails if a cursor that reaches further back than the log is answered with silence."""
        async with Poller(one.url, user="alice", channels="news", cursor="news=nonsense.5") as poller:
            events = await poller.poll()
            assert [(event["type"], event["channel"], event["recovered"]) for event in events] == [
                ("subscribed", "news", False)
            ]

    async def test_ephemeral_messages_wait_for_the_next_poll(self, one: RunningReplica) -> None:
        """Fails if what is not kept is lost on someone who polls and polls."""
        async with Poller(one.url, user="alice") as poller:
            await poller.poll()
            await one.replica.manager.send_message("alice", "whisper")
            assert told(await poller.poll()) == ["whisper"]


class TestCost:
    async def test_poll_after_poll_is_one_connection(self, start_replica: StartReplica) -> None:
        """Fails if each poll enters and leaves the directory and presence: its user would come and go."""
        options: dict[str, Any] = {
            "namespaces": {"chat": {"presence": True, "join_leave": True}},
            "presence": {"grace_s": 0},
        }
        one = await start_replica(**options)
        async with (
            Client(one.url, path="/ws?user=bob&channels=chat:1") as bob,
            Poller(one.url, user="alice", channels="chat:1") as poller,
        ):
            await bob.next("join", user="bob")
            await poller.poll()
            await bob.next("join", user="alice")
            ids = set()
            for number in range(10):
                await poller.poll(wait=0)
                await publish(one, "chat:1", number)
                assert told(await poller.poll()) == [number]
                ids |= {connection.id for connection in one.replica.hub if connection.user == "alice"}
            assert len(ids) == 1
            assert await bob.only("join", "leave") == []

    async def test_who_polls_no_more_is_forgotten(self, start_replica: StartReplica) -> None:
        """Fails if clients that stay away are kept, or one that comes back later misses something."""
        one = await start_replica(redis_url=None, poll={"linger_s": 0.1})
        async with Poller(one.url, user="alice", channels="news") as poller:
            await poller.poll()
            assert one.replica.hub.connections == 1
            await eventually(lambda: one.replica.hub.connections == 0)
            await publish(one, "news", 1)
            assert told(await poller.poll()) == [1]

    async def test_one_that_goes_away_while_it_waits_leaves_nothing(self, start_replica: StartReplica) -> None:
        """Fails if a request that its client gave up waits on, or leaves a task or a connection."""
        one = await start_replica(redis_url=None, poll={"linger_s": 0.1})
        async with Poller(one.url, user="alice") as poller:
            await poller.poll()
            waiting = asyncio.create_task(poller.poll(wait=50))
            await waits(one)
            waiting.cancel()
            await asyncio.wait([waiting])
        await eventually(lambda: one.replica.hub.connections == 0)
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("poll-")]

    async def test_one_that_went_away_can_ask_again(self, one: RunningReplica) -> None:
        """Fails if a request that was given up takes along what comes meanwhile, ephemeral messages too."""
        async with Poller(one.url, user="alice") as poller:
            await poller.poll()
            waiting = asyncio.create_task(poller.poll(wait=50))
            await waits(one)
            waiting.cancel()
            await asyncio.wait([waiting])
            [connection] = list(one.replica.hub)
            await eventually(lambda: connection.outbox._paused)  # the replica has noticed
            await one.replica.manager.send_message("alice", "whisper")
            assert told(await poller.poll(wait=0)) == ["whisper"]

    async def test_what_waits_for_nobody_has_a_limit(self, start_replica: StartReplica) -> None:
        """Fails if a client that is slow to poll again costs memory without end, or then misses something."""
        one = await start_replica(redis_url=None, limits={"outbox_bytes": 65_536})
        async with Poller(one.url, user="alice", channels="news") as poller:
            await poller.poll()
            await publish(one, "news", *([number, "x" * 30_000] for number in range(10)))
            assert one.replica.hub.connections == 0
            assert one.replica.telemetry.slow_closes == 1
            assert [number for number, _ in told(await poller.poll())][:2] == [0, 1]

    async def test_first_polls_again_and_again(self, start_replica: StartReplica) -> None:
        """Fails if a client whose answers get lost locks itself out, or the limit on waiting ones is none."""
        one = await start_replica(redis_url=None, limits={"connections_per_user": 2})
        async with Poller(one.url, user="alice") as poller:
            for _ in range(6):
                assert (await poller.ask()).status_code == 200
            assert one.replica.hub.count("alice") == 2
            await poller.poll()
            waiting = [asyncio.create_task(poller.ask(wait=50)) for _ in range(2)]
            await eventually(lambda: waiting_polls(one) == 2)
            refused = await poller.ask()
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "connection_limit")
            await publish(one, "#alice", 1)
            for each in waiting:
                assert told((await each).json()["events"]) == [1]


class TestRefusals:
    async def test_a_wait_that_is_none(self, one: RunningReplica) -> None:
        """Fails if a request can be made to wait for ever, or fails in the server."""
        async with Poller(one.url, user="alice") as poller:
            for wait in ("-1", "50.1", "soon", "nan", "inf", "1e999"):
                answer = await poller.ask(wait=wait)
                assert answer.status_code == 400, wait
                assert "'wait'" in answer.json()["error"]["message"]

    async def test_what_cannot_be(self, start_replica: StartReplica) -> None:
        """Fails if a bad request is a fault of the server, or leaves a connection behind."""
        one = await start_replica(redis_url=None, limits={"channels_per_connection": 3})
        bad: list[tuple[dict[str, str], int, str]] = [
            ({"user": ""}, 400, "bad_request"),
            ({"cursor": "nonsense"}, 400, "bad_request"),
            ({"cursor": "%23=a.1"}, 400, "bad_request"),
            ({"channels": "news,#bob"}, 403, "not_allowed"),
            ({"channels": "a,b,c,d"}, 400, "channel_limit"),
        ]
        async with Poller(one.url, user="alice") as poller:
            for params, status, code in bad:
                answer = await poller.ask(**params)
                assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), params
        assert one.replica.hub.connections == 0

    async def test_in_jwt_mode_each_poll_needs_the_token(self, start_replica: StartReplica) -> None:
        """Fails if a cursor alone opens a connection, or another user's token opens it."""
        one = await start_replica(redis_url=None, auth=JWT)
        async with Poller(one.url, headers={"Authorization": f"Bearer {token('alice')}"}) as poller:
            await poller.poll()
            await one.replica.manager.publish("#alice", "secret")
            async with Poller(one.url, cursor=poller.cursor, user="alice") as nobody:
                assert (await nobody.ask()).status_code == 401
            headers = {"Authorization": f"Bearer {token('eve')}"}
            async with Poller(one.url, cursor=poller.cursor, headers=headers) as eve:
                assert told(await eve.poll(wait=0)) == []
            assert told(await poller.poll()) == ["secret"]

    @pytest.mark.slow
    async def test_a_token_that_expires_ends_the_wait(self, start_replica: StartReplica) -> None:
        """Fails if a poll outlives its token, or a new token does not count for a client that is here already."""
        one = await start_replica(redis_url=None, auth=JWT)
        async with Poller(one.url) as poller:
            first_s = soon()
            poller.http.headers["Authorization"] = f"Bearer {token('alice', expires_in=first_s)}"
            await poller.poll()
            poller.http.headers["Authorization"] = f"Bearer {token('alice', expires_in=60)}"
            assert await poller.poll(wait=first_s + 0.1) == [], "the new token counts"
            poller.http.headers["Authorization"] = f"Bearer {token('alice', expires_in=soon())}"
            answer = await poller.ask(wait=50)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_token")


class TestFaults:
    async def test_a_drain_ends_the_wait(self, start_replica: StartReplica) -> None:
        """Fails if a poll keeps its replica from stopping, is cut, or its client does not learn when to come back."""
        one = await start_replica("replica-1", drain={"grace_s": 0.2, "window_s": 0})
        two = await start_replica("replica-2")
        async with Poller(one.url, user="alice", channels="news") as poller, Poller(one.url, user="bob") as resting:
            await poller.poll()
            await resting.poll()
            waiting = asyncio.create_task(poller.poll(wait=50))
            await waits(one)
            one.server.handle_exit(SIGTERM, None)
            [event] = await asyncio.wait_for(waiting, 5)
            assert event["type"] == "reconnect"
            assert parse_cursor(event["cursor"]) == parse_cursor(poller.cursor)
            refused = await resting.ask()
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            async with asyncio.timeout(5):
                await one.task
        await publish(two, "news", "later")
        async with Poller(two.url, cursor=poller.cursor, user="alice", channels="news") as there:
            assert told(await there.poll()) == ["later"]

    async def test_without_redis_it_is_said(self, start_replica: StartReplica, own_redis: RedisServer) -> None:
        """Fails if a poll that cannot know what it should is answered as if there were nothing."""
        one = await start_replica(redis_url=own_redis.url)
        async with Poller(one.url, user="alice", channels="news") as poller:
            await poller.poll()
            cursor = poller.cursor
            own_redis.stop()
            await eventually(lambda: not one.replica.node.ready, within_s=10)
            async with Poller(one.url, user="bob", channels="news") as bob:
                for bobs in ("", cursor.replace("alice", "bob")):
                    bob.cursor = bobs
                    answer = await bob.ask(wait=0)
                    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
                    assert answer.headers["retry-after"] == "1"
            assert await poller.poll(wait=0.1) == [], "one that is here already waits on"
            await eventually(lambda: one.replica.hub.count("bob") == 0)


async def forget(replica: RunningReplica) -> None:
    """As if nobody had polled for long."""
    for connection in list(replica.replica.hub):
        connection.close(CloseCode.SHUTDOWN, "gone")
    await eventually(lambda: replica.replica.hub.connections == 0)
