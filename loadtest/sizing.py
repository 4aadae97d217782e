"""Measure costs: a replica's memory for each connection, that of Redis for each user, channel and message.

    python loadtest/sizing.py --connections 5000

It starts a Redis, replicas and an nginx of its own, and looks at their memory. docs/operations.md has the results.
"""

import argparse
import asyncio
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

from heliograph.client.publisher import Publisher  # noqa: E402
from heliograph.local_cluster.machine import find_nginx, raise_open_files  # noqa: E402
from tests.support.certificates import Certificate, make_certificate  # noqa: E402
from tests.support.ports import free_port  # noqa: E402
from tests.support.redis_server import RedisServer  # noqa: E402

AT_ONCE = 50  # connections that are being opened
IDLE_S = 10.0
CHANNELS = 5_000
MOST_TLS = 2_000  # over TLS; nginx holds two open files for each
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
            "HELIOGRAPH_LIMITS__REQUESTS_PER_SECOND_PER_ADDRESS": "100000",
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


@contextmanager
def replica_of(redis: RedisServer) -> Iterator[Replica]:
    replica = Replica(redis.url)
    try:
        yield replica
    finally:
        replica.stop()


class Way:
    """How clients connect: `first` is sent, and the connection is there when the answer holds `answer`."""

    def __init__(self, name: str, first: str, answer: bytes) -> None:
        self.name = name
        self.first = first
        self.answer = answer

    async def connect(self, port: int, number: int, tls: ssl.SSLContext | None = None) -> asyncio.StreamWriter:
        """One user more, who listens to a channel that all listen to."""
        source = (f"127.0.{number // 20_000}.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=source, limit=2048, ssl=tls)
        writer.write(self.first.format(number=number).encode())
        await self.arrive(reader, writer, number)
        return writer

    async def arrive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        await reader.readuntil(self.answer)


class Poll(Way):
    """The first poll is answered at once; the next one, with its cursor, waits."""

    async def arrive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        cursor = quote(json.loads(await reader.readexactly(length))["cursor"])
        url = f"/api/poll?user=user-{number}&channels=news&wait=50&cursor={cursor}"
        writer.write(f"GET {url} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await writer.drain()


SOCKET = Way(
    "WebSocket",
    "GET /ws?user=user-{number}&channels=news HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    b'"type":"subscribed"',
)
STREAM = Way(
    "event stream",
    "GET /sse?user=user-{number}&channels=news HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b'"type":"subscribed"',
)
POLL = Poll("long poll", "GET /api/poll?user=user-{number}&channels=news HTTP/1.1\r\nHost: localhost\r\n\r\n", b"")


async def crowd(way: Way, port: int, numbers: range, tls: ssl.SSLContext | None = None) -> list[asyncio.StreamWriter]:
    writers: list[asyncio.StreamWriter] = []
    for first in range(0, len(numbers), AT_ONCE):
        some = numbers[first : first + AT_ONCE]
        writers += await asyncio.gather(*(way.connect(port, number, tls) for number in some))
    return writers


def used(redis: RedisServer) -> int:
    lines = dict(line.split(":", 1) for line in redis.command("INFO", "memory").split() if ":" in line)
    return int(lines["used_memory"])


def tell(what: str, value: float, unit: str) -> None:
    print(f"{what:<58}{value:>12,.1f} {unit}", flush=True)


async def measure_connections(redis: RedisServer, replica: Replica, count: int) -> None:
    for writer in await crowd(SOCKET, replica.port, range(AT_ONCE)):  # what is made once is not counted
        writer.close()
    await asyncio.sleep(1)
    rss, files, kept = (
        replica.metric("process_resident_memory_bytes"),
        replica.metric("process_open_fds"),
        used(redis),
    )
    tell("a replica without connections", rss / 2**20, "MiB")
    writers = await crowd(SOCKET, replica.port, range(count))
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


async def measure_way(way: Way, replica: Replica, count: int) -> None:
    for writer in await crowd(way, replica.port, range(AT_ONCE)):
        writer.close()
    await asyncio.sleep(1)
    rss = replica.metric("process_resident_memory_bytes")
    writers = await crowd(way, replica.port, range(count))
    tell(f"  for each {way.name}", (replica.metric("process_resident_memory_bytes") - rss) / count / 1024, "KiB")
    for writer in writers:
        writer.close()


def nginx_settings(folder: Path, port: int, to: int, tls: Certificate) -> str:
    """Return those of one process that takes TLS off WebSockets and passes them on."""
    temporary = "".join(f"{each}_temp_path {folder}/{each};" for each in ("proxy", "fastcgi", "scgi", "uwsgi"))
    return f"""
        daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr crit; worker_rlimit_nofile 20000;
        events {{ worker_connections 20000; }}
        http {{
            access_log off; client_body_temp_path {folder}/body; {temporary}
            server {{
                listen 127.0.0.1:{port} ssl; ssl_certificate {tls.certificate}; ssl_certificate_key {tls.key};
                location / {{
                    proxy_pass http://127.0.0.1:{to}; proxy_http_version 1.1; proxy_read_timeout 1h;
                    proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;
                }}
            }}
        }}
    """


async def measure_nginx(replica: Replica, count: int, folder: Path) -> None:
    """What a WebSocket costs an nginx that takes TLS off it."""
    certificate, port = make_certificate(folder), free_port()
    settings = folder / "nginx.conf"
    settings.write_text(nginx_settings(folder, port, replica.port, certificate))
    tls = ssl.create_default_context(cafile=str(certificate.authority))
    tls.check_hostname = False
    nginx = subprocess.Popen([find_nginx() or "nginx", "-p", str(folder), "-c", str(settings)])  # noqa: S603, ASYNC220 - our own
    try:
        await asyncio.sleep(1)
        for writer in await crowd(SOCKET, port, range(AT_ONCE), tls):
            writer.close()
        await asyncio.sleep(1)
        rss = psutil.Process(nginx.pid).memory_info().rss
        writers = await crowd(SOCKET, port, range(count), tls)
        now = psutil.Process(nginx.pid).memory_info().rss
        tell("nginx, for each WebSocket of which it takes TLS off", (now - rss) / count / 1024, "KiB")
        for writer in writers:
            writer.close()
    finally:
        nginx.terminate()
        nginx.wait()


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
            with replica_of(redis) as replica:
                await measure_connections(redis, replica, count)
            for way in (STREAM, POLL):
                with replica_of(redis) as replica:
                    await measure_way(way, replica, count)
            with replica_of(redis) as replica:
                await measure_nginx(replica, min(count, MOST_TLS), Path(directory))
        finally:
            redis.stop()


if __name__ == "__main__":
    asyncio.run(main())
