"""Redis as a group with Sentinels: the master goes, and another server takes its place."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis.asyncio import Connection
from redis.exceptions import RedisError

from heliograph import AsyncPublisher, Publisher
from heliograph.backends.redis import link, sentinels
from heliograph.backends.redis.client import connect
from heliograph.backends.redis.sentinels import Knowledge, MasterFinder, NoMaster, SyncMasterFinder, newest
from heliograph.redis_url import read_sentinel_address
from tests.conftest import StartReplica
from tests.support.certificates import make_certificate
from tests.support.client import Client
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, program
from tests.support.replicas import RunningReplica
from tests.support.sentinel_group import COPIER, NAME, SentinelGroup
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually

FAILOVER_S = 15.0  # by then another server is the master, on a busy machine too
MODES = ("memory", "replica")


@pytest.fixture
def group(tmp_path: Path) -> Iterator[SentinelGroup]:
    started = SentinelGroup(tmp_path).start()
    yield started
    started.stop()


class Party:
    """One cluster of two replicas in a mode of HELIOGRAPH_REDIS__ACK: alice is on the first, bob on the second."""

    def __init__(self, mode: str, replicas: Sequence[RunningReplica], alice: Client, bob: Client) -> None:
        self.mode = mode
        self.replicas = replicas
        self.alice = alice
        self.bob = bob
        self.acknowledged: list[int] = []
        self._next = 0

    async def send(self) -> bool:
        """Have alice send bob the next number, or the last one again if that was refused. Return if it counts now."""
        answer = await self.alice.send("bob", self._next, idempotency_key=f"k{self._next}")
        if answer["type"] == "ack":
            self.acknowledged.append(self._next)
            self._next += 1
            return True
        assert answer["code"] == "unavailable", answer
        return False

    async def send_until(self, moved: Callable[[], bool]) -> None:
        """Send until that is true, and 20 more after that."""
        more = 20
        async with asyncio.timeout(FAILOVER_S + 10):
            while more:
                is_moved = moved()
                more -= await self.send() and is_moved

    async def received(self) -> list[int]:
        """What bob has got, up to the last acknowledged one; of what came twice the last time counts."""
        got: dict[int, None] = {}
        while not got or next(reversed(got)) != self.acknowledged[-1]:
            [number] = await self.bob.messages(1, within_s=10)
            got.pop(number, None)
            got[number] = None
        return list(got)

    async def told(self) -> list[bool]:
        """What bob was told since he came: for each new beginning whether all was recovered."""
        return [frame["recovered"] for frame in await self.bob.only("subscribed")]

    async def goes_on(self) -> None:
        for replica in self.replicas:
            await eventually(lambda replica=replica: replica.replica.node.ready)
        assert (await self.alice.send("bob", -1, ephemeral=True))["type"] == "ack"
        assert await self.bob.messages(1) == [-1]


StartParties = Callable[..., Awaitable[list[Party]]]


@pytest.fixture
async def start_parties(
    group: SentinelGroup, start_replica: StartReplica, namespace: str
) -> AsyncIterator[StartParties]:
    """Start a cluster in each mode on the same servers. `first_url`: by which the first replicas find the master."""
    clients: list[Client] = []

    async def start(first_url: str = group.url) -> list[Party]:
        parties = []
        for mode in MODES:
            own = {"bus": {"channel": f"{namespace}:{mode}"}}
            redis = {"ack": mode, "prefix": f"{namespace}:{mode}:"}
            replicas = [
                await start_replica(f"{mode}-{number}", redis_url=url, redis={"url": url, **redis}, **own)
                for number, url in enumerate((first_url, group.url), 1)
            ]
            alice, bob = (
                Client(replica.url, user=user) for replica, user in zip(replicas, ("alice", "bob"), strict=True)
            )
            clients.extend((await alice.__aenter__(), await bob.__aenter__()))
            party = Party(mode, replicas, alice, bob)
            for _ in range(20):
                assert await party.send()
            parties.append(party)
        await _replica_is_level(group)
        return parties

    yield start
    for client in clients:
        await client.__aexit__(None, None, None)


def killed(group: SentinelGroup) -> None:
    group.servers[0].stop()


def frozen(group: SentinelGroup) -> None:
    group.servers[0].freeze()


def replaced(group: SentinelGroup) -> None:
    assert group.ask_sentinel("SENTINEL", "FAILOVER", NAME) == "OK"


def has_moved(group: SentinelGroup) -> Callable[[], bool]:
    return lambda: group.servers[1].command("ROLE").startswith("master")


async def come_back(group: SentinelGroup, lose_master: Callable[[SentinelGroup], None]) -> None:
    """Have the old master follow the new one, as the Sentinels do after eight seconds, so that it can confirm."""
    old, new = group.servers
    await eventually(has_moved(group), within_s=FAILOVER_S)
    if lose_master is killed:
        old.start()
    if lose_master is frozen:
        old.thaw()
    assert old.command("REPLICAOF", "127.0.0.1", str(new.port)) == "OK"


def lock_out_replicas(server: RedisServer) -> None:
    assert server.command("ACL", "SETUSER", COPIER, "off") == "OK"
    assert int(server.command("CLIENT", "KILL", "USER", COPIER)) > 0


@pytest.mark.parametrize("lose_master", [killed, frozen, replaced])
async def test_messages_go_on_over_the_next_master(
    group: SentinelGroup, start_parties: StartParties, lose_master: Callable[[SentinelGroup], None]
) -> None:
    """Fails if a socket closes, an acknowledged message is lost or doubled, or the old master counts again.

    Where replicas of Redis confirm messages, clients are not even told of it.
    """
    parties = await start_parties()
    lose_master(group)
    await asyncio.gather(come_back(group, lose_master), *(party.send_until(has_moved(group)) for party in parties))
    for party in parties:
        got = await party.received()
        assert got == [n for n in party.acknowledged if n in got]
        # The old master may answer once more before anybody knows of the new one; of that loss bob is told below.
        may_lose = lose_master is frozen and party.mode == "memory"
        assert may_lose or got == party.acknowledged, party.mode
    for party in parties:
        await party.goes_on()
        assert (False in await party.told()) == (party.mode == "memory")


@pytest.mark.slow
async def test_what_the_next_master_lacks_is_said(group: SentinelGroup, start_parties: StartParties) -> None:
    """Fails if a replica that lags is promoted, and somebody is not told that a message is lost that counted."""
    parties = await start_parties()
    before = {party.mode: list(party.acknowledged) for party in parties}
    lock_out_replicas(group.servers[0])

    async def send_some(party: Party) -> None:
        for _ in range(3 if party.mode == "memory" else 1):
            await party.send()

    await asyncio.gather(*map(send_some, parties))  # quickly: Sentinels promote no replica that was away for 5 s
    lost = {party.mode: party.acknowledged[20:] for party in parties}
    assert lost == {"memory": [20, 21, 22], "replica": []}
    killed(group)
    await asyncio.gather(come_back(group, killed), *(party.send_until(has_moved(group)) for party in parties))
    for party in parties:
        assert await party.received() == party.acknowledged, "those on bob's side have seen what was lost, too"
        assert (False in await party.told()) == bool(lost[party.mode])
        async with Client(party.replicas[0].url, user="bob") as late:
            await late.say({"type": "history", "channel": "#bob", "limit": 100})
            found = [each["data"] for each in (await late.next("history"))["publications"]]
        assert found == [n for n in party.acknowledged if n not in lost[party.mode]]
        assert before[party.mode] == found[:20]


@pytest.mark.slow
async def test_a_master_that_was_cut_off(
    group: SentinelGroup, start_parties: StartParties, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a message counts that a master has accepted which the others had replaced, and nobody is told.

    Alice stays with the old master, and hears no Sentinel until the network heals.
    """
    monkeypatch.setattr(sentinels, "SILENCE_S", 0.3)
    monkeypatch.setattr(sentinels, "LISTEN_AGAIN_S", 0.2)
    old = group.servers[0]
    for name, value in (("min-replicas-to-write", "1"), ("min-replicas-max-lag", "1")):
        assert old.command("CONFIG", "SET", name, value) == "OK"
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(TcpProxy(port)) for port in group.sentinel_ports]
        hosts = ",".join(f"127.0.0.1:{proxy.port}" for proxy in proxies)
        parties = await start_parties(f"redis+sentinel://{hosts}/0?master={NAME}")
        for proxy in proxies:
            proxy.refuse_after = 0
            proxy.deafen()
        lock_out_replicas(old)
        replaced(group)  # the old master would be told by the Sentinels after eight seconds
        async with asyncio.timeout(FAILOVER_S):
            while not (has_moved(group)() and "NOREPLICAS" in old.command("SET", "x", "1")):
                for party in parties:
                    await party.send()
        in_doubt = {party.mode: party.acknowledged[20:] for party in parties}
        assert in_doubt["replica"] == []
        for proxy in proxies:
            proxy.refuse_after = -1
        await come_back(group, replaced)
        await asyncio.gather(*(party.send_until(lambda: True) for party in parties))
        for party in parties:
            got = await party.received()
            assert set(party.acknowledged) - set(got) <= set(in_doubt[party.mode])
            assert got == [n for n in party.acknowledged if n in got]
            assert (False in await party.told()) == (party.mode == "memory")


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


