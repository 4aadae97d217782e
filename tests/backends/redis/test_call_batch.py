"""Calls that go to a real Redis as one command: order, errors of their own, bounds."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Self

import pytest
from hiredis import pack_command
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from heliograph.backends.redis import call_batch
from heliograph.backends.redis.call_batch import NOTHING, Call, Common, in_batches
from heliograph.backends.redis.client import Client, connect
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.scripts import Scripts
from heliograph.protocol.envelope import decode_envelopes
from tests.support.redis_admin import Eavesdropper
from tests.support.redis_answers import entries
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

PING = pack_command(("PING",))
SO_TIMESTAMPNS = 35  # which Python does not name
COMMON: Common = (), (100, 60_000, "", "")  # of all publications on channels that are no user's


def relay_call(holders: str = "holders", envelope: bytes = b"{}", lease: str = "lease") -> Call:
    return [holders], [envelope], (("settled",), (lease, "events"))


class ArrivalTimes:
    """A connection to Redis that is told by the kernel when an answer came, however late it is read."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        for _ in range(100):  # the kernel begins with it a little later
            self.say(PING)
            if self._socket.recvmsg(65_536, 1_024)[1]:
                break

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def say(self, data: bytes) -> None:
        self._socket.sendall(data)

    def arrival(self) -> tuple[int, int]:
        """When the next answer came: seconds and nanoseconds."""
        _, notes, _, _ = self._socket.recvmsg(65_536, 1_024)
        [data] = [data for level, kind, data in notes if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS)]
        seconds, nanoseconds = struct.unpack("ll", data)
        return seconds, nanoseconds


