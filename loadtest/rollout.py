"""A rolling restart as Kubernetes does it, under load: does any client lose a message, or fail to connect?

    python loadtest/rollout.py --clients 1000

Replicas are pods, and this program is their Deployment (`maxSurge: 1`, `maxUnavailable: 0`). It starts a new pod,
waits until that has been ready for `minReadySeconds`, lets an old one end, and goes on with the next at once. A pod
that ends is taken out of nginx, which hears of it a second later, and meanwhile begins its preStop hook; then it gets
SIGTERM, and SIGKILL when its grace period is over. The numbers are those of the chart in deploy/helm.

nginx is an ingress of the plainest kind here: it hashes each client to a pod, and hands nothing on to another pod, so
that a client hears of it when a pod refuses. Each client is a `heliograph.connect`. It writes to a partner, and hears
what is published to all; every message has a number.

The exit status is 0 if every message that was acknowledged came once and in order, no pod was killed, and at most
0.5 % of the handshakes failed.
"""

# ruff: noqa: S311 - dice, not secrets

import argparse
import asyncio
import contextlib
import json
import logging
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import uvloop  # noqa: E402

import heliograph  # noqa: E402
from heliograph.local_cluster.machine import raise_open_files  # noqa: E402
from loadtest.auditing.running import TRACEBACK  # noqa: E402
from loadtest.figures import Histogram  # noqa: E402
from loadtest.ledger import Inbox, Ledger  # noqa: E402
from loadtest.pods import (  # noqa: E402
    MIN_READY_S,
    PRE_STOP_S,
    REPLICAS,
    START_WITHIN_S,
    Deployment,
    Edge,
    Faults,
)
from tests.support.shards import RedisShards  # noqa: E402

SETTLE_S: Final = 15.0
CONNECTING: Final = 50  # clients that connect at once
MOST_ERRORS: Final = 0.005  # of the handshakes
CHANNEL: Final = "rollout:all"
SETTINGS: Final = {
    "HELIOGRAPH_AUTH__MODE": "open",
    "HELIOGRAPH_LIMITS__REQUESTS_PER_SECOND_PER_ADDRESS": "0",
    "HELIOGRAPH_LIMITS__NEWCOMERS_PER_ADDRESS": "0",
    "HELIOGRAPH_NAMESPACES": json.dumps({"rollout": {"history_size": 10_000}, "#": {"history_size": 10_000}}),
    "PYTHONUNBUFFERED": "1",
}


