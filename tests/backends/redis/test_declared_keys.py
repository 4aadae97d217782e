"""Scripts touch no key that is not declared: a Redis that routes by keys, or guards them, could not run them."""

import asyncio
import contextlib
import itertools
import re
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest

from heliograph.backends.redis import server
from heliograph.backends.redis.client import connect
from heliograph.backends.redis.directory import RedisDirectory
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.log import RedisLog, TwoServerLog
from heliograph.backends.redis.presence import RedisPresence
from heliograph.backends.redis.receipts import RedisReceipts
from heliograph.backends.redis.run_leases import lease_call, reap_lost_runs
from heliograph.backends.redis.script_texts import BATCHED, PARTS, script_text
from heliograph.backends.redis.streams import RedisEmissions
from heliograph.backends.redis.undelivered import RedisUndelivered
from heliograph.ports import Draft, Emission, PresenceEntry, ReadRequest, Receipt, Written
from heliograph.protocol.budget import Budget, Charge
from heliograph.protocol.channel_options import Namespace
from heliograph.protocol.client_info import ClientInfo
from heliograph.protocol.namespace import Namespaces
from heliograph.protocol.position import Position
from heliograph.protocol.run import RunUpdate
from tests.support.appending import append
from tests.support.lifecycle import Teller
from tests.support.redis_server import RedisServer
from tests.support.replica_info import replica_info

KEYLESS = ("PUBLISH", "SPUBLISH", "TIME")
SECOND = ("XINFO", "MEMORY")  # commands whose key comes after a word of their own
PLAIN, RUN = Namespace(), Namespace(run=True)


def draft(channel: str, **options: Any) -> Draft:
    return Draft(channel=channel, data=msgspec.Raw(b"1"), message_id="id", sent_at="now", **options)


async def everything(redis: server.RedisServer, kept: server.RedisServer) -> None:
    """Have every script do all that it can."""
    directory = RedisDirectory(redis)
    for verb in (directory.take, directory.renew):
        await verb("n.1", replica_info(), 30)
    await directory.hold("n.1", {"bob": 1, "eve": 0})
    budget, charge = Budget(1000, 100_000, 100), Charge(1, 10, 1)
    for log in (RedisLog(redis, budget=budget), TwoServerLog(kept, redis, budget=budget)):
        for channel, options in (
            ("#bob", Namespace()),
            ("#eve", Namespace()),
            ("chat:1", Namespace()),
            ("run:1", RUN),
        ):
            update = RunUpdate(state="RUNNING", progress=1, message="a line") if options.run else None
            for key in (None, "key", "key"):
                await append(log, draft(channel, idempotency_key=key, update=update), options, "n.1")
                if not options.run:
                    await append(log, draft(channel, idempotency_key=key, client="al", charge=charge), options, "n.1")
            await log.read([ReadRequest(channel, replay=True, with_state=options.run)])
        await log.tops(["chat:1"])
        await log.listen({"chat:1": 10})
    await redis.scripts.run_many("run_lease", [lease_call(redis.keys, ["1"], -1)])
    assert await reap_lost_runs(redis, Namespaces()) == 1
    clients = [("c1", ClientInfo("c1", "bob")), ("c2", None)]
    await RedisPresence(redis).enter("n.1", [PresenceEntry("chat:1", "bob", 1, True, clients)])
    await redis.scripts.run("channel_counts", [redis.keys.leases, redis.keys.channel_counts("n.1")], ["n.1", "c", 1])
    emissions = RedisEmissions(redis, shards=1, max_entries=1, max_bytes=10**6, ttl_s=60, budget=budget)
    emission = Emission("e", msgspec.Raw(b"1"), "al", None, "replica-1", "now", "id", charge)
    await emissions.append(emission)
    await redis.client.xgroup_create(redis.keys.shard("emit", 0), "workers", "$")
    await emissions.append(emission)  # full: what is done with goes
    await redis.scripts.run("remember", [redis.keys.shard("s", 0), redis.keys.latest("s", "k")], [10, 1000, "1"])
    await redis.scripts.probe("replica-1")
    teller = Teller(redis)
    await teller.directory.hold("n.1", {"bob": 1, "eve": 0})
    await teller.presence.enter("n.1", [PresenceEntry("chat:1", "bob", 2, True, clients)])
    await teller.presence.enter("n.1", [PresenceEntry("chat:1", "eve", 1, True)])
    await teller.counts.enter("n.1", {"chat:1": 1})
    await teller.reap("n.1")
    assert await teller.events.tell_absences() == 4
    watched = Namespace(undelivered_after_s=0.001)
    for client in (None, "al"):
        await append(
            RedisLog(redis, budget=budget), draft("#bob", client=client, charge=client and charge), watched, "n.1"
        )
    undelivered = RedisUndelivered(redis, teller.events, after_s=0.001, slack_s=0)
    await RedisReceipts(redis, ttl_s=60).keep([Receipt("bob", "phone", "#bob", Position("e", 1), 1.0)])
    await undelivered.note([Written("bob", "", "e", 0, 1)])
    await asyncio.sleep(0.002)
    assert await undelivered.tell() >= 2
    relay = ((redis.keys.settled_at,), ("n.1", redis.keys.bus_channel))
    await redis.scripts.run_many("relay", [([redis.keys.holders("bob")], [b"{}"], relay)])


