"""One measurement: a fresh Redis, a fresh server, the client, and what each of them used."""

from __future__ import annotations

import json
import random
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from loadtest.bench.processes import Server, client_command, redis_server, server_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loadtest.bench.systems import Speech, System

SETTLE_S = 2.0  # from the last connect until the memory is looked at


class Failed(Exception):
    """A measurement that came to nothing, and why."""


@dataclass(frozen=True)
class Work:
    """One point: how many listen, and how they are spoken to. Neither window nor rate: nothing is sent."""

    name: str
    subscribers: int
    window: int = 0
    rate: float = 0
    stalled: int = 0
    warmup: float = 1.0
    seconds: float = 3.0

    @property
    def point(self) -> str:
        how = f"window {self.window}" if self.window else f"{self.rate:g}/s" if self.rate else "idle"
        stalled = f", {self.stalled} of them stalled" if self.stalled else ""
        return f"{self.name}: {self.subscribers} subscribers{stalled}, {how}"


def measure(system: System, work: Work, log: Path) -> dict[str, Any]:
    """The figures of one system and one point."""
    with redis_server(log) as redis, server_of(system, redis.port, log) as server:
        if work.window or work.rate:
            return _fan_out(system.speech, work, server, redis)
        return _idle(system.speech, work, server)


def _fan_out(speech: Speech, work: Work, server: Server, redis: Server) -> dict[str, Any]:
    lines = [f"publish {speech.publish}", f"pub_path {speech.pub_path}"]
    lines += [f"pub_{kind} {text}" for kind, text in speech.pub_steps]
    lines += [f"window {work.window}" if work.window else f"rate {work.rate}"]
    lines += [f"warmup {work.warmup}", f"seconds {work.seconds}", f"stalled {work.stalled}"]
    with _client(speech, work, server.port, lines) as client:
        _heard(client, "ready")
        _heard(client, "begin")
        before, redis_before = server.cpu_s, sum(redis.cpu_s)
        figures = _heard(client, "end")
        if not figures["delivered"]:
            raise Failed("nothing was delivered")
        after, redis_after = server.cpu_s, sum(redis.cpu_s)
    count = figures["delivered"]
    user, kernel = after[0] - before[0], after[1] - before[1]
    return {
        **figures,
        "deliveries_per_s": figures["delivered"] / figures["seconds"],
        "cpu_us": (user + kernel) / count * 1e6,
        "user_us": user / count * 1e6,
        "kernel_us": kernel / count * 1e6,
        "redis_us": (redis_after - redis_before) / count * 1e6,
        "server_cpu": (user + kernel) / figures["seconds"],
    }


def _idle(speech: Speech, work: Work, server: Server) -> dict[str, Any]:
    memory, cpu = server.memory_kib, sum(server.cpu_s)
    with _client(speech, work, server.port, []) as client:
        figures = _heard(client, "ready")
        connected = sum(server.cpu_s)
        time.sleep(SETTLE_S)
        resting = sum(server.cpu_s)
        time.sleep(work.seconds)
        used = sum(server.cpu_s) - resting
        held = server.memory_kib
        if client.poll() is not None:
            raise Failed("connections ended while they were idle")
    return {
        **figures,
        "memory_kib": (held - memory) / work.subscribers,
        "empty_kib": memory,
        "idle_cpu": used / work.seconds,
        "connects_per_s": figures["connections"] / figures["connect_s"],
        "connect_us": (connected - cpu) / work.subscribers * 1e6,
    }


@contextmanager
def _client(speech: Speech, work: Work, port: int, lines: list[str]) -> Iterator[subprocess.Popen[str]]:
    """The load client, told what to do. It ends with its standard input."""
    orders = [f"port {port}", f"subscribers {work.subscribers}", f"sub_path {speech.sub_path}"]
    orders += [f"sub_{kind} {text}" for kind, text in speech.sub_steps]
    if speech.answer:
        orders.append(f"answer {speech.answer}")
    # Other addresses each time: ports of the measurement before are not free again yet.
    orders.append(f"source_net {random.randint(1, 250)}")  # noqa: S311 - not a secret
    client = subprocess.Popen(  # noqa: S603 - a command of ours
        client_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert client.stdin is not None  # noqa: S101 - see above
        client.stdin.write("\n".join([*orders, *lines, "go", ""]))
        client.stdin.flush()
        yield client
    finally:
        _close(client.stdin)
        try:
            client.wait(5)
        except subprocess.TimeoutExpired:
            client.kill()
            client.wait()
        _close(client.stdout)
        _close(client.stderr)


def _close(stream: IO[str] | None) -> None:
    try:
        if stream is not None:
            stream.close()
    except BrokenPipeError:
        return


def _heard(client: subprocess.Popen[str], word: str) -> dict[str, Any]:
    """The client's next line, which begins with `word`."""
    assert client.stdout is not None  # noqa: S101 - see `_client`
    line = client.stdout.readline()
    said, _, rest = line.strip().partition(" ")
    if said != word:
        assert client.stderr is not None  # noqa: S101 - see `_client`
        client.wait(10)
        raise Failed(client.stderr.read().strip().splitlines()[0] if not line else f"the client said {line!r}")
    return json.loads(rest) if rest else {}
