"""The real thing: `heliograph up` with real Redis, replicas and nginx, seen from outside."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.cluster import ROOT, SOURCES, LocalClusterProcess, alive
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e


async def test_ip_hash_spreads_three_networks_over_three_replicas(cluster: LocalClusterProcess) -> None:
    """Fails if nginx does not hash the client's address: every other test here relies on the spread."""
    served_by = []
    for source in SOURCES:
        async with Client(cluster.url, user="spread", source=source) as client:
            served_by.append(client.replica)
    assert sorted(served_by) == ["replica-1", "replica-2", "replica-3"]


@pytest.mark.parametrize(("here", "there"), [*itertools.product(SOURCES, repeat=2)])
async def test_each_pair_of_replicas_in_both_directions(cluster: LocalClusterProcess, here: str, there: str) -> None:
    """Fails if a message between two replicas (or on one) is lost, doubled or changed."""
    async with (
        Client(cluster.url, user="알렉스", source=here) as alex,
        Client(cluster.url, user="مريم 🚀", source=there) as maryam,
    ):
        assert (alex.replica == maryam.replica) == (here == there)
        ack = await alex.send("مريم 🚀", {"text": "안녕, مرحبا, 👋", "n": 1.5, "none": None})
        assert ack["delivery"] == ("local" if here == there else "remote")
        message = await maryam.next("message")
        assert message["data"] == {"text": "안녕, مرحبا, 👋", "n": 1.5, "none": None}
        assert (message["from"], message["channel"]) == ("알렉스", "#مريم 🚀")
        assert (message["origin"], message["message_id"]) == (alex.replica, ack["message_id"])
        await maryam.nothing_more()


async def test_every_device_gets_each_message_once(cluster: LocalClusterProcess) -> None:
    """Fails if a user's phone, tablet and laptop, on three replicas, do not all get each message exactly once."""
    async with (
        Client(cluster.url, user="dora", source=SOURCES[0]) as phone,
        Client(cluster.url, user="dora", source=SOURCES[1]) as tablet,
        Client(cluster.url, user="dora", source=SOURCES[2]) as laptop,
        Client(cluster.url, user="emil", source=SOURCES[0]) as one,
        Client(cluster.url, user="emil", source=SOURCES[1]) as two,
        Client(cluster.url, user="emil", source=SOURCES[2]) as three,
    ):
        for i, sender in enumerate([one, two, three] * 5):
            await sender.send("dora", i)
        for device in (phone, tablet, laptop):
            assert sorted(await device.messages(15)) == list(range(15))
            await device.nothing_more()


async def test_another_program_publishes_through_redis(cluster: LocalClusterProcess) -> None:
    """Fails if a process that knows nothing but Redis cannot reach a user on every replica."""
    async with (
        Client(cluster.url, user="fay", source=SOURCES[0]) as first,
        Client(cluster.url, user="fay", source=SOURCES[1]) as second,
    ):
        envelope = '{"target_user_id":"fay","message":{"from cron":"완료"}}'
        assert await cluster.redis_cli("PUBLISH", "events", envelope) == "3"  # one subscription for each replica
        for device in (first, second):
            assert await device.messages(1) == [{"from cron": "완료"}]
            await device.nothing_more()


@pytest.mark.alone  # it has seconds
async def test_a_killed_replica_takes_nobody_with_it(own_cluster: LocalClusterProcess) -> None:
    """kill -9 of one replica: the others notice nothing, its clients and its name are back within 5 s."""
    async with (
        Client(own_cluster.url, user="gil", source=SOURCES[0]) as gil,
        Client(own_cluster.url, user="hanna", source=SOURCES[1]) as hanna,
        Client(own_cluster.url, user="ines", source=SOURCES[2]) as ines,
    ):
        victim = ines.replica
        old_node = own_cluster.members()[victim]["node_id"]
        killed_at = time.monotonic()
        os.kill(own_cluster.pids()[victim], signal.SIGKILL)
        assert await ines.close_code() == 1006

        # nginx hands her to another replica while hers is gone, or to the new one: she need not know which.
        async with Client(own_cluster.url, user="ines", source=SOURCES[2]) as again:
            assert time.monotonic() - killed_at < 5
            assert (await gil.send("ines", "welcome back"))["delivery"] in ("remote", "local")
            assert await again.messages(1) == ["welcome back"]
            await again.nothing_more()

        # Nobody else noticed: same sockets, still talking.
        assert (await gil.send("hanna", "still here?"))["delivery"] == "remote"
        assert await hanna.messages(1) == ["still here?"]

        # What she left behind on the dead replica is forgotten: to be nowhere is to be offline.
        async def forgotten() -> bool:
            return bool((await gil.send("ines", "anyone?"))["delivery"] == "stored")

        await eventually(forgotten, within_s=killed_at + 5 - time.monotonic())
        await eventually(
            lambda: own_cluster.members().get(victim, {}).get("node_id") not in (None, old_node), within_s=5
        )
    assert f"{victim} " in own_cluster.output()


