"""What became of a message, as an operator asks one replica for it: all of them answer."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from heliograph.cli import main
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.http import http_client
from tests.support.replicas import RunningReplica
from tests.support.waiting import eventually

KEY = "a key of more than sixteen bytes"
OPTIONS: dict[str, Any] = {"api": {"key": KEY}}


@pytest.fixture
async def two(start_replica: StartReplica) -> list[RunningReplica]:
    return [await start_replica("replica-1", **OPTIONS), await start_replica("replica-2", **OPTIONS)]


@pytest.fixture
async def http(two: list[RunningReplica]) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(two[0].url, headers={"X-API-Key": KEY}) as client:
        yield client


async def ask(http: httpx.AsyncClient, **params: Any) -> Any:
    answer = (await http.post("/api/trace", json=params)).json()
    return answer.get("result") or answer["error"]


def timeless(text: str) -> str:
    return re.sub(r"\d\d:\d\d:\d\d\.\d\d\d", "T", text)


def told(answer: Any) -> tuple[str, bool | None]:
    return timeless(answer["verdict"]), answer.get("reached")


async def test_a_message_to_a_user_on_another_replica(two: list[RunningReplica], http: httpx.AsyncClient) -> None:
    """Fails if it is not said who has it, by which way, and who accepted it; or a device is told of that is not."""
    async with (
        Client(two[0].url, user="alice") as alice,
        Client(two[1].url, path="/ws?user=bob&device=phone") as phone,
    ):
        session = (await phone.next("connected"))["session"]
        message_id = (await alice.send("bob", "hello"))["message_id"]
        cursor = (await phone.next("message"))["cursor"]
        answer = await ask(http, user="bob", message_id=message_id)
        written = f"bob's phone (connection {session}) was written it at T on replica-2"
        assert told(answer) == (f"{written}.", True)
        message = answer["message"]
        assert (message["channel"], message["offset"], message["is_kept"]) == ("#bob", 1, True)
        assert (message["sender"], message["origin"]) == ("alice", "replica-1")
        seen = [(each["replica"], each["event"], each.get("text")) for each in answer["entries"]]
        assert seen == [("replica-1", "accepted", "remote"), ("replica-2", "delivered", None)]

        await phone.say({"type": "received", "cursor": cursor})
        await phone.next("received")

        async def is_received() -> bool:
            return "and it was received" in told(await ask(http, user="bob", message_id=message_id))[0]

        await eventually(is_received)
    # Both have gone. The device has said that it has the message; of the next, nobody has.
    later = await ask(http, user="bob", message_id=message_id)
    assert told(later) == (f"{written}, and it was received (as the device said at T).", True)
    async with Client(two[0].url, user="alice") as alice:
        message_id = (await alice.send("bob", "again"))["message_id"]
    verdict, is_reached = told(await ask(http, user="bob", message_id=message_id))
    assert verdict == f"bob's phone (connection {session}) had left replica-2 at T."
    assert is_reached is False


async def test_a_message_that_waits_and_is_read_later(two: list[RunningReplica], http: httpx.AsyncClient) -> None:
    """Fails if what is kept for a user who is away is called lost, or a repetition is not told apart."""
    async with Client(two[0].url, user="alice") as alice:
        first = await alice.send("bob", "hello", idempotency_key="k")
        repeated = await alice.send("bob", "hello", idempotency_key="k")
        ephemeral = await alice.send("bob", "hello", ephemeral=True)
    assert repeated["message_id"] == first["message_id"]
    asked = await ask(http, user="bob", message_id=first["message_id"])
    assert told(asked) == ("bob was not connected to '#bob'; it is kept there, at offset 1.", False)
    asked = await ask(http, user="bob", message_id=ephemeral["message_id"])
    assert told(asked) == ("bob was not connected to '#bob' when it came and was not to be kept.", False)

    async with Client(two[1].url, path="/ws?user=bob&replay") as bob:
        session = (await bob.next("connected"))["session"]
        await bob.next("message")
        asked = await ask(http, user="bob", message_id=first["message_id"])
        assert told(asked) == (f"bob's connection {session} was written it at T on replica-2, from the log.", True)
    async with Client(two[0].url, user="bob") as bob:
        verdict, _ = told(await ask(http, user="bob", message_id=first["message_id"]))
        assert f"{bob.connected['session']} came at T on replica-1, later" in verdict


async def test_a_channel_and_a_program(two: list[RunningReplica], http: httpx.AsyncClient) -> None:
    """Fails if a message on a channel is looked for on the user's own, or one that no client sent is not found."""
    async with Client(two[1].url, path="/ws?user=bob&channels=news") as bob:
        await bob.next("subscribed")
        await http.post("/api/publish", json={"channel": "news", "data": 1})
        message = await bob.next("message")
        asked = await ask(http, user="bob", message_id=message["message_id"])
        assert told(asked)[1] is True
        assert asked["message"]["channel"] == "news"
        payload = '{"target_user_id":"bob","message":1,"message_id":"mine"}'
        await two[0].redis.client.publish("{}:events".format(two[0].redis.keys.prefix.rstrip(":")), payload)
        await bob.next("message", message_id="mine")
        assert told(await ask(http, user="bob", message_id="mine"))[1] is True


