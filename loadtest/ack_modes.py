"""What each mode of HELIOGRAPH_REDIS__ACK costs: kept messages that one program has acknowledged, a second.

    python -m loadtest.ack_modes [--seconds 5] [--outstanding 256]

It starts Redis servers of its own. The modes take turns, `--rounds` times, and the median counts. Two loads: one
message at a time, which shows how long an acknowledgement takes; and so many at once, as a busy replica has them.
"""

import asyncio
import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import click
import msgspec

from heliograph.backends.redis import server as redis_backend
from heliograph.backends.redis.acknowledgement import Acknowledgement
from heliograph.backends.redis.client import connect
from heliograph.backends.redis.keys import Keys
from heliograph.backends.redis.log import ConfirmedLog, RedisLog
from heliograph.errors import HeliographError
from heliograph.ports import AppendResult, Draft
from heliograph.protocol.channel_options import Namespace
from tests.support.redis_pair import RedisPair
from tests.support.redis_server import RedisServer

CHANNELS = 100
DATA = msgspec.Raw(b'{"text":"' + b"x" * 100 + b'"}')
OPTIONS = Namespace()
WARM_UP_S = 0.5


@dataclass
class Mode:
    """A mode on a server; `results`: of each round, the ms that one message takes, and the rate with many."""

    title: str
    ack: Acknowledgement
    url: str
    results: list[tuple[float, float]] = field(default_factory=list)


@click.command()
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(0.5, 60))
@click.option("--outstanding", default=256, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 20))
def main(seconds: float, outstanding: int, rounds: int) -> None:
    """Measure every mode, and print a table."""
    with ExitStack() as stack:
        modes = _start(stack)
        for _ in range(rounds):
            for mode in modes:
                alone = asyncio.run(_rate(mode, 1, seconds))
                mode.results.append((1000 / alone, asyncio.run(_rate(mode, outstanding, seconds))))
    click.echo(f"{'':44}{'one takes, ms':>14}{f'{outstanding} at once, a second':>26}")
    for mode in modes:
        alone_ms, rate = (statistics.median(values) for values in zip(*mode.results, strict=True))
        click.echo(f"{mode.title:44}{alone_ms:14.2f}{rate:26,.0f}")


def _start(stack: ExitStack) -> list[Mode]:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    servers = {}
    for name, appendonly, appendfsync in (
        ("none", False, "no"),
        ("everysec", True, "everysec"),
        ("always", True, "always"),
    ):
        (directory / name).mkdir()
        options = ("--appendfsync", appendfsync)
        servers[name] = RedisServer(directory / name, appendonly=appendonly, options=options).start()
        stack.callback(servers[name].stop)
    (directory / "pair").mkdir()
    pair = RedisPair(directory / "pair").start()
    stack.callback(pair.stop)
    memory = Acknowledgement("memory")
    return [
        Mode("memory, without persistence", memory, servers["none"].url),
        Mode("memory, appendfsync everysec", memory, servers["everysec"].url),
        Mode("disk (appendfsync always)", Acknowledgement("disk"), servers["always"].url),
        Mode("memory, with a replica", memory, pair.master.url),
        Mode("replica (WAIT 1)", Acknowledgement("replica", 1), pair.master.url),
    ]


async def _rate(mode: Mode, outstanding: int, seconds: float) -> float:
    """Return how many messages a second were acknowledged."""
    keys = Keys(f"{mode.ack.mode}:", f"{mode.ack.mode}:events")
    server = redis_backend.RedisServer(connect(mode.url), keys, node_id="n", ack=mode.ack)
    log = ConfirmedLog(server) if mode.ack.confirms else RedisLog(server)
    finished = asyncio.get_running_loop().create_future()
    sent = acknowledged = waiting = 0
    began_at = perf_counter()
    counts_from, ends_at = began_at + WARM_UP_S, began_at + WARM_UP_S + seconds

    def send() -> None:
        nonlocal sent, waiting
        sent, waiting = sent + 1, waiting + 1
        log.submit(Draft(f"chat:{sent % CHANNELS}", DATA, f"{sent:032}", "2026-01-01T00:00:00Z"), OPTIONS, "", done)

    def done(answer: AppendResult | HeliographError) -> None:
        nonlocal acknowledged, waiting
        waiting -= 1
        now = perf_counter()
        if isinstance(answer, HeliographError) and not finished.done():
            finished.set_exception(answer)
        acknowledged += counts_from < now <= ends_at
        if now < ends_at and not finished.done():
            send()
        elif not waiting and not finished.done():
            finished.set_result(None)

    try:
        for _ in range(outstanding):
            send()
        await finished
    finally:
        await server.close()
    return acknowledged / seconds


if __name__ == "__main__":
    main()
