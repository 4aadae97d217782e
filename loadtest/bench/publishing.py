"""Publishing over Redis from one program: how far from the bound, a pipeline of redis-py with XADD and PUBLISH.

    python -m loadtest.bench.publishing redis://127.0.0.1:6379/0 --seconds 3

It prints one JSON object: of each way, messages a second, and µs of CPU that the program and Redis took for each.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import click
import redis

from heliograph import AsyncPublisher, Publisher

if TYPE_CHECKING:
    from collections.abc import Callable

MANY = 100  # messages in a pipeline
LINE = "x" * 100
DATA = {"line": LINE, "stream": "stdout"}
LENGTH = 1000  # of the bound's stream
ROUNDS = 3  # in turns: a machine that becomes slower does so for all


@click.command()
@click.argument("url")
@click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(0.1, 60), help="of each way, in all")
def main(url: str, seconds: float) -> None:
    """Publish for some seconds in each way, and print the figures."""
    print(json.dumps(measured(url, seconds)))


def measured(url: str, seconds: float) -> dict[str, float]:
    """The figures, as medians: `…_per_s`, and `…_us` and `…_redis_us` for each message."""
    client = redis.Redis.from_url(url)
    body = json.dumps(DATA)

    def pipeline(count: int) -> None:
        with client.pipeline(transaction=False) as commands:
            for _ in range(count):
                commands.xadd("bound", {"m": body}, maxlen=LENGTH, approximate=True)
                commands.publish("bound:events", body)
            commands.execute()

    with Publisher(url) as publisher:
        lines = [(LINE, "stdout")] * MANY
        ways: dict[str, tuple[Callable[[], object], int]] = {
            "bound": (lambda: pipeline(1), 1),
            "publish": (lambda: publisher.publish("bench", DATA), 1),
            "bound_many": (lambda: pipeline(MANY), MANY),
            "log_many": (lambda: publisher.log_many("bench", lines), MANY),
            "async_many": (lambda: asyncio.run(_at_once(url, 10 * MANY)), 10 * MANY),
        }
        rounds: dict[str, list[_Round]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, (once, count) in ways.items():
                rounds[name].append(_repeat(once, count, seconds / ROUNDS, client))
    client.close()
    figures: dict[str, float] = {}
    for name, mine in rounds.items():
        figures[f"{name}_per_s"] = median(each.count / each.seconds for each in mine)
        figures[f"{name}_us"] = median(each.client_s / each.count * 1e6 for each in mine)
        figures[f"{name}_redis_us"] = median(each.redis_s / each.count * 1e6 for each in mine)
    return figures


@dataclass(frozen=True)
class _Round:
    """Messages, and the time and CPU that they took."""

    count: int
    seconds: float
    client_s: float
    redis_s: float


def _repeat(once: Callable[[], object], count: int, seconds: float, client: redis.Redis) -> _Round:
    once()  # connects, and loads a script
    times, used, redis_used, began = 0, time.process_time(), _redis_s(client), time.perf_counter()
    while time.perf_counter() - began < seconds or not times:
        once()
        times += 1
    lasted = time.perf_counter() - began
    return _Round(times * count, lasted, time.process_time() - used, _redis_s(client) - redis_used)


async def _at_once(url: str, count: int) -> None:
    """Publish with MANY under way at once."""
    async with AsyncPublisher(url) as publisher:
        for _ in range(count // MANY):
            await asyncio.gather(*(publisher.publish("bench", DATA) for _ in range(MANY)))


def _redis_s(client: redis.Redis) -> float:
    used: dict[str, Any] = client.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


if __name__ == "__main__":
    main()