class Caller:
    """Scripts on one link, what has become of each call, and the commands that went out for them."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.link = client.link
        self.scripts = Scripts(client, Keys("batch:", "events"), "replica-1")
        self.answers: list[Any] = []
        self.writes: list[bytes] = []

    async def load(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.relay("somebody")
        self.append("somewhere", "hello")
        await self.answered(2)
        wire = self.link._wire
        assert wire is not None
        send = wire.send

        def noted(commands: list[bytes]) -> None:
            self.writes.append(b"".join(commands))
            send(commands)

        monkeypatch.setattr(wire, "send", noted)

    def relay(self, user: str, text: str = "hello") -> None:
        envelope = f'{{"message":"{text}","target_user_id":"{user}","node_id":"n"}}'.encode()
        self.scripts.call("relay", relay_call(f"holders:{user}", envelope), self.answers.append)

    def append(self, channel: str, text: str, key: str = "") -> None:
        """`key`: an idempotency key."""
        fields = f'"message":"{text}","channel":"{channel}","node_id":"n"}}'.encode()
        keys = [f"meta:{channel}", f"stream:{channel}", f"clients:{channel}"]
        arguments: list[str | bytes | int] = [f"events:{channel}", fields]
        if key:
            keys.append(key)
            arguments.append("id")
        self.scripts.call("append", (keys, arguments, COMMON), self.answers.append)

    async def answered(self, count: int) -> list[Any]:
        await eventually(lambda: len(self.answers) >= count)
        answers, self.answers = self.answers, []
        return answers

    @property
    def commands(self) -> int:
        """How many calls of scripts went out."""
        return b"".join(self.writes).count(b"EVALSHA")


@pytest.fixture
async def caller(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Caller]:
    caller = Caller(connect(own_redis.url))
    await caller.load(monkeypatch)
    yield caller
    await caller.client.aclose()


async def test_what_one_turn_asks_for_is_one_command_and_one_message_on_the_bus(
    caller: Caller, own_redis: RedisServer
) -> None:
    """Fails if each message costs Redis a command of its own, or if one is lost or out of order in between."""
    received: list[bytes] = []
    async with caller.client.pubsub() as pubsub:
        await pubsub.subscribe("events")
        for number in range(40):
            caller.relay("bob", str(number))
        assert await caller.answered(40) == [b"offline"] * 40
        while len(received) < 1:
            if message := await pubsub.get_message(ignore_subscribe_messages=True, timeout=2):
                received.append(message["data"])
        assert await pubsub.get_message(ignore_subscribe_messages=True, timeout=0.1) is None
    assert caller.commands == 1
    assert [bytes(each.message) for each in decode_envelopes(received[0])] == [b'"%d"' % i for i in range(40)]


async def test_the_message_leaves_redis_before_its_answer(caller: Caller, own_redis: RedisServer) -> None:
    """Fails if the replica that asked is woken first, and those that are to deliver the message wait behind it."""
    caller.relay("bob")
    caller.append("c", "hello")
    await caller.answered(2)
    relay, append = b"".join(caller.writes).split(PING)[1:]
    for command in (relay, append):
        with ArrivalTimes(own_redis.port) as bus, ArrivalTimes(own_redis.port) as asker:
            bus.say(pack_command(("PSUBSCRIBE", "events*")))  # type: ignore[arg-type]
            bus.arrival()
            for _ in range(20):
                asker.say(PING + command)
                assert bus.arrival() < asker.arrival()


async def test_a_script_is_loaded_when_it_is_first_called(caller: Caller, own_redis: RedisServer) -> None:
    """Fails if Redis has to hold (and its Lua to look through) scripts that nobody calls, or forgets those in use."""

    async def held() -> int:
        return int((await caller.client.info("memory"))["number_of_cached_scripts"])

    assert await held() == 3, "with the one that says which server this is"
    await caller.scripts.run("tops", [], [])
    assert await held() == 4
    await caller.client.script_flush()
    caller.relay("bob")
    await caller.answered(1)
    assert await held() == 4


async def test_calls_wait_in_order_for_a_script_that_is_called_first(caller: Caller) -> None:
    """Fails if what is known overtakes what has to be loaded."""
    order: list[str] = []
    caller.append("c", "one")
    caller.scripts.call("tops", ([], [], NOTHING), lambda _: order.append("tops"))
    caller.append("c", "two")
    caller.scripts.call("lease", ([], [], NOTHING), lambda _: order.append("lease"))
    caller.scripts.call("relay", relay_call(), lambda _: order.append("relay"))
    answers = await caller.answered(2)
    await eventually(lambda: len(order) == 3)
    assert order == ["tops", "lease", "relay"]
    assert [int(answer.split(b".")[1]) for answer in answers] == [1, 2]


async def test_each_call_gets_its_own_answer(caller: Caller) -> None:
    """Fails if an answer goes to another call of the same command."""
    for number in range(30):
        caller.append(f"c{number % 3}", str(number))
    answers = await caller.answered(30)
    assert caller.commands == 1
    assert [int(answer.split(b".")[1]) for answer in answers] == [number // 3 + 1 for number in range(30)]
    assert len({answer.split(b".")[0] for answer in answers}) == 3


async def test_a_call_that_fails_costs_the_others_nothing(caller: Caller, own_redis: RedisServer) -> None:
    """Fails if one bad key spoils what others say in the same turn, or if its error is told to them."""
    await caller.client.set("stream:bad", "no stream")
    await caller.client.hset("meta:bad", mapping={"epoch": "e", "top": 0})
    async with Eavesdropper(own_redis.url, "events:good") as heard:
        for channel in ("good", "bad", "good"):
            caller.append(channel, "hello")
        first, error, last = await caller.answered(3)
        await eventually(lambda: len(heard.payloads) == 2)
    assert caller.commands == 1
    assert isinstance(error, ResponseError)
    assert "WRONGTYPE" in str(error)
    assert [answer.split(b".")[1:] for answer in (first, last)] == [[b"1", b"remote"], [b"2", b"remote"]]


async def test_a_callback_that_raises_costs_nobody_else_an_answer(
    caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    """Fails if a bug in one caller keeps the answers from those whose calls went with its own."""

    def broken(_: Any) -> None:
        raise ZeroDivisionError("a bug")

    caller.relay("al")
    caller.scripts.call("relay", relay_call(), broken)
    caller.relay("bob")
    assert await caller.answered(2) == [b"offline", b"offline"]
    assert "a bug" in caplog.text


async def test_only_what_was_asked_for_in_a_row_goes_together(caller: Caller) -> None:
    """Fails if a call overtakes what was asked for before it, or is joined by one of another form."""
    order: list[str] = []

    def note(name: str) -> Any:
        return lambda reply: order.append(name if not isinstance(reply, Exception) else repr(reply))

    def relay(name: str) -> None:
        caller.scripts.call("relay", relay_call(), note(name))

    relay("a relay")
    caller.append("c", "one")
    caller.append("c", "two", "key")
    caller.link.call(("SET", "between", 1), note("a command"))
    caller.append("c", "three", "key 2")
    relay("another relay")
    relay("and another")
    await eventually(lambda: len(order) == 4)
    answers = await caller.answered(3)
    assert order == ["a relay", "a command", "another relay", "and another"]
    assert [int(answer.split(b".")[1]) for answer in answers] == [1, 2, 3]
    assert caller.commands == 5, "the last two relays went together"


@pytest.mark.parametrize(("count", "size", "commands"), [(64, 10, 1), (65, 10, 2), (10, 40_000, 5), (3, 200_000, 3)])
async def test_how_much_goes_together_is_bounded(caller: Caller, count: int, size: int, commands: int) -> None:
    """Fails if Redis is kept busy by one command, or is sent one of any size, however much is asked for at once."""
    for number in range(count):
        caller.append("c", str(number).ljust(size, "x"))
    answers = await caller.answered(count)
    assert [int(answer.split(b".")[1]) for answer in answers] == [*range(1, count + 1)]
    assert caller.commands == commands


async def test_what_comes_later_goes_in_a_command_of_its_own(caller: Caller) -> None:
    """Fails if a call is added to a command that has been sent."""
    for number in range(3):
        caller.relay("bob", str(number))
        await asyncio.sleep(0)
    assert len(await caller.answered(3)) == 3
    assert caller.commands == 3


async def test_scripts_that_redis_forgets_change_no_order(caller: Caller) -> None:
    """Fails if calls that were unknown are repeated after later ones, are lost, or are carried out twice."""
    for number in range(3_000):
        caller.append("c", str(number))
        if number % 50 == 0:
            await caller.link.ask("ECHO", "between")
        if number % 1_000 == 525:
            caller.link.call(("SCRIPT", "FLUSH"), lambda reply: None)
    answers = await caller.answered(3_000)
    assert [int(answer.split(b".")[1]) for answer in answers] == [*range(1, 3_001)]
    found = await entries(caller.client, "stream:c")
    assert found[-1][1][b"b"].startswith(b'"message":"2999"')


async def test_a_frozen_redis_fails_each_call(caller: Caller, own_redis: RedisServer) -> None:
    """Fails if those who went together are left without an answer when there is none."""
    own_redis.freeze()
    for number in range(100):
        caller.relay("bob", str(number))
    answers = await caller.answered(100)
    own_redis.thaw()
    assert all(isinstance(answer, RedisTimeoutError) for answer in answers)
    caller.relay("bob")
    assert await caller.answered(1) == [b"offline"]


async def test_a_lost_connection_fails_each_call(caller: Caller, own_redis: RedisServer) -> None:
    """Fails if those whose command was not even sent hang, or are called on the next connection."""
    assert caller.link._wire is not None
    caller.link._wire.fail(ConnectionResetError("the test"))  # which the link hears in the next turn
    caller.append("c", "one")
    caller.append("c", "two")
    await asyncio.sleep(0)
    caller.append("c", "three")
    answers = await caller.answered(3)
    assert [isinstance(answer, Exception) for answer in answers] == [True, True, False]
    assert await caller.client.xlen("stream:c") == 1


async def test_two_who_share_a_link(caller: Caller) -> None:
    """Fails if a call goes with an earlier one of its own owner, past what another owner has asked for since."""
    order: list[int] = []
    others = Scripts(caller.client, Keys("batch:", "events"), "another")
    others.call("relay", relay_call(), caller.answers.append)
    await caller.answered(1)

    def noted(number: int, _: object) -> None:
        order.append(number)

    for number in range(6):
        scripts = (caller.scripts, others)[number % 2]
        scripts.call("relay", relay_call(), partial(noted, number))
    await eventually(lambda: len(order) == 6)
    assert order == [*range(6)]


def test_many_calls_at_once_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if calls of another form are mixed, or if one is left out."""
    monkeypatch.setattr(call_batch, "MOST_CALLS", 2)
    short = relay_call("k", b"x")
    of_another_lease = relay_call("k", b"y", "another")
    assert in_batches("relay", [short, short, short, of_another_lease]) == [
        (3, "settled", "k", "k", 2, 1, 1, "lease", "events", b"x", b"x"),
        (2, "settled", "k", 1, 1, 1, "lease", "events", b"x"),
        (2, "settled", "k", 1, 1, 1, "another", "events", b"y"),
    ]
    assert in_batches("relay", []) == []


def test_an_answer_of_another_form_is_one_to_all_who_wait() -> None:
    """Fails if Redis (or what stands before it) answers fewer calls than were made, and the others wait for ever."""
    answers: list[Any] = []
    batch = call_batch.CallBatch("relay", "sha", relay_call("a", b"{}"), answers.append)
    assert batch.add(relay_call("b", b"{}"), answers.append)
    batch.call_back([b"local"])
    assert len(answers) == 2
    assert all(isinstance(each, RedisError) for each in answers)
