"""How long a replica works for one page of its connections, and how long other work waits meanwhile at most.

    python -m loadtest.listing --connections 100000

The connections are in the memory of this process, without sockets. docs/http-api.md has the results.
"""

import asyncio
import secrets
import time
from typing import Any

import click

from heliograph.clock import SystemClock
from heliograph.cluster.connections import LocalConnections
from heliograph.codecs.plain.codec import PlainCodec
from heliograph.hub.connection import Connection
from heliograph.hub.frames import Encoding, payload_only
from heliograph.hub.hub import Hub
from heliograph.hub.outbox import FlushScheduler, Outbox
from heliograph.protocol.connection_query import ConnectionQuery
from heliograph.telemetry import Telemetry, Traffic

QUERIES: dict[str, dict[str, Any]] = {
    "by user": {},
    "newest first": {"sort": "newest"},
    "most sent, 500": {"sort": "sent", "limit": 500},
    "a part of the name": {"search": "999"},
    "one user": {"user": "user-7"},
    "one channel": {"channel": "news"},
}


class Unwritten:
    """A socket that nobody writes to."""

    def write(self, frames: list[bytes]) -> None:
        raise AssertionError(frames)

    def close(self, code: int, reason: str) -> None:
        raise AssertionError(code, reason)


@click.command()
@click.option("--connections", default=100_000, show_default=True, type=click.IntRange(1, 1_000_000))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 100))
def main(connections: int, rounds: int) -> None:
    """List connections in each order, and print the best of the rounds."""
    asyncio.run(_measure(connections, rounds))


async def _measure(connections: int, rounds: int) -> None:
    scheduler = FlushScheduler(asyncio.get_running_loop().call_soon)
    hub = Hub(Telemetry(), scheduler)
    encoding = Encoding(PlainCodec(32), payload_only, Traffic())
    for number in range(connections):
        outbox = Outbox(Unwritten(), scheduler, 1 << 20)
        connection = Connection(secrets.token_hex(8), f"user-{number}", encoding, outbox, transport="websocket")
        connection.sent = number * 7919 % 1000
        hub.add(connection)
        if number % 2:
            hub.subscribe(connection, "news")
    local = LocalConnections(hub, SystemClock(), name="replica-1", node_id="1")
    click.echo(f"{connections:,} connections{'ms':>14}{'longest step, ms':>20}")
    for name, options in QUERIES.items():
        results = [await _look(local, ConnectionQuery(**options)) for _ in range(rounds)]
        took, longest = min(each[0] for each in results), min(each[1] for each in results)
        click.echo(f"{name:24}{1000 * took:12.1f}{1000 * longest:20.2f}")


async def _look(local: LocalConnections, query: ConnectionQuery) -> tuple[float, float]:
    """Return the processor time of one page, and of its longest step, in seconds."""
    looking = asyncio.create_task(local.look(query))
    begun = last = time.thread_time()
    longest = 0.0
    while not looking.done():
        await asyncio.sleep(0)
        now = time.thread_time()
        longest, last = max(longest, now - last), now
    await looking
    return last - begun, longest


if __name__ == "__main__":
    main()
