"""The link to a real Redis: order, batches, time-outs, and everything that can break under it."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from heliograph.backends.redis import link as link_module
from heliograph.backends.redis.call_batch import NOTHING
from heliograph.backends.redis.client import Client, connect
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.link import Command
from heliograph.backends.redis.link_errors import LinkFull, NotSent
from heliograph.backends.redis.script_texts import script_text
from heliograph.backends.redis.scripts import Scripts
from heliograph.backends.redis.sync import SyncScripts, connect_sync
from tests.support.append_call import append_call
from tests.support.ports import free_port
from tests.support.redis_admin import RedisAdmin
from tests.support.redis_answers import entries
from tests.support.redis_server import RedisServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually

KEYS = Keys("link:", "events")


class Linked:
    """A client's link, and what has become of each call."""

    def __init__(self, url: str) -> None:
        self.client = connect(url)
        self.link = self.client.link
        self.answers: list[Any] = []

    def call(self, *command: str | bytes | int) -> None:
        self.link.call(command, self.answers.append)

    async def answered(self, count: int, within_s: float = 5.0) -> list[Any]:
        """The answers to so many calls, once they are there."""
        await eventually(lambda: len(self.answers) >= count, within_s=within_s)
        answers, self.answers = self.answers, []
        return answers


@pytest.fixture
async def linked(own_redis: RedisServer) -> AsyncIterator[Linked]:
    linked = Linked(own_redis.url)
    yield linked
    await linked.client.aclose()