async def test_a_replica_that_is_stopped_sends_its_clients_on(own_cluster: LocalClusterProcess) -> None:
    """SIGTERM to one replica: its clients are told, closed with 3001, and land on another one meanwhile."""
    async with Client(own_cluster.url, user="jon", source=SOURCES[0]) as jon:
        os.kill(own_cluster.pids()[jon.replica], signal.SIGTERM)
        assert (await jon.next("reconnect"))["in_ms"] >= 0
        async with Client(own_cluster.url, user="jon", source=SOURCES[0]) as moved:
            assert moved.replica != jon.replica
            assert await jon.close_code() == 3001


async def test_a_master_dies_and_its_replica_takes_over(tmp_path: Path) -> None:
    """`heliograph up --sentinel`: kill -9 of the master, then messages go on. Fails if a socket closes."""
    with LocalClusterProcess(tmp_path / "log", sentinel=True) as cluster:
        async with (
            Client(cluster.url, user="gil", source=SOURCES[0]) as gil,
            Client(cluster.url, user="hanna", source=SOURCES[1]) as hanna,
        ):
            assert (await gil.send("hanna", "before"))["type"] == "ack"
            info = await cluster.redis_cli("INFO", "server")
            os.kill(int(info.partition("process_id:")[2].split()[0]), signal.SIGKILL)

            async def sent() -> bool:
                answer = await gil.send("hanna", "after", idempotency_key="after")
                return bool(answer["type"] == "ack")

            await eventually(sent, within_s=20)
            assert await hanna.messages(2) == ["before", "after"]
            # The old master comes back, as a replica of the new one.
            await eventually(lambda: _role(cluster, "slave"), within_s=60)


async def test_slots_move_and_a_master_dies(tmp_path: Path) -> None:
    """`heliograph up --redis-cluster`: what it prints is done, and messages go on. Fails if a socket closes."""
    with LocalClusterProcess(tmp_path / "log", redis_cluster=True) as cluster:
        async with (
            Client(cluster.url, user="gil", source=SOURCES[0]) as gil,
            Client(cluster.url, user="hanna", source=SOURCES[1]) as hanna,
        ):
            assert (await gil.send("hanna", "before"))["type"] == "ack"
            await _run(_printed(cluster, "move slots"))
            cluster.wait(lambda: " has moved from " in cluster.output(), within_s=10)
            assert (await gil.send("hanna", "between"))["type"] == "ack"
            await _run(_printed(cluster, "kill one"))
            for user in ("hanna", *map(str, range(12))):  # some on each master

                async def sent(user: str = user) -> bool:
                    answer = await gil.send(user, "after", idempotency_key="after")
                    return bool(answer["type"] == "ack")

                await eventually(sent, within_s=20)
            assert await hanna.messages(3) == ["before", "between", "after"]


def _printed(cluster: LocalClusterProcess, what: str) -> str:
    """The command that the cluster has printed for this."""
    lines = [line.partition(" | ")[2].strip() for line in cluster.output().splitlines()]
    [first] = [number for number, line in enumerate(lines) if line.startswith(f"{what}:")]
    command = lines[first].partition(":")[2].strip()
    return command.removesuffix("\\") + lines[first + 1] if command.endswith("\\") else command