class Crowd:
    """The clients, and what they have seen."""

    def __init__(self, url: str, clients: int) -> None:
        self.ledger = Ledger()
        self.lost: list[str] = []  # `Lost` events
        self.closed: list[str] = []
        self.delivery = Histogram()
        self.moves = 0  # to another connection, before the old one ended
        self.cut = 0  # connections that ended before there was another
        self.sending = True
        self._clients = [
            heliograph.connect(
                url, user=f"user-{i}", channels=[CHANNEL], transports=["websocket"], open_timeout_s=START_WITHIN_S
            )
            for i in range(clients)
        ]

    async def connect(self) -> list[asyncio.Task[None]]:
        """Connect all; returns the tasks that read."""
        places = asyncio.Semaphore(CONNECTING)

        async def one(client: heliograph.Client) -> None:
            async with places:
                await client.open()

        await asyncio.gather(*map(one, self._clients))
        reading = []
        for i, client in enumerate(self._clients):
            inbox = self.ledger.inbox(f"user-{i}")
            inbox.expect(CHANNEL)
            inbox.expect(f"user-{i ^ 1}")
            client.on("state", self._note_state)
            reading.append(asyncio.create_task(self._read(client, inbox), name=inbox.name))
        return reading

    async def _read(self, client: heliograph.Client, inbox: Inbox) -> None:
        try:
            async for event in client.events():
                if isinstance(event, heliograph.Message):
                    stream, number, at = event.data
                    self.delivery.add(time.monotonic() - at)
                    inbox.take(event.channel, None, stream, number)
                elif isinstance(event, heliograph.Lost):
                    self.lost.append(f"{inbox.name} on {event.channel}")
        except heliograph.ClientError as error:
            self.closed.append(f"{inbox.name}: {error}")

    def _note_state(self, state: heliograph.ClientState) -> None:
        if state.state == "connected":
            self.moves += 1
        elif state.state == "reconnecting" and state.retry_in_s:
            self.cut += 1

    async def write(self, i: int, rate: float) -> None:
        """Write to a partner until `sending` ends."""
        await self._say(i, f"user-{i}", f"user-{i ^ 1}", rate)

    async def publish(self, rate: float) -> None:
        """Publish to all until `sending` ends."""
        await self._say(0, CHANNEL, None, rate)

    async def _say(self, i: int, stream: str, to: str | None, rate: float) -> None:
        client, sent = self._clients[i], self.ledger.sent[stream]
        while self.sending:
            await asyncio.sleep(random.uniform(0.5, 1.5) / rate)
            number = sent.next()
            data = [stream, number, time.monotonic()]
            try:
                await (client.publish(CHANNEL, data) if to is None else client.send(to, data))
            except heliograph.ClientError:
                sent.refuse(number)
            else:
                sent.acknowledge(number)

    async def settle(self) -> None:
        """Wait until everybody has everything, or for SETTLE_S."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                while any(inbox.lost(self.ledger.sent) for inbox in self.ledger.inboxes.values()):  # noqa: ASYNC110
                    await asyncio.sleep(0.2)

    async def close(self) -> None:
        await asyncio.gather(*(client.close() for client in self._clients))


async def rollout(options: argparse.Namespace, directory: Path) -> int:
    """Run it. Return the exit status."""
    files = raise_open_files()
    redis = RedisShards(directory, options.shards).start()
    variable = "HELIOGRAPH_REDIS__SHARDS" if options.shards > 1 else "HELIOGRAPH_REDIS__URL"
    environment = {**os.environ, **SETTINGS, variable: ",".join(redis.urls)}
    path = directory / "log"
    with path.open("wb") as log:
        edge = Edge(directory, log, files)
        pods = Deployment(edge, environment, log, pre_stop_s=options.pre_stop, min_ready_s=options.min_ready)
        crowd = Crowd(edge.url, options.clients)
        try:
            await pods.start()
            reading = await crowd.connect()
            writing = [asyncio.create_task(crowd.write(i, options.rate)) for i in range(options.clients)]
            writing.append(asyncio.create_task(crowd.publish(options.all_rate)))
            await asyncio.sleep(1)
            began = time.monotonic()
            await pods.roll()
            took_s = time.monotonic() - began
            await asyncio.sleep(1)
            crowd.sending = False
            await asyncio.gather(*writing)
            await crowd.settle()
            await crowd.close()
            await asyncio.gather(*reading)
        finally:
            edge.stop()
            pods.stop()
            redis.stop()
    return report(crowd, pods.faults, edge, took_s, path.read_text(errors="replace"))


def report(crowd: Crowd, faults: Faults, edge: Edge, took_s: float, output: str) -> int:
    """Print the result. Return 1 if anything is wrong."""
    handshakes, failed = edge.handshakes()
    found = crowd.ledger.faults()
    streams = crowd.ledger.sent.values()
    facts = {
        "clients": len(crowd.ledger.inboxes),
        "replicas replaced": REPLICAS,
        "seconds that took": round(took_s),
        "messages acknowledged": sum(sent.acknowledged for sent in streams),
        "deliveries": crowd.delivery.count,
        "delivery, p99, ms": round(1000 * (crowd.delivery.percentile(99) or 0)),
        "delivery, longest, ms": round(1000 * crowd.delivery.longest),
        "clients moved": crowd.moves,
        "cut before they had another socket": crowd.cut,
        "handshakes": handshakes,
        "handshakes that failed": failed.total(),
    }
    too_many = [f"{status}: {count}" for status, count in failed.items()]
    wrong = {
        "acknowledged but lost": found["lost"],
        "doubled": found["doubled"],
        "out of order": found["out of order"],
        "refused or not answered": found["refused"] + found["not answered"],
        "gaps told to clients": crowd.lost,
        "clients closed for good": crowd.closed,
        "over 0.5 % of handshakes failed": too_many if failed.total() > MOST_ERRORS * handshakes else [],
        "replicas that had to be killed": faults.killed,
        "replicas that failed": faults.failed,
        "tracebacks in their log": TRACEBACK.findall(output),
    }
    for name, count in facts.items():
        print(f"{name:<36}{count:>8}")
    print("-" * 44)
    for name, lines in wrong.items():
        print(f"{name:<36}{len(lines):>8}")
        for line in lines[:5]:
            print(f"    {line}")
    return 1 if any(wrong.values()) else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clients", type=int, default=1000, help="an even number (%(default)s)")
    parser.add_argument("--rate", type=float, default=0.25, help="messages a second of each client (%(default)s)")
    parser.add_argument("--all-rate", type=float, default=2.0, help="messages a second to all (%(default)s)")
    parser.add_argument("--pre-stop", type=float, default=PRE_STOP_S, help="seconds (%(default)s)")
    parser.add_argument("--min-ready", type=float, default=MIN_READY_S, help="seconds (%(default)s)")
    parser.add_argument("--shards", type=int, default=1, help="Redis servers, each of them a shard (%(default)s)")
    parser.add_argument("--keep", type=Path, help="a directory for the log and nginx' files")
    options = parser.parse_args()
    if options.clients < 2 or options.clients % 2:
        parser.error(f"--clients {options.clients}: they write to each other in pairs; give an even number")
    logging.basicConfig(level=logging.ERROR)
    with tempfile.TemporaryDirectory() as temporary:
        directory = options.keep or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            sys.exit(runner.run(rollout(options, directory)))


if __name__ == "__main__":
    main()
