"""A policy that asks: the driver awaits the hook, the client's later frames wait, and everybody else goes on."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from heliograph.errors import BusUnavailable
from heliograph.protocol.decision import ALLOW, Deny, Hook, Verdict
from heliograph.protocol.policy import Access, Question
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.event_source import EventSource
from tests.support.http import http_client
from tests.support.replicas import RunningReplica
from tests.support.waiting import eventually


class Backend:
    """Stands for a user's own backend: says of `asked:*` what the test has it say, and when."""

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self.verdict: Callable[[Question], Verdict] = lambda _: ALLOW
        self.under_way = 0

    def hook(self, question: Question) -> Hook | None:
        return (lambda: self._answer(question)) if question.name.startswith(("asked", "#asked", "run:")) else None

    async def _answer(self, question: Question) -> Verdict:
        self.questions.append(question)
        self.under_way += 1
        try:
            await self.answers.wait()
        finally:
            self.under_way -= 1
        return self.verdict(question)


@pytest.fixture
def backend() -> Backend:
    return Backend()


Start = Callable[[], Awaitable[RunningReplica]]


@pytest.fixture
def start(start_replica: StartReplica, backend: Backend) -> Start:
    async def start() -> RunningReplica:
        options: dict[str, Any] = {"emit": {"events": ["asked.it"]}, "namespaces": {"asked": {"presence": True}}}
        one = await start_replica(redis_url=None, **options)
        one.replica.policy._hooks = backend.hook
        return one

    return start


def deny(_: Question) -> Verdict:
    return Deny("the backend says no")


async def frames_of(client: Client, count: int) -> list[dict[str, Any]]:
    """The next frames of any type, in the order in which they came."""
    kinds = ("ack", "error", "pong", "subscribed", "unsubscribed", "history", "presence", "message")
    return [await client.next(*kinds) for _ in range(count)]


class TestOrder:
    async def test_later_frames_of_that_client_wait(self, start: Start, backend: Backend) -> None:
        """Fails if a frame overtakes one whose hook has not answered, or is lost behind it."""
        one = await start()
        async with Client(one.url, user="alice") as alice:
            backend.answers.clear()
            await alice.say({"type": "publish", "channel": "asked:1", "data": 1, "id": 1})
            await alice.say({"type": "publish", "channel": "free:1", "data": 2, "id": 2})
            await alice.say({"type": "send", "to": "asked", "data": 3, "id": 3})
            await alice.say({"type": "subscribe", "channel": "asked:2", "id": 4})
            await alice.say({"type": "unsubscribe", "channel": "asked:2", "id": 5})
            await alice.say({"type": "ping", "id": 6})
            await eventually(lambda: backend.under_way == 1)
            with pytest.raises(TimeoutError):
                await alice.next("ack", "error", "pong", within_s=0.1)
            assert [each.name for each in backend.questions] == ["asked:1"], "one at a time"
            backend.answers.set()
            frames = await frames_of(alice, 6)
        assert [(frame["type"], frame["id"]) for frame in frames] == [
            ("ack", 1),
            ("ack", 2),
            ("ack", 3),
            ("subscribed", 4),
            ("unsubscribed", 5),
            ("pong", 6),
        ]
        asked = [(each.access, each.user, each.name) for each in backend.questions]
        assert asked == [
            (Access.PUBLISH, "alice", "asked:1"),
            (Access.SEND, "alice", "#asked"),
            (Access.SUBSCRIBE, "alice", "asked:2"),
        ]

    async def test_nobody_else_waits(self, start: Start, backend: Backend) -> None:
        """Fails if one client's hook holds up another client, or what others send to the first."""
        one = await start()
        async with Client(one.url, user="alice") as alice, Client(one.url, user="bob") as bob:
            backend.answers.clear()
            await alice.say({"type": "publish", "channel": "asked:1", "data": 1, "id": 1})
            await eventually(lambda: backend.under_way == 1)
            assert (await bob.send("alice", "meanwhile"))["type"] == "ack"
            assert await alice.messages(1) == ["meanwhile"]
            backend.answers.set()
            await alice.next("ack", id=1)

    async def test_a_client_that_leaves_meanwhile_leaves_nothing(self, start: Start, backend: Backend) -> None:
        """Fails if who has gone is put on the channel, or its connection is held for the hook's sake for ever."""
        one = await start()
        async with Client(one.url, user="alice") as alice:
            backend.answers.clear()
            await alice.say({"type": "subscribe", "channel": "asked:1"})
            await eventually(lambda: backend.under_way == 1)
        backend.answers.set()
        await eventually(lambda: one.replica.hub.connections == 0)
        assert one.replica.hub.subscriptions == 0