async def _run(command: str) -> None:
    process = await asyncio.create_subprocess_shell(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


async def _role(cluster: LocalClusterProcess, role: str) -> bool:
    return (await cluster.redis_cli("ROLE")).startswith(role)


async def test_redis_dies_and_comes_back(own_cluster: LocalClusterProcess) -> None:
    """kill -9 of Redis: sockets stay open, local messages arrive, and what is kept after it is back arrives."""
    async with (
        Client(own_cluster.url, user="kim", source=SOURCES[0]) as kim,
        Client(own_cluster.url, user="lea", source=SOURCES[0]) as lea,
        Client(own_cluster.url, user="mo", source=SOURCES[1]) as mo,
    ):
        os.kill(own_cluster.pids()["redis"], signal.SIGKILL)
        assert (await kim.send("lea", "without Redis", ephemeral=True))["type"] == "ack"
        assert await lea.messages(1) == ["without Redis"]

        kept: list[str] = []  # the first of it before the other replica hears the bus again

        async def reaches_mo() -> bool:
            await asyncio.sleep(0.2)  # so that it is less than what is kept of a channel
            answer = await kim.send("mo", f"with Redis {len(kept)}")
            if answer["type"] == "ack":
                kept.append(f"with Redis {len(kept)}")
            return answer.get("delivery") == "remote"

        await eventually(reaches_mo, within_s=15)
        assert await mo.messages(len(kept), within_s=10) == kept
        await eventually(lambda: all(replica["ready"] for replica in own_cluster.members().values()), within_s=10)


async def test_nginx_keeps_metrics_in_and_query_strings_out_of_its_log(cluster: LocalClusterProcess) -> None:
    """Fails if metrics are reachable from outside, or if what stands behind a ? is logged by anyone."""
    assert cluster.status("/metrics") == 404
    assert cluster.status("/health") == 200
    async with Client(cluster.url, user="secret-7bd1"):
        pass
    await eventually(lambda: '"GET /ws HTTP/1.1" 101' in cluster.output())
    assert "secret-7bd1" not in cluster.output()


def test_a_taken_port_is_refused_with_one_line(cluster: LocalClusterProcess) -> None:
    """Fails if a second cluster on the same ports gives anything but a clear refusal."""
    command = [sys.executable, "-m", "heliograph", "up", "--port", str(cluster.port)]
    environment = {**os.environ, "HELIOGRAPH_AUTH__MODE": "open"}
    second = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=20, check=False
    )
    assert second.returncode == 1
    output = second.stdout + second.stderr
    assert f"{cluster.port}" in output
    assert "HELIOGRAPH_PORT" in output
    assert "Traceback" not in output


async def test_it_says_where_everything_is(cluster: LocalClusterProcess, tmp_path: Path) -> None:
    """Fails if it names a console that there is not, or uses another Redis without a word."""
    assert f"console    http://localhost:{cluster.port}/\n" in cluster.output()
    assert f"clients    ws://localhost:{cluster.port}/ws\n" in cluster.output()
    assert "HELIOGRAPH_REDIS__URL" not in cluster.output()
    redis = f"redis://127.0.0.1:{cluster.redis_port}/0"
    with LocalClusterProcess(
        tmp_path / "log",
        replicas=1,
        HELIOGRAPH_AUTH__MODE="jwt",
        HELIOGRAPH_AUTH__SECRET="x" * 32,
        HELIOGRAPH_REDIS__URL=redis,
        HELIOGRAPH_REDIS__PREFIX="other:",
        HELIOGRAPH_BUS__CHANNEL="other",
    ) as other:
        output = other.output()
        assert f"HELIOGRAPH_REDIS__URL is set: with the Redis at {redis}, and none of its own" in output
        assert f"clients    ws://localhost:{other.port}/ws\n" in output
        assert "console" not in output
        assert other.status("/") == 404


def test_ctrl_c_stops_everything_in_order(tmp_path: Path) -> None:
    """Fails if SIGINT leaves a process behind, or stops Redis before the replicas."""
    with LocalClusterProcess(tmp_path / "log") as own:
        pids = own.pids()
        assert set(pids) == {"redis", "replica-1", "replica-2", "replica-3", "nginx"}
        own.process.send_signal(signal.SIGINT)
        assert own.process.wait(20) == 0
    assert not any(alive(pid) for pid in pids.values())
    output = own.output()
    stops = [output.index(text) for text in ("stopping the replicas", "stopping nginx", "stopping Redis")]
    assert stops == sorted(stops)


async def test_a_killed_supervisor_leaves_no_process_behind(tmp_path: Path) -> None:
    """Fails if `kill -9` of `heliograph up` orphans what it has started."""
    with LocalClusterProcess(tmp_path / "log") as own:
        pids = own.pids()
        own.process.kill()
        await asyncio.to_thread(own.process.wait, 5)
        await eventually(lambda: not any(alive(pid) for pid in pids.values()), within_s=10)