async def test_a_connection_that_a_hanging_master_holds_up(group: SentinelGroup) -> None:
    """Fails if a program that begins to connect waits for the old master when the next one is known already."""
    client = connect(group.url, timeout_s=60)
    frozen(group)
    try:
        with pytest.raises(NoMaster, match="replaced"):
            await asyncio.wait_for(client.ping(), FAILOVER_S)
        assert await client.ping()
    finally:
        await client.aclose()


async def test_nobody_waits_any_more_when_the_next_master_is_known(
    group: SentinelGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a program still pauses after failed attempts when the Sentinels have replaced the master."""
    monkeypatch.setattr(link, "BACKOFF_FIRST_S", 60)
    monkeypatch.setattr(link, "BACKOFF_MOST_S", 60)
    client = connect(group.url)
    try:
        await client.link.ask("PING")
        killed(group)

        async def answers() -> bool:
            try:
                return bool(await client.link.ask("PING"))
            except RedisError:
                return False

        assert not await answers()
        await eventually(answers, within_s=FAILOVER_S)
    finally:
        await client.aclose()


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


async def test_a_sentinel_that_hangs_up_just_before_a_question(
    group: SentinelGroup, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Fails if uvloop's error for a write to what has just ended is taken for a fault of ours."""

    async def hung_up(*_: object) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    caplog.set_level("DEBUG", "heliograph.backends.redis.sentinels")
    client = connect(group.url)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(Connection, "_send_packed_command", hung_up)
            with pytest.raises(NoMaster, match="has ended"):
                await client.link.ping()
            await eventually(lambda: "a Sentinel is away" in caplog.text)
        await client.link.ping()
    finally:
        await client.aclose()
    assert "unexpected" not in caplog.text


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
    sentinel = subprocess.Popen([program(), config, "--sentinel"], stdout=subprocess.DEVNULL)
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

    known: list[Knowledge | Exception] = [(4, ("10.0.0.2", 1)), RedisError("away"), (5, ("10.0.0.1", 2))]
    assert newest(address, known) == ("10.0.0.1", 2)


async def test_the_sentinel_that_leads_a_failover_names_the_next_master(tmp_path: Path) -> None:
    """Fails if a program goes back to the old master while other replicas of Redis do not follow the next one yet."""
    group = SentinelGroup(tmp_path, size=3).start()
    try:
        first, *others = group.servers
        for each in others:  # the one that is not promoted cannot follow the other
            each.command("CONFIG", "SET", "masteruser", "nobody")
        address = read_sentinel_address(group.url_of(group.sentinel_ports[:1]))
        assert address is not None
        replaced(group)  # the first Sentinel leads
        await eventually(lambda: group.master() is not first, within_s=FAILOVER_S)
        finder = MasterFinder(address, {})
        try:
            found = await finder.find(), await asyncio.to_thread(SyncMasterFinder(address, {}).find)
        finally:
            await finder.close()
        assert "failover_in_progress" in group.ask_sentinel("SENTINEL", "MASTER", NAME), "it was over too soon"
        assert first.port not in [port for _, port in found]
    finally:
        group.stop()