async def test_what_is_not_known(
    two: list[RunningReplica], http: httpx.AsyncClient, start_replica: StartReplica
) -> None:
    """Fails if it is made up what became of a message, or the caller is not told whom that leaves out, and why."""
    error = await ask(http, user="bob", message_id="never")
    assert error["code"] == 404
    assert "message 'never' is not known (any more): the log of '#bob' has it not among its" in error["message"]
    assert "the notes of replica-1 go back to" in error["message"]
    silent = await start_replica("replica-3", trace={"notes": 0}, **OPTIONS)
    async with Client(silent.url, user="bob") as bob:
        message_id = (await bob.send("bob", 1))["message_id"]
        await bob.next("message")
        verdict, is_reached = told(await ask(http, user="bob", message_id=message_id))
    assert verdict.startswith(
        "whether bob was connected then is not known any more; nothing is known from replica-3: it answ"
    )
    assert is_reached is None
    assert (await ask(http, user="bob", since="x"))["code"] == 107


async def test_what_happens_from_now_on(two: list[RunningReplica], http: httpx.AsyncClient) -> None:
    """Fails if a watch shows what was before, misses what a replica notes, or shows something twice."""
    async with Client(two[1].url, user="bob") as bob, Client(two[0].url, user="alice") as alice:
        await alice.send("bob", 1)
        begin = await ask(http, user="bob")
        assert begin["entries"] == []
        await alice.send("bob", 2)
        await alice.send("eve", 3)
        await bob.messages(2)
        page = await ask(http, user="bob", since=begin["cursor"])
        seen = sorted((each["replica"], each["event"]) for each in page["entries"])  # the ack may come last
        assert seen == [("replica-1", "accepted"), ("replica-2", "delivered")]
        assert (await ask(http, user="bob", since=page["cursor"]))["entries"] == []
        everything = await ask(http, user="bob", since="")
        assert [each["event"] for each in everything["entries"]].count("delivered") == 2
        few = await ask(http, user="bob", since="", limit=1)
        assert sum(each.get("left_out", 0) for each in few["replicas"]) > 0


async def test_a_replica_alone(start_replica: StartReplica) -> None:
    """Fails if without Redis nobody can be asked."""
    alone = await start_replica(redis_url=None, **OPTIONS)
    async with Client(alone.url, user="bob") as bob, http_client(alone.url, headers={"X-API-Key": KEY}) as http:
        message_id = (await bob.send("bob", 1))["message_id"]
        assert told(await ask(http, user="bob", message_id=message_id))[1] is True


async def test_at_a_terminal(two: list[RunningReplica], http: httpx.AsyncClient) -> None:
    """Fails if the command does not print the verdict first, says by its exit code what is not so, or breaks."""

    async def run(*words: str) -> Result:
        environment = {"HELIOGRAPH_API__KEY": KEY, "HELIOGRAPH_URL": two[1].url}
        return await asyncio.to_thread(CliRunner().invoke, main, words, env=environment)

    async with Client(two[0].url, path="/ws?user=bob&device=phone") as bob:
        message_id = (await bob.send("bob", 1))["message_id"]
        cursor = (await bob.next("message"))["cursor"]
        done = await run("why", "bob", message_id)
        lines = done.stdout.splitlines()
        assert (done.exit_code, lines[0].startswith("bob's phone (connection")) == (0, True), done.output
        assert lines[2].startswith("  #bob at offset 1 of epoch")
        assert [line.split()[1:3] for line in lines[3:]] == [["replica-1", "accepted"], ["replica-1", "delivered"]]
        assert (await run("why", "eve", message_id)).exit_code == 1
        assert "delivered" in (await run("why", "bob")).stdout
        assert "no device of bob" in (await run("receipts", "bob")).stdout
        await bob.say({"type": "received", "cursor": cursor})

        async def is_shown() -> bool:
            return (await run("receipts", "bob")).stdout.startswith("phone  #bob  offset 1")

        await eventually(is_shown)
    unknown = await run("why", "bob", "never")
    assert (unknown.exit_code, "is not known" in unknown.output) == (1, True)
    assert (await run("why")).exit_code == 2
    nowhere = await run("why", "bob", message_id, "--url", "http://localhost:1")
    assert (nowhere.exit_code, "cannot be reached" in nowhere.output) == (3, True), "it may have been delivered"
