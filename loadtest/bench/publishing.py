"""Publishing over Redis from one program: how far from the bound, a pipeline of XADD and PUBLISH of redis-py.

    python -m loadtest.bench.publishing redis://127.0.0.1:6379/0 --seconds 3

It prints one JSON object: messages a second in each way, and the ratio to its bound.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import click
import redis

from heliograph import AsyncPublisher, Publisher

if TYPE_CHECKING:
    from collections.abc import Callable

MANY = 100
DATA = {"line": "x" * 100, "stream": "stdout"}
LENGTH = 100
ROUNDS = 3


@click.command()
@click.argument("url")
@click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(0.1, 60))
def main(url: str, seconds: float) -> None:
    """Publish for some seconds in each way, and print the rates."""
    print(json.dumps(measured(url, seconds)))


def measured(url: str, seconds: float) -> dict[str, float]:
    """Messages a second, in turns: a machine that becomes slower does so for all."""
    client = redis.Redis.from_url(url, protocol=3)
    body = json.dumps(DATA)

    def bound(count: int) -> None:
        with client.pipeline(transaction=False) as pipeline:
            for _ in range(count):
                pipeline.xadd("bound", {"m": body}, maxlen=LENGTH, approximate=True)
                pipeline.publish("bound:events", body)
            pipeline.execute()

    lines = [(DATA["line"], DATA["stream"])] * MANY
    rates: dict[str, list[float]] = {}
    with Publisher(url) as publisher:
        for _ in range(ROUNDS):
            for name, once, count in (
                ("bound", lambda: bound(1), 1),
                ("publish", lambda: publisher.publish("bench", DATA), 1),
                ("bound_many", lambda: bound(MANY), MANY),
                ("log_many", lambda: publisher.log_many("bench", lines), MANY),
            ):
                rates.setdefault(name, []).append(count * _rate(once, seconds / ROUNDS))
            rates.setdefault("async", []).append(asyncio.run(_async_rate(url, seconds / ROUNDS)))
    client.close()
    figures = {name: max(values) for name, values in rates.items()}
    return {
        **figures,
        "publish_ratio": figures["publish"] / figures["bound"],
        "log_many_ratio": figures["log_many"] / figures["bound_many"],
    }


def _rate(once: Callable[[], object], seconds: float) -> float:
    once()  # connects, and loads a script
    began, count = time.perf_counter(), 0
    while (now := time.perf_counter()) - began < seconds:
        once()
        count += 1
    return count / (now - began)


async def _async_rate(url: str, seconds: float) -> float:
    """Messages a second of a program with many under way at once."""
    async with AsyncPublisher(url) as publisher:
        await publisher.publish("bench", DATA)
        began, count = time.perf_counter(), 0
        while (now := time.perf_counter()) - began < seconds:
            await asyncio.gather(*(publisher.publish("bench", DATA) for _ in range(MANY)))
            count += MANY
        return count / (now - began)


if __name__ == "__main__":
    main()