class TestOrder:
    async def test_every_call_gets_its_own_answer(self, linked: Linked) -> None:
        """Fails if replies are matched to the wrong calls."""
        for number in range(2_000):
            linked.call("ECHO", number)
        assert await linked.answered(2_000) == [b"%d" % number for number in range(2_000)]

    async def test_what_one_turn_asks_for_goes_out_in_one_write(
        self, linked: Linked, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if each command is a system call of its own."""
        await linked.link.ping()
        writes: list[bytes] = []
        monkeypatch.setattr(linked.link._wire, "send", lambda commands: writes.append(b"".join(commands)))
        for number in range(100):
            linked.call("ECHO", number)
        await asyncio.sleep(0)
        assert len(writes) == 1
        assert writes[0].count(b"ECHO") == 100

    async def test_an_error_is_the_answer_to_its_own_call_alone(self, linked: Linked) -> None:
        """Fails if what Redis refuses costs the calls around it anything."""
        linked.call("SET", "k", "text")
        linked.call("INCR", "k")
        linked.call("NO-SUCH-COMMAND")
        linked.call("GET", "k")
        first, wrong, unknown, last = await linked.answered(4)
        assert (first, last) == (b"OK", b"text")
        assert isinstance(wrong, ResponseError)
        assert isinstance(unknown, ResponseError)
        assert linked.link.connections == 1

    async def test_a_callback_that_raises_costs_nobody_else_an_answer(
        self, linked: Linked, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if a bug in one caller breaks the connection, or shifts the answers of all others."""

        def broken(_: Any) -> None:
            raise ZeroDivisionError("a bug")

        linked.call("ECHO", 1)
        linked.link.call(("ECHO", 2), broken)
        linked.call("ECHO", 3)
        assert await linked.answered(2) == [b"1", b"3"]
        assert "a bug" in caplog.text
        assert linked.link.connections == 1

    async def test_a_caller_that_is_cancelled_spoils_no_other_answer(self, linked: Linked) -> None:
        """Fails if the answer to a call whose caller has gone is taken for the answer to the next."""
        await linked.link.ping()
        for number in range(50):
            asking = asyncio.create_task(linked.link.ask("ECHO", "gone"))
            await asyncio.sleep(0)
            asking.cancel()
            assert await linked.link.ask("ECHO", number) == b"%d" % number

    async def test_calls_that_are_made_in_a_callback(self, linked: Linked) -> None:
        """Fails if a call that an answer brings about is lost, or answered out of turn."""
        linked.link.call(("ECHO", "one"), lambda reply: linked.call("ECHO", reply + b" two"))
        assert await linked.answered(1) == [b"one two"]


class TestSize:
    async def test_ten_thousand_at_once(self, linked: Linked) -> None:
        """Fails if a burst is refused, cut or reordered."""
        for number in range(10_000):
            linked.call("ECHO", number)
        assert await linked.answered(10_000) == [b"%d" % number for number in range(10_000)]
        assert linked.link.connections == 1

    async def test_huge_commands_and_replies_between_small_ones(self, linked: Linked) -> None:
        """Fails if what takes many reads or writes is put together wrongly."""
        huge = bytes(range(256)) * 65_536  # 16 MiB
        linked.call("ECHO", "before")
        linked.call("SET", "huge", huge)
        linked.call("GET", "huge")
        linked.call("ECHO", "after")
        assert await linked.answered(4, within_s=20) == [b"before", b"OK", huge, b"after"]

    async def test_more_than_the_most_is_refused_at_once(
        self, linked: Linked, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if what waits for Redis grows without a bound, or if who is refused has to wait for that."""
        monkeypatch.setattr(link_module, "MOST_OUTSTANDING", 10)
        for number in range(12):
            linked.call("ECHO", number)
        assert [type(answer) for answer in linked.answers] == [LinkFull, LinkFull]
        assert (await linked.answered(12))[2:] == [b"%d" % number for number in range(10)]
        assert await linked.link.ask("ECHO", "again") == b"again"

    async def test_what_is_rare_is_asked_all_the_same(self, linked: Linked, monkeypatch: pytest.MonkeyPatch) -> None:
        """Fails if a flood keeps the canary from being sent: the bus would be taken for deaf, and built anew."""
        await linked.link.ping()
        monkeypatch.setattr(link_module, "MOST_OUTSTANDING", 10)
        for number in range(11):
            linked.call("ECHO", number)
        assert isinstance(linked.answers.pop(), LinkFull)
        assert await linked.link.ask("ECHO", "rare") == b"rare"
        assert linked.answers == [b"%d" % number for number in range(10)]

    @pytest.mark.usefixtures("short_timeout")
    async def test_a_redis_that_does_not_read_bounds_what_waits(
        self, linked: Linked, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if memory fills while Redis is frozen, or if what was never sent is sent long after its time-out."""
        monkeypatch.setattr(link_module, "MOST_UNSENT_BYTES", 4_000_000)
        await linked.link.ping()
        own_redis.freeze()
        megabyte = b"x" * 1_000_000
        for number in range(40):
            linked.call("RPUSH", "list", megabyte + b"%d" % number)
            await asyncio.sleep(0)
        assert isinstance(linked.answers[-1], LinkFull)
        refused = len(linked.answers)
        assert refused >= 20
        answers = await linked.answered(40)
        assert all(isinstance(answer, RedisTimeoutError) for answer in answers[refused:])
        assert linked.link._unsent == []
        own_redis.thaw()
        assert await linked.link.ask("ECHO", "back") == b"back"
        assert int(await linked.link.ask("LLEN", "list")) < 40 - refused


class TestTime:
    async def test_a_frozen_redis_fails_a_call_in_about_a_second(
        self, linked: Linked, own_redis: RedisServer
    ) -> None:
        """Fails if a caller waits for ever, or if answers that come late are taken for those to later calls."""
        await linked.link.ping()
        own_redis.freeze()
        began = time.monotonic()
        linked.call("ECHO", "late")
        [error] = await linked.answered(1)
        assert isinstance(error, RedisTimeoutError)
        assert 0.9 < time.monotonic() - began < 1.6
        own_redis.thaw()
        assert await linked.link.ask("ECHO", "next") == b"next"
        assert linked.link.connections == 1, "a Redis that stood still for a moment is no reason to connect anew"

    @pytest.mark.usefixtures("short_timeout")
    async def test_a_connection_that_is_dead_without_a_word_is_given_up(self, own_redis: RedisServer) -> None:
        """Fails if calls go into a black hole for ever, because nothing says that it is one."""
        async with TcpProxy(own_redis.port) as network:
            linked = Linked(network.url)
            await linked.link.ping()
            network.deafen()
            began = time.monotonic()
            while linked.link.connections == 1:
                linked.call("ECHO", "anybody there?")
                await asyncio.sleep(0.05)
            assert 0.5 < time.monotonic() - began < 2.5
            assert await linked.link.ask("ECHO", "yes") == b"yes"
            await linked.client.aclose()

    async def test_a_redis_far_away_can_be_connected_to(self, own_redis: RedisServer) -> None:
        """Fails if all round trips of connecting (here AUTH, SETINFO) have to fit into the time of one command."""
        async with TcpProxy(own_redis.port) as network:
            network.delay_s = 0.6
            linked = Linked(network.url.replace("redis://", "redis://default:password@"))
            assert await linked.link.ask("ECHO", "there") == b"there"
            assert linked.link.connections == 1
            await linked.client.aclose()

    @pytest.mark.usefixtures("short_timeout")
    async def test_a_stall_of_this_process_fails_no_call(self, linked: Linked) -> None:
        """Fails if answers that lie in the socket count as missing because nobody could read them."""
        await linked.link.ping()
        linked.call("ECHO", "patience")
        await asyncio.sleep(0.01)
        linked.call("ECHO", "more of it")
        time.sleep(0.5)  # noqa: ASYNC251 - the stall
        assert await linked.answered(2) == [b"patience", b"more of it"]

    async def test_idle_it_has_no_timer(self, linked: Linked) -> None:
        """Fails if a link that nobody uses wakes the process up."""
        await linked.link.ping()
        await eventually(lambda: linked.link._timer is None)


class TestLoss:
    async def test_redis_away_is_an_error_at_once_and_the_next_try_waits(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if callers wait while Redis is gone, or if each of them makes a try of its own."""
        linked = Linked(f"redis://127.0.0.1:{free_port()}/0")
        tries: list[float] = []
        pool: Any = linked.client.connection_pool
        make_connection = pool.make_connection

        def noted() -> Any:
            tries.append(time.monotonic())
            return make_connection()

        monkeypatch.setattr(pool, "make_connection", noted)
        began = time.monotonic()
        while time.monotonic() - began < 0.5:
            linked.call("ECHO", 1)
            await asyncio.sleep(0.001)
        answers = await linked.answered(100)
        assert all(isinstance(answer, RedisConnectionError) for answer in answers)
        assert 2 <= len(tries) < 10
        await linked.client.aclose()

    async def test_killed_while_calls_are_under_way_each_gets_one_answer_and_none_is_sent_twice(
        self, linked: Linked, own_redis: RedisServer
    ) -> None:
        """Fails if a call hangs, is answered twice, or is repeated after the restart."""
        await linked.link.ping()
        for number in range(20_000):
            linked.call("APPEND", "log", f"{number},")
            if number == 10_000:
                await asyncio.sleep(0.001)  # some are on their way
        own_redis.restart()
        answers = await linked.answered(20_000)
        assert len(answers) == 20_000
        failed = [isinstance(answer, RedisConnectionError) for answer in answers]
        assert failed == sorted(failed), "those that were answered came first"
        assert True in failed
        assert await linked.link.ask("EXISTS", "log") == 0, "nothing was sent to the new server"

    async def test_a_reply_that_is_cut_in_half(self, own_redis: RedisServer) -> None:
        """Fails if half a reply is taken for a whole one, or its rest for the beginning of the next."""
        async with TcpProxy(own_redis.port) as network:
            linked = Linked(network.url)
            await linked.link.ask("SET", "k", "x" * 100_000)
            network.cut_after = 50_000
            linked.call("GET", "k")
            linked.call("ECHO", "behind it")
            first, second = await linked.answered(2)
            assert isinstance(first, RedisConnectionError)
            assert isinstance(second, RedisConnectionError)
            network.cut_after = -1
            assert await linked.link.ask("GET", "k") == b"x" * 100_000
            await linked.client.aclose()

    async def test_what_is_no_reply_ends_the_connection(self) -> None:
        """Fails if a server that does not speak the protocol leaves callers without an answer."""

        async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1000)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await reader.read(1000)
            writer.close()

        server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
        linked = Linked(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
        with pytest.raises(RedisError):
            await linked.link.ask("PING")
        await linked.client.aclose()
        server.close()
        await server.wait_closed()

    async def test_a_server_that_hangs_up_just_before_a_write(
        self, linked: Linked, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if uvloop's error for a write to what has just ended is taken for a fault of ours."""

        async def hung_up(*_: object) -> None:
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

        with monkeypatch.context() as patched:
            patched.setattr(Connection, "_send_packed_command", hung_up)
            with pytest.raises(RedisConnectionError, match="has ended"):
                await linked.link.ping()
            with pytest.raises(RedisConnectionError, match="has ended"):
                await linked.client.ping()
        await linked.link.ping()
        assert "unexpected" not in caplog.text

    async def test_a_server_that_hangs_up_at_once(self, own_redis: RedisServer) -> None:
        """Fails if a link takes a connection for its own that ended while it was opened, and keeps it for ever."""

        class Ended(Connection):
            async def connect(self) -> None:
                await super().connect()  # type: ignore[no-untyped-call]
                assert self._writer is not None
                self._writer.transport.abort()
                pool.connection_class = before

        linked = Linked(own_redis.url)
        pool = linked.client.connection_pool
        before, pool.connection_class = pool.connection_class, Ended
        try:
            linked.call("PING")
            [error] = await linked.answered(1)
            assert isinstance(error, NotSent)
            await linked.link.ping()
        finally:
            await linked.client.aclose()

    async def test_closing_fails_what_waits_and_the_link_can_live_again(
        self, linked: Linked, own_redis: RedisServer
    ) -> None:
        """Fails if `close` leaves a caller waiting, a connection open, or a link that is good for nothing."""
        async with RedisAdmin(own_redis.url) as admin:
            for life in range(3):
                linked.call("ECHO", life)
                assert await linked.answered(1) == [b"%d" % life]
                own_redis.freeze()
                linked.call("ECHO", "under way")
                await linked.link.close()
                [error] = linked.answers
                linked.answers = []
                assert isinstance(error, RedisConnectionError)
                own_redis.thaw()
                assert await admin.connections() == []

    @pytest.mark.parametrize("turns", range(8))
    async def test_closed_while_it_connects(self, own_redis: RedisServer, turns: int) -> None:
        """Fails if a connection that was being made outlives the link, or its callers wait for ever."""
        linked = Linked(own_redis.url)
        linked.call("PING")
        for _ in range(turns):
            await asyncio.sleep(0)
        await linked.link.close()
        assert len(linked.answers) == 1
        async with RedisAdmin(own_redis.url) as admin:
            await eventually(lambda: _none(admin))
        await linked.client.aclose()


class TestConnecting:
    async def test_with_a_password_a_user_and_a_database(self, own_redis: RedisServer) -> None:
        """Fails if the link does not prove itself, or works in another database than its client."""
        own_redis.command("ACL", "SETUSER", "helio", "on", ">s3cret", "~*", "&*", "+@all")
        linked = Linked(f"redis://helio:s3cret@127.0.0.1:{own_redis.port}/3")
        assert await linked.link.ask("ACL", "WHOAMI") == b"helio"
        await linked.link.ask("SET", "k", "v")
        assert await linked.client.get("k") == b"v"
        assert own_redis.command("-n", "3", "GET", "k") == "v"
        await linked.client.aclose()

    async def test_a_wrong_password_is_said(self, own_redis: RedisServer) -> None:
        """Fails if the reason is lost on the way to the caller."""
        linked = Linked(f"redis://nobody:wrong@127.0.0.1:{own_redis.port}/0")
        with pytest.raises(RedisError, match="invalid username-password"):
            await linked.link.ping()
        await linked.client.aclose()

    async def test_over_a_unix_socket(self, own_redis: RedisServer) -> None:
        """Fails if only TCP was thought of."""
        path = own_redis.command("CONFIG", "GET", "dir").splitlines()[1] + "/socket"
        server = RedisServer(Path(path).parent, options=("--unixsocket", path)).start()
        linked = Linked(f"unix://{path}?db=2")
        assert await linked.link.ask("ECHO", "through a file") == b"through a file"
        assert "db=2" in (await linked.link.ask("CLIENT", "INFO")).decode()
        await linked.client.aclose()
        server.stop()


class TestScripts:
    async def test_a_flush_of_the_scripts_changes_no_order(self, linked: Linked, own_redis: RedisServer) -> None:
        """Fails if calls that were unknown are repeated after later ones, are lost, or are run twice."""
        scripts = Scripts(linked.client, KEYS, "replica-1")
        await scripts.run("tops", [], [])
        done: list[int] = []
        for number in range(3_000):
            scripts.call("remember", (["stream", "latest"], [10_000, 60_000, number], NOTHING), _note(done, number))
            if number % 50 == 0:
                await linked.link.ask("ECHO", "between")
            if number % 1_000 == 525:
                linked.call("SCRIPT", "FLUSH")
        await eventually(lambda: len(done) == 3_000)
        assert done == list(range(3_000))
        found = await entries(linked.client, "stream")
        assert [int(fields[b"data"]) for _, fields in found] == list(range(3_000))

    async def test_somebody_else_who_loads_the_same_scripts_changes_no_order(
        self, linked: Linked, own_redis: RedisServer
    ) -> None:
        """Fails if a replica's later call is carried out before its earlier one, as another loaded the scripts.

        All of it goes out in one write: Redis forgets the scripts, has to be asked for one, is given the other
        replica's, and is asked again.
        """
        scripts = Scripts(linked.client, KEYS, "replica-1")
        await scripts.run("tops", [], [])
        run_id = (await linked.client.info("server"))["run_id"]
        certain = own_redis.command("CONFIG", "GET", "appendonly").endswith("yes")
        others = script_text("remember", run_id, certain=certain, directed=False, owner="replica-2")
        done: list[int] = []
        linked.call("SCRIPT", "FLUSH")
        scripts.call("remember", (["stream", "latest"], [10_000, 60_000, 1], NOTHING), _note(done, 1))
        linked.call("SCRIPT", "LOAD", others)
        scripts.call("remember", (["stream", "latest"], [10_000, 60_000, 2], NOTHING), _note(done, 2))
        await eventually(lambda: len(done) == 2)
        assert done == [1, 2]
        found = await entries(linked.client, "stream")
        assert [int(fields[b"data"]) for _, fields in found] == [1, 2]

    async def test_somebody_else_of_the_same_name_changes_no_order_either(
        self, linked: Linked, own_redis: RedisServer
    ) -> None:
        """Fails if two replicas that were both called replica-1 have each other's messages change places.

        As above: the one that comes second has its scripts loaded between two calls of the first.
        """
        scripts, namesake = Scripts(linked.client, KEYS, "replica-1"), Scripts(linked.client, KEYS, "replica-1")
        await scripts.run("remember", ["stream", "latest"], [10_000, 60_000, 0])
        await namesake.run("remember", ["other", "latest"], [10_000, 60_000, 0])
        assert scripts._shas != namesake._shas
        texts = {}
        pack = linked.link._pack

        def noted(command: Command) -> None:
            if command[:2] == ("SCRIPT", "LOAD"):
                texts[hashlib.sha1(str(command[2]).encode()).hexdigest()] = command[2]  # noqa: S324
            pack(command)

        if not hasattr(type(linked.link), "__mypyc_attrs__"):
            linked.link._pack = noted  # type: ignore[method-assign]
            linked.call("SCRIPT", "FLUSH")
            await namesake.run("remember", ["other", "latest"], [10_000, 60_000, 0])
            done: list[int] = []
            linked.call("SCRIPT", "FLUSH")
            for number in (1, 2):
                call = ["stream", "latest"], [10_000, 60_000, number], NOTHING
                scripts.call("remember", call, _note(done, number))
                linked.call("SCRIPT", "LOAD", texts[namesake._shas["remember"]])
            await eventually(lambda: len(done) == 2)
            assert done == [1, 2]

    async def test_a_number_that_was_taken_meanwhile(self, linked: Linked, own_redis: RedisServer) -> None:
        """Fails if a replica that stood still shares its scripts with one that took its place."""
        frozen = Scripts(linked.client, KEYS, "replica-1")
        await frozen.probe("replica-1")
        before = frozen._shas["probe"]
        await linked.client.delete(frozen._claim.key)  # as if its time had run out
        other = Scripts(linked.client, KEYS, "replica-1")
        await other.probe("replica-1")
        assert other._shas["probe"] == before, "so few scripts stay in Redis"
        await frozen.probe("replica-1")
        await frozen.probe("replica-1")
        assert frozen._shas["probe"] != before
        await other.probe("replica-1")
        assert other._shas["probe"] == before

    async def test_scripts_that_cannot_be_loaded_fail_the_call_and_are_tried_again(
        self, own_redis: RedisServer
    ) -> None:
        """Fails if a call waits for scripts that never come, or if one failure is for ever."""
        client: Client = connect(own_redis.url)
        scripts = Scripts(client, KEYS)
        own_redis.stop()
        with pytest.raises(RedisConnectionError):
            await scripts.run("tops", [], [])
        own_redis.start()
        await client.link.ping()
        assert await scripts.run("tops", [], []) == []
        await client.aclose()

    async def test_a_command_that_must_not_meet_another_server(self, linked: Linked, own_redis: RedisServer) -> None:
        """Fails if what belongs to one connection is sent over the next: a script with the wrong run id."""
        await linked.link.ping()
        connection = linked.link.connections
        own_redis.restart()
        command: Command = ("ECHO", "wrong server")
        await eventually(lambda: linked.link._wire is None)
        linked.link.call(command, linked.answers.append, connection=connection)
        [error] = await linked.answered(1)
        assert isinstance(error, RedisConnectionError)


def _note(done: list[int], number: int) -> Any:
    def note(reply: Any) -> None:
        assert not isinstance(reply, Exception), reply
        done.append(number)

    return note


async def _none(admin: RedisAdmin) -> bool:
    return await admin.connections() == []


def connections_made(redis: RedisServer) -> int:
    """To this server since it began, that of redis-cli among them."""
    return int(redis.command("INFO", "stats").split("total_connections_received:")[1].split()[0])


class TestDemoted:
    """A server that becomes a replica while its connections stay open."""

    async def test_its_connections_end(self, linked: Linked, own_redis: RedisServer) -> None:
        """Fails if a link stays with a server that takes no writes: the address may lead to the new master by now."""
        await linked.link.ping()
        own_redis.command("REPLICAOF", "127.0.0.1", str(free_port()))
        for _ in range(2):
            linked.call("SET", "k", 1)
        assert isinstance((await linked.answered(2))[0], ReadOnlyError)
        await eventually(lambda: linked.link._wire is None)
        with pytest.raises(ReadOnlyError):  # until the next try, which is not made at once
            await linked.link.ask("GET", "k")
        own_redis.command("REPLICAOF", "NO", "ONE")

        async def writes() -> bool:
            linked.call("SET", "k", 1)
            return await linked.answered(1) == [b"OK"]

        await eventually(writes, within_s=2)
        assert linked.link.connections == 2

    async def test_a_batch_too(self, linked: Linked, own_redis: RedisServer) -> None:
        """Fails if the refusal is hidden in the answer to a batch: a publisher would fail for ever."""
        scripts = Scripts(linked.client, KEYS)
        call = append_call(KEYS)
        await scripts.run_many("append", [call])
        own_redis.command("REPLICAOF", "127.0.0.1", str(free_port()))
        with pytest.raises(ReadOnlyError):
            await scripts.run_many("append", [call, call])
        await eventually(lambda: linked.link._wire is None)

    async def test_those_of_the_pool_too(self, linked: Linked, own_redis: RedisServer) -> None:
        """Fails if what is asked with redis-py stays with the old server."""
        await linked.client.set("k", 1)
        own_redis.command("REPLICAOF", "127.0.0.1", str(free_port()))
        before = connections_made(own_redis)
        for _ in range(2):
            with pytest.raises(ReadOnlyError):
                await linked.client.set("k", 1)
        assert connections_made(own_redis) - before == 2, "one for redis-cli, and one for the second try"

    async def test_those_of_a_program_without_an_event_loop(self, own_redis: RedisServer) -> None:
        """Fails if a Publisher that exists already stays with the old server."""

        def publish() -> int:
            with connect_sync(own_redis.url) as redis:
                scripts = SyncScripts(redis, KEYS)
                call = append_call(KEYS)
                scripts.run_many("append", [call])
                own_redis.command("REPLICAOF", "127.0.0.1", str(free_port()))
                before = connections_made(own_redis)
                for _ in range(2):
                    with pytest.raises(ReadOnlyError):
                        scripts.run_many("append", [call])
                return connections_made(own_redis) - before

        assert await asyncio.to_thread(publish) == 2, "one for redis-cli, and one for the second try"


class TestBadCommands:
    async def test_a_batch_that_cannot_be_written_spoils_no_other_answer(self, linked: Linked) -> None:
        """Fails if the answers that follow are taken for those of others, as one command was never sent."""

        class Broken:
            def command(self) -> Command:
                raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")

        linked.call("ECHO", 1)
        linked.link.call(Broken(), linked.answers.append)
        linked.call("ECHO", 2)
        error, first, second = await linked.answered(3)
        assert isinstance(error, NotSent)
        assert (first, second) == (b"1", b"2")

    async def test_an_unknown_script_that_cannot_be_dealt_with(self, linked: Linked) -> None:
        """Fails if a fault there costs the connection, or leaves the caller without an answer."""

        def broken() -> None:
            raise ZeroDivisionError("a bug")

        linked.link.call(("EVALSHA", "0" * 40, 0), linked.answers.append, broken)
        linked.call("ECHO", 1)
        unknown, one = await linked.answered(2)
        assert isinstance(unknown, NoScriptError)
        assert (one, linked.link.connections) == (b"1", 1)