def undeclared(monitored: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Of what MONITOR has shown: commands of scripts, with keys that the call has not named."""
    declared: set[str] = set()
    for line in monitored:
        words = re.findall(r'"((?:[^"\\]|\\.)*)"', line)
        name = words[0].upper() if words else ""
        if name == "EVALSHA":
            declared = set(words[3 : 3 + int(words[2])])
        elif " lua]" in line and name not in KEYLESS:
            key = words[2 if name in SECOND else 1]
            if key not in declared:
                yield name, key


@contextlib.contextmanager
def monitored(redis: RedisServer) -> Iterator[list[str]]:
    """What the server is asked within the block, a line each; there when the block has ended."""
    lines: list[str] = []
    command = ["redis-cli", "-p", str(redis.port), "MONITOR"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline().strip() == "OK"
        yield lines
        redis.command("ECHO", "that was all")
        lines += itertools.takewhile(lambda line: "that was all" not in line, watching.stdout)
        watching.terminate()


async def test_every_key_that_a_script_touches_is_declared(own_redis: RedisServer, namespace: str) -> None:
    """Fails if a script makes up a key, or is told one as an argument (an idempotency key, a budget)."""
    keys = Keys(f"{namespace}:", f"{namespace}:events")
    live = server.RedisServer(connect(own_redis.url), keys, node_id="n", replica="replica-1")
    kept = server.RedisServer(connect(own_redis.url), Keys(f"{namespace}:kept:", keys.bus_channel), node_id="n")
    try:
        with monitored(own_redis) as lines:
            await everything(live, kept)
    finally:
        await live.close()
        await kept.close()
    assert sum('"EVALSHA"' in line for line in lines) > 30, "it has to be seen"
    assert list(undeclared(lines)) == []


@pytest.mark.parametrize("name", PARTS)
def test_keys_and_arguments_are_named_where_a_script_begins(name: str) -> None:
    """Fails if the first line of code of a script does not name what it works with, or KEYS and ARGV are shadowed."""
    text = script_text(name, "f" * 16, certain=False, directed=False)
    assert not re.search(r"local[^\n=]*\b(KEYS|ARGV)\b[^\n=]*(=|$)", text, re.MULTILINE)
    code = [line for line in text.splitlines() if line and not line.startswith("--")]
    if name in BATCHED:
        begin = code.index(f"local function {name}(keys, arguments)") + 1
        assert re.match(r"local .* = .*(keys|arguments)\[|charge_client\(keys, arguments\)", code[begin])
