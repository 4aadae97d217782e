"""What more shards bring Redis: its processor time for a kept message to a user, with one server, two and three.

    python loadtest/shards.py

Each server has a thread for all commands, so the busiest server's processor time bounds the cluster. A message costs
no more on one of several servers; so `messages/s` (messages by the time of the busiest server) is what the servers
can do on cores of their own, also where this machine has too few to show it directly. Nothing else is measured here:
no sockets, no replicas; the publisher is one process.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack

from redis import Redis
from redis.exceptions import RedisError

from heliograph import AsyncPublisher

PORT = 15_300
USERS, BATCH = 999, 400
MESSAGES = 24_000


def started(stack: ExitStack, port: int, directory: str) -> Redis:
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 - our own words
    stack.callback(server.wait)
    stack.callback(server.terminate)
    client = Redis(port=port)
    stack.callback(client.close)
    for _ in range(100):
        try:
            client.ping()
        except RedisError:
            time.sleep(0.05)
        else:
            return client
    sys.exit(f"redis-server does not answer on port {port}")


def busy_s(server: Redis) -> float:
    found = server.info("cpu")
    return float(found["used_cpu_user_main_thread"]) + float(found["used_cpu_sys_main_thread"])


async def publish(urls: list[str], messages: int) -> None:
    async with AsyncPublisher(urls, prefix="shards:", bus_channel="shards") as publisher:
        for first in range(0, messages, BATCH):
            await asyncio.gather(
                *(
                    publisher.send_to_user(f"user-{number % USERS}", {"n": number})
                    for number in range(first, first + BATCH)
                )
            )


def measure(count: int) -> float:
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        servers = [started(stack, PORT + number, directory) for number in range(count)]
        urls = [f"redis://127.0.0.1:{PORT + number}/0" for number in range(count)]
        asyncio.run(publish(urls, 4 * BATCH))
        before = [busy_s(server) for server in servers]
        asyncio.run(publish(urls, MESSAGES))
        spent = [busy_s(server) - was for server, was in zip(servers, before, strict=True)]
    rate = MESSAGES / max(spent)
    shares = ", ".join(f"{1e6 * each / MESSAGES:.1f}" for each in spent)
    print(f"{count} shards: {rate:9,.0f} messages/s; µs of each server per message: {shares}", flush=True)
    return rate


def main() -> None:
    rates = {count: measure(count) for count in (1, 2, 3)}
    print(f"three shards: {rates[3] / rates[1]:.2f} times one")


if __name__ == "__main__":
    main()
