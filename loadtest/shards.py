"""What more shards bring Redis: its processor time for a kept message to a user, with one server, two and three.

    python -m loadtest.shards

Each server has a thread for all commands, so the busiest server's processor time bounds the cluster. A message costs
no more on one of several servers; so `messages/s` (messages by the time of the busiest server) is what the servers
can do on cores of their own, also where this machine has too few to show it directly. Nothing else is measured here:
no sockets, no replicas; the publisher is one process.
"""

import argparse
import asyncio
import tempfile
from contextlib import ExitStack
from pathlib import Path

from redis import Redis

from heliograph import AsyncPublisher
from tests.support.redis_server import RedisServer

USERS, BATCH = 999, 400
MESSAGES = 24_000


def busy_s(url: str) -> float:
    with Redis.from_url(url) as server:
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


def measure(count: int, messages: int = MESSAGES) -> float:
    """Return how many messages a second the busiest of so many servers could take."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = []
        for _ in range(count):
            server = RedisServer(directory).start()
            stack.callback(server.stop)
            urls.append(server.url)
        asyncio.run(publish(urls, 4 * BATCH))
        before = list(map(busy_s, urls))
        asyncio.run(publish(urls, messages))
        spent = [busy_s(url) - was for url, was in zip(urls, before, strict=True)]
    rate = messages / max(spent)
    shares = ", ".join(f"{1e6 * each / messages:.1f}" for each in spent)
    print(f"{count} server(s): {rate:9,.0f} messages/s; µs of each server per message: {shares}", flush=True)
    return rate


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0]).parse_args()
    rates = {count: measure(count) for count in (1, 2, 3)}
    print(f"three shards: {rates[3] / rates[1]:.2f} times one")


if __name__ == "__main__":
    main()
