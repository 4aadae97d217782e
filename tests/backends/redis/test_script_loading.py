"""How scripts come into a Redis: which server that is, with and without the right to ask, and what it has lost."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from heliograph.backends.redis.client import Client, connect
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.layout import layouts_among
from heliograph.backends.redis.link_errors import OtherLayout
from heliograph.backends.redis.script_loading import check_layout
from heliograph.backends.redis.scripts import Scripts
from heliograph.backends.redis.sync import SyncScripts, connect_sync
from tests.support.append_call import append_call
from tests.support.redis_answers import text
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

KEYS = Keys("loading:", "events")
# What docs/operations.md names.
RIGHTS = (
    "~loading:*",
    "&events*",
    "+@read",
    "+@write",
    "+@pubsub",
    "+@scripting",
    "+@connection",
    "+@transaction",
    "+time",
    "-@dangerous",
)


@pytest.fixture
async def client(own_redis: RedisServer) -> AsyncIterator[Client]:
    client = connect(own_redis.url)
    yield client
    await client.aclose()


@pytest.fixture
async def humble(own_redis: RedisServer) -> AsyncIterator[Client]:
    """A client whose user may ask neither INFO nor CONFIG."""
    assert own_redis.command("ACL", "SETUSER", "humble", "on", ">pass", *RIGHTS) == "OK"
    client = connect(own_redis.url.replace("redis://", "redis://humble:pass@"))
    with pytest.raises(NoPermissionError):
        await client.link.ask("INFO", "server")
    yield client
    await client.aclose()


async def answers(client: Client) -> None:
    """Wait until the server that was restarted answers."""

    async def does() -> bool:
        try:
            await client.link.ping()
        except RedisError:
            return False
        return True

    await eventually(does)


def backed_up(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.glob("appendonlydir/*")}


def put_back(backup: dict[Path, bytes]) -> None:
    for path, content in backup.items():
        path.write_bytes(content)


async def name_of(client: Client) -> str:
    return text(await client.hget(KEYS.server, "name") or b"")


async def epoch_of(scripts: Scripts, channel: str = "c") -> str:
    """That of a log which is written to once more."""
    [answer] = await scripts.run_many("append", [append_call(KEYS, channel)])
    return str(answer.decode().split(".")[0])


class TestName:
    async def test_is_the_run_id_where_it_may_be_asked_for(self, client: Client) -> None:
        """Fails if logs that were written under an older version begin anew with this one."""
        await Scripts(client, KEYS).run("tops", [], [])
        assert await name_of(client) == (await client.info("server"))["run_id"][:16]

    async def test_all_agree_on_one_without_info(
        self, humble: Client, client: Client, own_redis: RedisServer
    ) -> None:
        """Fails if two programs take the same server for two: each would begin a new epoch after the other.

        Whoever may ask INFO has to take the name that was made up by one who may not.
        """
        scripts = [Scripts(humble, KEYS, f"replica-{number}") for number in range(5)]
        epochs = {await epoch_of(each) for each in scripts}
        epochs |= set(await asyncio.gather(*map(epoch_of, [Scripts(humble, KEYS, f"again-{n}") for n in range(5)])))
        epochs.add(await epoch_of(Scripts(client, KEYS)))
        with connect_sync(own_redis.url.replace("redis://", "redis://humble:pass@")) as redis:
            [answer] = await asyncio.to_thread(SyncScripts(redis, KEYS).run_many, "append", [append_call(KEYS)])
        assert epochs == {answer.decode().split(".")[0]}
        assert (await name_of(client)).startswith("x")

    async def test_at_the_same_time(self, humble: Client, own_redis: RedisServer) -> None:
        """Fails if those who make a name up at the same moment each keep their own."""
        clients = [connect(own_redis.url.replace("redis://", "redis://humble:pass@")) for _ in range(10)]
        try:
            for _ in range(5):
                own_redis.command("FLUSHALL")
                own_redis.command("SCRIPT", "FLUSH")
                assert len(set(await asyncio.gather(*(epoch_of(Scripts(each, KEYS)) for each in clients)))) == 1
        finally:
            for each in clients:
                await each.aclose()

    async def test_another_after_a_restart(self, tmp_path: Path) -> None:
        """Fails if a server that has lost its end is taken for the one that it was, as its key says so."""
        redis = RedisServer(tmp_path, appendonly=True, options=("--appendfsync", "everysec")).start()
        try:
            redis.command("ACL", "SETUSER", "humble", "on", ">pass", *RIGHTS)
            for url in (redis.url, redis.url.replace("redis://", "redis://humble:pass@")):
                client = connect(url)
                scripts = Scripts(client, KEYS)
                before, name = await epoch_of(scripts), await name_of(client)
                redis.restart(gently=True)
                redis.command("ACL", "SETUSER", "humble", "on", ">pass", *RIGHTS)
                await answers(client)
                assert await epoch_of(scripts) != before
                assert await name_of(client) != name
                await client.aclose()
        finally:
            redis.stop()


class TestClaim:
    async def test_who_stops_gives_its_name_back(self, client: Client, caplog: pytest.LogCaptureFixture) -> None:
        """Fails if each restart of a replica warns of another with its name, or if two of one name go unnoticed."""
        stopped = Scripts(client, KEYS, "events replica-1")
        await stopped.run("tops", [], [])
        await stopped.release()
        await Scripts(client, KEYS, "events replica-1").run("tops", [], [])
        assert not caplog.records
        await stopped.run("tops", [], [])  # used again: the name is the other's now
        assert "another replica with the bus channel and name 'events replica-1' runs" in caplog.text

    async def test_the_claim_of_another_stays(self, client: Client) -> None:
        """Fails if a replica that stood still for long takes the name from its successor as it stops."""
        late = Scripts(client, KEYS, "events replica-1")
        await late.run("tops", [], [])
        await client.set(KEYS.script_owner("events replica-1", 0), "successor")
        await late.release()
        assert await client.get(KEYS.script_owner("events replica-1", 0)) == b"successor"


class TestFailures:
    async def test_everything_is_read_before_it_is_needed(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if a script's file that is missing (or a file too many) at its first call matters."""
        scripts = Scripts(client, KEYS)
        monkeypatch.setattr("heliograph.backends.redis.script_texts.resources.files", lambda _: Path("/nowhere"))
        assert await scripts.run("tops", [], []) == []
        assert await epoch_of(scripts)

    async def test_whatever_goes_wrong_those_who_wait_are_told(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if one failure while scripts are loaded has all calls wait for ever."""
        scripts, failures = Scripts(client, KEYS), iter([OSError(24, "Too many open files"), KeyError("a bug")])
        follow = type(scripts)._follow_steps

        async def failing(self: Any) -> dict[str, str]:
            for failure in failures:
                raise failure
            return dict(await follow(self))

        if not hasattr(type(scripts), "__mypyc_attrs__"):
            monkeypatch.setattr(Scripts, "_follow_steps", failing)
            for _ in range(2):
                with pytest.raises(Exception, match="could not be loaded"):
                    await asyncio.wait_for(scripts.run("tops", [], []), 2)
        assert await asyncio.wait_for(scripts.run("tops", [], []), 2) == []

    async def test_a_missing_right_is_said(self, own_redis: RedisServer, humble: Client) -> None:
        """Fails if a user who may not do what publishing needs only finds out when a client publishes."""
        scripts = Scripts(humble, KEYS)
        await scripts.probe("replica-1")
        for command in ("XADD", "GETDEL", "HSCAN", "TIME", "LTRIM"):
            own_redis.command("ACL", "SETUSER", "humble", f"-{command}")
            with pytest.raises(ResponseError, match=command):
                await scripts.probe("replica-1")
            own_redis.command("ACL", "SETUSER", "humble", f"+{command}")
        await scripts.probe("replica-1")


class TestWentBack:
    """A server with `appendfsync always` whose data are older than before."""

    async def test_is_noticed_by_who_has_written_since(self, tmp_path: Path) -> None:
        """Fails if an operator who puts a backup back has offsets given twice in one epoch."""
        redis = RedisServer(tmp_path, appendonly=True).start()
        client = connect(redis.url)
        try:
            scripts = Scripts(client, KEYS)
            await scripts.probe("replica-1")
            before = await epoch_of(scripts)
            await epoch_of(scripts, "d")
            backup = backed_up(tmp_path)
            redis.restart(gently=True)
            await answers(client)
            assert await epoch_of(scripts) == before, "nothing was lost, and so nothing begins anew"
            await scripts.probe("replica-1")
            redis.stop()
            put_back(backup)
            redis.start()
            await answers(client)
            now = await epoch_of(scripts)
            assert now != before
            late = connect(redis.url)  # who comes later, and knows nothing of what was there before
            [epoch, _] = await Scripts(late, KEYS).run("tops", [KEYS.meta("d")], [])
            assert epoch == b"", "what nobody has touched since begins anew for everybody"
            await late.aclose()
        finally:
            await client.aclose()
            redis.stop()

    async def test_a_log_that_was_switched_off(self, tmp_path: Path) -> None:
        """Fails if `appendonly` is believed for ever because it was on once."""
        redis = RedisServer(tmp_path, appendonly=True).start()
        client = connect(redis.url)
        try:
            scripts = Scripts(client, KEYS)
            await scripts.probe("replica-1")
            before = await epoch_of(scripts)
            redis.command("CONFIG", "SET", "appendonly", "no")
            await scripts.probe("replica-1")
            assert await epoch_of(scripts) == before
            redis.restart()
            await answers(client)
            assert await epoch_of(scripts) != before
        finally:
            await client.aclose()
            redis.stop()


def test_a_signal_handler_may_publish_while_scripts_are_loaded(own_redis: RedisServer) -> None:
    """Fails if a program hangs whose signal handler publishes while the first publication loads the scripts."""
    answers: list[bytes] = []

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGALRM, give_up)
        own_redis.thaw()
        answers.extend(scripts.run_many("append", [append_call(KEYS)]))

    def give_up(*_: object) -> None:
        raise TimeoutError("the handler waits for what it has interrupted")

    with connect_sync(own_redis.url) as redis:
        scripts = SyncScripts(redis, KEYS)
        own_redis.freeze()
        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.2, 3)
        try:
            answers += scripts.run_many("append", [append_call(KEYS)])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            own_redis.thaw()
    assert [answer.decode().split(".")[1] for answer in answers] == ["1", "2"]


@pytest.mark.parametrize("kept", [b"shard 1 of 2 (v1)", None])
def test_the_first_replica_comes_while_another_looks_at_the_layout(kept: bytes | None) -> None:
    """Fails if replicas that start together take each other for those of a cluster with one Redis, or really are."""
    steps = check_layout(KEYS, layouts_among(2)[0])
    assert [command[0] for command in next(steps)] == ["HGET"]
    assert steps.send([None]) == [("TIME",)]
    assert [command[0] for command in steps.send([(1_764_475_200, 0)])] == ["ZCOUNT", "HGET"]
    with pytest.raises(OtherLayout if kept is None else StopIteration):
        steps.send([1, kept])


async def test_what_is_forgotten_is_forgotten_over_every_link(client: Client) -> None:
    """Fails if calls over another link go on under a claim, a layout or a configuration that has been given up."""
    scripts = Scripts(client, KEYS, "events replica-1")
    others = [scripts.over(client.bulk), scripts.over(client.kept)]
    for each in (scripts, *others):
        await each.run("tops", [], ())
        assert each._is_loaded("tops")
    await scripts.release()
    assert not any(each._is_loaded("tops") for each in (scripts, *others))
