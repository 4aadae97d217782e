"""Redis as a group with Sentinels: the master goes, and another server takes its place."""

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from heliograph import AsyncPublisher, Publisher
from heliograph.backends.redis import sentinels
from heliograph.backends.redis.client import connect
from heliograph.backends.redis.sentinels import NoMaster, newest
from heliograph.redis_url import read_sentinel_address
from tests.conftest import StartReplica
from tests.support.certificates import make_certificate
from tests.support.client import Client
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.sentinel_group import NAME, SentinelGroup
from tests.support.waiting import eventually

FAILOVER_S = 15.0  # by then another server is the master, on a busy machine too


@pytest.fixture
def group(tmp_path: Path) -> Iterator[SentinelGroup]:
    started = SentinelGroup(tmp_path).start()
    yield started
    started.stop()


def killed(group: SentinelGroup) -> None:
    group.servers[0].stop()


def frozen(group: SentinelGroup) -> None:
    group.servers[0].freeze()


def replaced(group: SentinelGroup) -> None:
    assert group.ask_sentinel("SENTINEL", "FAILOVER", NAME) == "OK"


@pytest.mark.parametrize("lose_master", [killed, frozen, replaced])
async def test_messages_go_on_over_the_next_master(
    group: SentinelGroup, start_replica: StartReplica, lose_master: Callable[[SentinelGroup], None]
) -> None:
    """Fails if a socket closes, an acknowledged message is lost or doubled, or the old master counts again."""
    one, two = [await start_replica(f"replica-{number}", redis_url=group.url) for number in (1, 2)]
    async with Client(one.url, user="alice") as alice, Client(two.url, user="bob") as bob:
        for number in range(20):
            assert (await alice.send("bob", number))["type"] == "ack"
        assert await bob.messages(20) == list(range(20))
        await _replica_is_level(group)
        lose_master(group)
        acknowledged: list[int] = []
        number = after = 100
        async with asyncio.timeout(FAILOVER_S + 10):
            while number < after + 20:
                answer = await alice.send("bob", number, idempotency_key=f"k{number}")
                if answer["type"] == "ack":
                    acknowledged.append(number)
                    number += 1
                else:
                    assert answer["code"] == "unavailable", answer
                if not group.servers[1].command("ROLE").startswith("master"):
                    after = number
        assert await bob.messages(len(acknowledged), within_s=10) == acknowledged
        for replica in (one, two):
            await eventually(lambda replica=replica: replica.replica.node.ready)
        if lose_master is frozen:
            group.servers[0].thaw()
        assert (await alice.send("bob", "last", ephemeral=True))["type"] == "ack"
        assert await bob.messages(1) == ["last"]


async def _replica_is_level(group: SentinelGroup) -> None:
    """Wait until the replica has what the master has: what a failover loses is tested elsewhere."""
    first, second = group.servers

    def offset(server: RedisServer, name: str) -> str:
        facts = dict(line.split(":", 1) for line in server.command("INFO", "replication").splitlines() if ":" in line)
        return facts[name]

    await eventually(lambda: offset(first, "master_repl_offset") == offset(second, "slave_repl_offset"), within_s=5)


async def test_publishers_find_the_next_master(group: SentinelGroup) -> None:
    """Fails if a program without replicas writes into the old master, or gives up while a failover is under way."""
    with Publisher(group.url, deadline_s=FAILOVER_S) as plain:
        async with AsyncPublisher(group.url, deadline_s=FAILOVER_S) as waiting:
            assert plain.publish("news:1", {"n": 1}).offset == 1
            assert (await waiting.publish("news:1", {"n": 2})).offset == 2
            group.stop_sentinel(0)  # two of three decide, and answer
            group.servers[0].stop()
            third = await asyncio.to_thread(plain.publish, "news:1", {"n": 3})
            fourth = await waiting.publish("news:1", {"n": 4})
            assert (fourth.epoch, fourth.offset) == (third.epoch, third.offset + 1)


async def test_a_master_that_was_replaced_is_left_though_it_answers(group: SentinelGroup, tmp_path: Path) -> None:
    """Fails if a program on the wrong side of a cut network writes into the old master until that is cut off too.

    A fourth server plays a Sentinel that tells of the change, because real ones cannot be made to say it falsely.
    """
    herald = RedisServer(tmp_path).start()
    client = connect(group.url.replace("/0?", f",127.0.0.1:{herald.port}/0?"))
    try:
        await client.link.ping()
        await client.ping()
        assert client.link.connections == 1
        first = group.servers[0].port
        await eventually(lambda: "+switch-master" in herald.command("PUBSUB", "CHANNELS"))
        herald.command("PUBLISH", "+switch-master", f"other 127.0.0.1 {first} 127.0.0.1 1")
        await client.link.ping()
        assert client.link.connections == 1
        herald.command("PUBLISH", "+switch-master", f"{NAME} 127.0.0.1 {first} 127.0.0.1 1")

        async def asked_anew() -> bool:
            try:
                await client.link.ping()
                await client.ping()
            except RedisError:
                return False
            return client.link.connections >= 2

        await eventually(asked_anew)
    finally:
        await client.aclose()
        herald.stop()


