"""Measure costs: a replica's memory for each connection, that of Redis for each user, channel and message.

    python loadtest/sizing.py --connections 5000

It starts a Redis and a replica of its own, and asks both for their memory. docs/operations.md has the results.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

from heliograph.client.publisher import Publisher  # noqa: E402
from heliograph.local_cluster.machine import raise_open_files  # noqa: E402
from tests.support.ports import free_port  # noqa: E402
from tests.support.redis_server import RedisServer  # noqa: E402

AT_ONCE = 50  # connections that are being opened
IDLE_S = 10.0
CHANNELS = 5_000
MESSAGES = 5_000  # fewer than logs:… keeps
BODY = "x" * 118  # {"text":"…"} of 128 bytes


class Replica:
    """One replica, and what it says of itself."""

    def __init__(self, redis_url: str) -> None:
        self.port = free_port()
        environment = {
            **os.environ,
            "HELIOGRAPH_AUTH__MODE": "open",
            "HELIOGRAPH_REDIS__URL": redis_url,
            "HELIOGRAPH_LOG__LEVEL": "error",
            "HELIOGRAPH_DRAIN__DEADLINE_S": "2",
        }
        command = [sys.executable, "-m", "heliograph", "serve", "--port", str(self.port)]
        self.process = subprocess.Popen(command, env=environment, cwd=ROOT)  # noqa: S603 - our own program
        while not self._ready():
            time.sleep(0.1)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as response:
            text = response.read().decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        )

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ready", timeout=2) as response:
                return bool(response.status == 200)
        except OSError:
            return False


async def connect(port: int, number: int) -> asyncio.StreamWriter:
    """One user more, who listens to a channel that all listen to."""
    source = (f"127.0.{number // 20_000}.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=source, limit=2048)
    writer.write(
        f"GET /ws?user=user-{number}&channels=news HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    await reader.readuntil(b'"type":"subscribed"')
    return writer


async def crowd(port: int, count: int) -> list[asyncio.StreamWriter]:
    writers: list[asyncio.StreamWriter] = []
    for first in range(0, count, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, count))
        writers += await asyncio.gather(*(connect(port, number) for number in numbers))
    return writers


def used(redis: RedisServer) -> int:
    lines = dict(line.split(":", 1) for line in redis.command("INFO", "memory").split() if ":" in line)
    return int(lines["used_memory"])


def tell(what: str, value: float, unit: str) -> None:
    print(f"{what:<58}{value:>12,.1f} {unit}", flush=True)


async def measure_connections(redis: RedisServer, replica: Replica, count: int) -> None:
    for writer in await crowd(replica.port, AT_ONCE):  # what is made once is not counted
        writer.close()
    await asyncio.sleep(1)
    rss, files, kept = (
        replica.metric("process_resident_memory_bytes"),
        replica.metric("process_open_fds"),
        used(redis),
    )
    tell("a replica without connections", rss / 2**20, "MiB")
    writers = await crowd(replica.port, count)
    await asyncio.sleep(1)
    now = replica.metric("process_resident_memory_bytes")
    tell(f"a replica with {count:,} connections", now / 2**20, "MiB")
    tell("  for each connection", (now - rss) / count / 1024, "KiB")
    tell("  open files for each connection", (replica.metric("process_open_fds") - files) / count, "")
    tell("  Redis, for each connected user", (used(redis) - kept) / count, "bytes")
    cpu = replica.metric("process_cpu_seconds_total")
    await asyncio.sleep(IDLE_S)
    cpu = replica.metric("process_cpu_seconds_total") - cpu
    tell(f"  processor while all {count:,} are idle", 100 * cpu / IDLE_S, "%")
    for writer in writers:
        writer.close()


def measure_log(redis: RedisServer) -> None:
    with Publisher(redis.url) as publisher:
        publisher.publish("news", {"text": BODY})
        before = used(redis)
        for number in range(CHANNELS):
            publisher.publish(f"chat:{number}", {"text": BODY})
        tell("Redis, for a channel with one message of 128 bytes", (used(redis) - before) / CHANNELS, "bytes")
        publisher.publish("logs:1", {"text": BODY})
        before = used(redis)
        for _ in range(MESSAGES):
            publisher.publish("logs:1", {"text": BODY})
        tell("Redis, for each further message of 128 bytes", (used(redis) - before) / MESSAGES, "bytes")


async def main() -> None:
    parser = argparse.ArgumentParser(description="What connections, channels and messages cost.")
    parser.add_argument("--connections", type=int, default=5_000)
    count = parser.parse_args().connections
    raise_open_files()
    with tempfile.TemporaryDirectory() as directory:
        redis = RedisServer(Path(directory)).start()
        try:
            measure_log(redis)
            replica = Replica(redis.url)
            try:
                await measure_connections(redis, replica, count)
            finally:
                replica.stop()
        finally:
            redis.stop()


if __name__ == "__main__":
    asyncio.run(main())