class TestVerdicts:
    @pytest.mark.parametrize(
        "frame",
        [
            {"type": "publish", "channel": "asked:1", "data": 1},
            {"type": "send", "to": "asked", "data": 1},
            {"type": "subscribe", "channel": "asked:1"},
            {"type": "history", "channel": "asked:1"},
            {"type": "presence", "channel": "asked:1"},
            {"type": "emit", "event": "asked.it", "data": 1},
        ],
        ids=lambda frame: frame["type"],
    )
    async def test_no_is_an_error_and_the_connection_goes_on(
        self, start: Start, backend: Backend, frame: dict[str, Any]
    ) -> None:
        """Fails if one of the operations is not asked about, or is carried out although the hook says no."""
        one = await start()
        backend.verdict = deny
        async with Client(one.url, user="alice") as alice:
            await alice.say({**frame, "id": 1})
            error = await alice.next("error", id=1)
            assert (error["code"], error["message"]) == ("not_allowed", "the backend says no")
            await alice.nothing_more()
        assert len(backend.questions) == 1

    async def test_a_hook_that_fails_allows_nothing(self, start: Start, backend: Backend) -> None:
        """Fails if what nobody could decide is carried out, or the client is not told that it may try again."""
        one = await start()

        def fail(_: Question) -> Verdict:
            raise BusUnavailable("the backend does not answer")

        backend.verdict = fail
        async with Client(one.url, user="alice") as alice:
            await alice.say({"type": "publish", "channel": "asked:1", "data": 1, "id": 1})
            error = await alice.next("error", id=1)
            assert error["code"] == "unavailable"
            assert "the backend does not answer" in error["message"]

    async def test_an_unexpected_error_closes_that_connection(
        self, start: Start, backend: Backend, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if a fault in a hook passes for a verdict, or is not logged."""
        one = await start()

        def break_down(_: Question) -> Verdict:
            raise RuntimeError("a fault in a hook")

        backend.verdict = break_down
        async with Client(one.url, user="alice") as alice:
            await alice.say({"type": "publish", "channel": "asked:1", "data": 1, "id": 1})
            assert await alice.close_code() == 1011
        assert "a fault in a hook" in caplog.text


class TestEveryEndpointAsks:
    async def test_websocket_whose_url_names_channels(self, start: Start, backend: Backend) -> None:
        """Fails if a channel in the URL is joined without the hook, or its refusal is not told."""
        one = await start()
        backend.verdict = lambda question: ALLOW if question.name == "asked:1" else deny(question)
        async with Client(one.url, path="/ws?user=alice&channels=asked:1,asked:2") as alice:
            await alice.next("connected")
            assert (await alice.next("subscribed"))["channel"] == "asked:1"
            assert (await alice.next("error"))["code"] == "not_allowed"
            await one.replica.manager.publish("asked:1", "heard")
            await one.replica.manager.publish("asked:2", "unheard")
            assert await alice.messages(1) == ["heard"]
            await alice.nothing_more()

    async def test_sse(self, start: Start, backend: Backend) -> None:
        """Fails if a stream does not wait for the hook, or begins although it says no."""
        one = await start()
        backend.answers.clear()
        opening = asyncio.create_task(self._first_event(one))
        await eventually(lambda: backend.under_way == 1)
        assert one.replica.hub.connections == 0, "it is not let in yet"
        backend.answers.set()
        assert (await opening)["channel"] == "asked:1"
        backend.verdict = deny
        async with http_client(one.url) as http:
            answer = await http.get("/sse?user=alice&channels=asked:1")
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_allowed")

    async def _first_event(self, one: RunningReplica) -> dict[str, Any]:
        async with EventSource(one.url, user="alice", channels="asked:1") as events:
            return await events.next("subscribed")

    async def test_poll_and_runs(self, start: Start, backend: Backend) -> None:
        """Fails if a poll, or the latest of a run, is answered without the hook, or although it says no."""
        one = await start()
        await one.replica.manager.publish("run:1", {"state": "RUNNING", "progress": 5})
        paths = ("/api/poll?user=alice&channels=asked:1", "/api/runs/1")
        async with http_client(one.url) as http:
            assert [(await http.get(path)).status_code for path in paths] == [200, 200]
            assert [each.access for each in backend.questions] == [Access.SUBSCRIBE, Access.HISTORY]
            backend.verdict = deny
            assert [(await http.get(path)).status_code for path in paths] == [403, 403]
            backend.verdict = lambda _: Deny("nobody can say", BusUnavailable.code)
            assert [(await http.get(path)).status_code for path in paths] == [503, 503]