async def test_a_sentinel_that_went_silent_is_heard_again(
    group: SentinelGroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a program waits for ever for a Sentinel whose host froze, and never hears it again."""
    monkeypatch.setattr(sentinels, "SILENCE_S", 0.2)
    monkeypatch.setattr(sentinels, "LISTEN_AGAIN_S", 0.2)
    herald = RedisServer(tmp_path).start()
    client = connect(group.url.replace("/0?", f",127.0.0.1:{herald.port}/0?"))
    try:
        await client.link.ping()
        await eventually(lambda: herald.calls("subscribe") == 1)
        await asyncio.sleep(1)
        assert herald.calls("subscribe") == 1, "one that answers pings is not left"
        herald.freeze()
        await asyncio.sleep(1)
        herald.thaw()
        await eventually(lambda: herald.calls("subscribe") >= 2)
    finally:
        await client.aclose()
        herald.stop()


async def test_no_master_is_an_error_that_says_so(group: SentinelGroup) -> None:
    """Fails if a misspelt name hangs, or if the caller is told that the command may have been carried out."""
    client = connect(group.url.replace(f"master={NAME}", "master=nobody"))
    with pytest.raises(NoMaster, match="'nobody': none that answers knows a master of this name"):
        await client.link.ping()
    await client.aclose()
    gone = connect(f"redis+sentinel://127.0.0.1:{free_port()}/0?master={NAME}")
    with pytest.raises(NoMaster, match="no Sentinel names"):
        await gone.link.ping()
    await gone.aclose()


@pytest.fixture
def secure_url(tmp_path: Path) -> Iterator[str]:
    """A master and a Sentinel that speak only TLS, each with a password; the URL lacks that of the Sentinel."""
    made, ports = make_certificate(tmp_path), (free_port(), free_port())
    tls = [
        ("tls-auth-clients", "no"),
        ("tls-cert-file", str(made.certificate)),
        ("tls-key-file", str(made.key)),
        ("tls-ca-cert-file", str(made.authority)),
        ("tls-replication", "yes"),
    ]
    flags = [word for name, value in tls for word in (f"--{name}", value)]
    server = RedisServer(tmp_path, options=["--tls-port", str(ports[0]), *flags]).start()
    server.command("ACL", "SETUSER", "helio", "on", ">s3cret", "~*", "&*", "+@all")
    config = tmp_path / "sentinel.conf"
    lines = [
        "port 0",
        f"tls-port {ports[1]}",
        "requirepass watch",
        *(f"{name} {value}" for name, value in tls),
        f"sentinel monitor {NAME} 127.0.0.1 {ports[0]} 1",
    ]
    config.write_text("\n".join(lines) + "\n")
    sentinel = subprocess.Popen(["redis-server", config, "--sentinel"], stdout=subprocess.DEVNULL)
    yield f"rediss+sentinel://helio:s3cret@127.0.0.1:{ports[1]}/0?master={NAME}&ssl_ca_certs={made.authority}"
    sentinel.kill()
    sentinel.wait()
    server.stop()


async def test_passwords_and_tls_reach_both_sides(secure_url: str) -> None:
    """Fails if the Sentinels get the servers' password, or no TLS."""
    client = connect(f"{secure_url}&sentinel_password=watch")

    async def answers() -> bool:
        try:
            await client.link.ping()
        except RedisError:
            return False
        return True

    await eventually(answers)
    assert await client.link.ask("ACL", "WHOAMI") == b"helio"
    await client.aclose()
    with Publisher(f"{secure_url}&sentinel_password=watch") as plain:
        assert plain.publish("news:1", {"n": 1}).offset == 1
    wrong = connect(secure_url)
    with pytest.raises(NoMaster, match=r"[Aa]uthentication"):
        await wrong.link.ping()
    await wrong.aclose()


def test_the_latest_decision_counts() -> None:
    """Fails if a Sentinel that has not heard of a failover yet sends a program back to the old master."""
    address = read_sentinel_address(f"redis+sentinel://a,b,c/0?master={NAME}")
    assert address is not None

    def answer(port: int, epoch: int) -> list[bytes]:
        return [b"ip", b"10.0.0.1", b"port", str(port).encode(), b"config-epoch", str(epoch).encode()]

    assert newest(address, [answer(1, 4), RedisError("away"), answer(2, 5)]) == ("10.0.0.1", 2)
