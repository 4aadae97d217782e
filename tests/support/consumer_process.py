"""A worker in a process of its own, to be killed: `python -m tests.support.consumer_process URL PREFIX`.

It writes the `n` of each entry to the list `handled` when it is through with it. An entry whose `n` is "poison" kills
the process, without a word, as running out of memory would.
"""

import asyncio
import os
import signal
import sys

from heliograph.backends.redis.client import connect
from heliograph.backends.redis.streams import StreamEntry
from heliograph.client.consumer import Consumer


async def main(url: str, prefix: str) -> None:
    redis = connect(url)

    async def handle(entry: StreamEntry) -> None:
        if entry["n"] == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(0.005)
        await redis.rpush(f"{prefix}handled", entry["n"])

    consumer = Consumer(
        url, "workers", handle, prefix=prefix, block_s=0.1, claim_idle_s=0.4, max_attempts=3, count=10
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, consumer.stop)
    await consumer.run()
    await redis.aclose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
