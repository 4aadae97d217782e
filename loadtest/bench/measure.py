"""One measurement: a fresh Redis, a fresh server, the client, and what each of them used."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any, Literal

from loadtest.bench.fronts import Front
from loadtest.bench.posting import NotPosted, post
from loadtest.bench.processes import SERVER_CORE, Server, client_command, pinned, redis_server, server_of
from loadtest.bench.streaming import orders_for
from loadtest.bench.systems import FILL, ROOT, rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from loadtest.bench.systems import Speech, System

STARTING_S = 1.0  # what servers do in the background at their start
SETTLE_S = 2.0  # from the last connect until the memory is looked at
OTHERS_PER_S = 200
PINGING = 40  # they share the pings: one alone would ask too much of a server that limits them
PATIENCE_S = 180  # until so many are connected


class Failed(Exception):
    """A measurement that came to nothing, and why."""


@dataclass(frozen=True)
class Work:
    """One point: how many listen, and how they are spoken to. Neither window nor rate: nothing is sent."""

    name: str  # of the part it belongs to
    subscribers: int
    window: int = 0
    rate: float = 0
    stalled: int = 0  # so many of them do not read
    to: Literal["all", "user", "channel"] = "all"  # whom a message is for
    publishers: int = 1
    before: int = 0  # so many are connected already
    replicas: int = 1
    routing: Literal["shared", "directed"] = "shared"
    padding: int = 0  # bytes that each message is longer
    rows: int = 0  # of JSON, 50 bytes each, in each message
    compressed: bool = False  # subscribers offer permessage-deflate
    front: str = ""  # what stands before the server (`fronts.FRONTS`)
    request: str = ""  # what is posted by HTTP (`posting.REQUESTS`), on so many connections as the window
    warmup: float = 1.0
    seconds: float = 3.0

    @property
    def point(self) -> str:
        front = f", through {self.front}" if self.front else ""
        if self.request:
            return f"{self.name}: {self.request}, {self.window} connections{front}"
        how = f"window {self.window}" if self.window else f"{self.rate:g}/s" if self.rate else "idle"
        to = "" if self.to == "all" else f", each message to one {self.to}"
        stalled = f", {self.stalled} of them stalled" if self.stalled else ""
        before = f", {self.before} connected already" if self.before else ""
        rows = f", messages of {self.rows / 20:g} KiB" if self.rows else ""
        rows += ", compressed" if self.compressed else ""
        replicas = f", {self.replicas} replicas, {self.routing}" if self.replicas > 1 else ""
        return f"{self.name}: {self.subscribers} subscribers{stalled}{before}{replicas}{to}{rows}, {how}{front}"


def speech_of(system: System, work: Work) -> Speech | None:
    """How the system is spoken to for this; None if it has no like of it."""
    return {"all": system.speech, "user": system.to_user, "channel": system.to_channel}[work.to]


def measure(system: System, work: Work, log: Path) -> dict[str, Any]:
    """The figures of one system and one point."""
    how = {"idle": _idle, "connects": _connects, "replicas": _replicas, "stall": _stall, "held": _held}
    how |= {"api": _posted, "publisher": _publisher, "streams": _streamed, "polls": _streamed}
    settings = {"HELIOGRAPH_BUS__ROUTING": work.routing}
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(log))
        servers = [
            stack.enter_context(server_of(system, redis.port, log, settings)) for _ in range(max(1, work.replicas))
        ]
        time.sleep(STARTING_S)
        if work.front:
            servers = [stack.enter_context(Front(work.front, server, log)) for server in servers]
        return how.get(work.name, _posted if work.request else _sent)(system, work, servers, redis)


def _sent(system: System, work: Work, servers: list[Server], redis: Server) -> dict[str, Any]:
    """Messages from the first server to those who listen at the second, or at the first if it is alone."""
    with load_client(_speech(system, work), work, servers) as client:
        return _figures(client, servers, redis)


def _streamed(system: System, work: Work, servers: list[Server], redis: Server) -> dict[str, Any]:
    """The same for those who listen by HTTP, from one who posts."""
    with _started(client_command("streams"), orders_for(system, work, servers)) as client:
        return _figures(client, servers, redis)


def _figures(client: subprocess.Popen[str], servers: list[Server], redis: Server) -> dict[str, Any]:
    """What a client has measured, and what the servers have used meanwhile."""
    heard(client, "ready")
    heard(client, "begin")
    before, redis_before = _cpu_s(servers), sum(redis.cpu_s)
    figures = heard(client, "end")
    if not figures["delivered"]:
        raise Failed("nothing was delivered")
    after, redis_after = _cpu_s(servers), sum(redis.cpu_s)
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
        "bytes_each": figures["bytes"] / count,
    }


def _posted(system: System, work: Work, servers: list[Server], redis: Server) -> dict[str, Any]:
    before = sum(redis.cpu_s)
    try:
        figures = post(system, work.request, work.window, work.seconds, servers)
    except NotPosted as error:
        raise Failed(str(error)) from None
    # The second before, in which it warms up, counts here.
    return {**figures, "redis_cpu": (sum(redis.cpu_s) - before) / (work.seconds + 1)}


def _publisher(system: System, work: Work, servers: list[Server], redis: Server) -> dict[str, Any]:
    """What a program publishes that shares the server's core, as the server does nothing."""
    url = f"redis://127.0.0.1:{redis.port}/0"
    command = [sys.executable, "-m", "loadtest.bench.publishing", url, "--seconds", f"{work.seconds:g}"]
    said = subprocess.run(pinned(SERVER_CORE, command), capture_output=True, text=True, check=True, cwd=ROOT).stdout  # noqa: S603 - ours
    return dict(json.loads(said))


def _stall(system: System, work: Work, servers: list[Server], redis: Server) -> dict[str, Any]:
    figures = _sent(system, work, servers, redis)
    if _is_ours(system):
        figures["closed_3008"] = servers[0].metric('heliograph_closes_total{code="3008"}')
    return figures


def _idle(system: System, work: Work, servers: list[Server], redis: Server) -> dict[str, Any]:
    server = servers[0]
    memory, cpu = server.memory_kib, sum(server.cpu_s)
    with load_client(system.speech, work, servers) as client:
        figures = heard(client, "ready")
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


def _connects(system: System, work: Work, servers: list[Server], redis: Server) -> dict[str, Any]:
    """What it takes to connect some more when many are there."""
    there = replace(work, subscribers=work.before)
    with load_client(system.speech, there, servers) as earlier:
        heard(earlier, "ready")
        time.sleep(SETTLE_S)
        cpu = servers[0].running_s
        with load_client(system.speech, work, servers, [f"first {work.before}"]) as client:
            figures = heard(client, "ready")
            used = servers[0].running_s - cpu
    return {
        **figures,
        "connects_per_s": figures["connections"] / figures["connect_s"],
        "connect_us": used / work.subscribers * 1e6,
    }


def _replicas(system: System, work: Work, servers: list[Server], redis: Server) -> dict[str, Any]:
    """What those replicas pay for a message that hold neither side of it, beyond what they pay for nothing."""
    sides, others = servers[:2], servers[2:]
    resting = running_s(others)
    time.sleep(work.seconds)
    nothing = running_s(others) - resting
    with load_client(_speech(system, work), work, servers) as client:
        heard(client, "ready")
        heard(client, "begin")
        came = _received(system, others)
        before, others_before = running_s(sides), running_s(others)
        figures = heard(client, "end")
        after, others_after = running_s(sides), running_s(others)
        came = _received(system, others) - came
    if not figures["delivered"]:
        raise Failed("nothing was delivered")
    foreign = figures["delivered"] * len(others)
    figures["sides_us"] = (after - before) / figures["delivered"] * 1e6
    if others:
        figures["foreign_us"] = (others_after - others_before - nothing) / foreign * 1e6
    if others and _is_ours(system):
        figures["envelopes"] = came / foreign
    return figures


def _held(system: System, work: Work, servers: list[Server], redis: Server) -> dict[str, Any]:
    """While one message goes to everybody, others ping the same server, and one writes to himself."""
    assert system.to_user is not None  # noqa: S101 - parts ask for nobody else
    other = Work("held", 1, rate=OTHERS_PER_S, to="user", warmup=0.2, seconds=work.seconds - 2)
    pinging = replace(system.to_user, publish="{mark}")
    with ExitStack() as stack:
        many = stack.enter_context(load_client(system.speech, work, servers, [f"patience {PATIENCE_S}"]))
        connected = heard(many, "ready")
        heard(many, "begin")
        orders = ["pings 1", f"first {work.subscribers}"]
        pings = stack.enter_context(load_client(pinging, replace(other, subscribers=PINGING), servers, orders))
        writes = stack.enter_context(
            load_client(system.to_user, other, servers, [f"first {work.subscribers + PINGING}"])
        )
        for word in ("ready", "begin"):
            heard(pings, word)
            heard(writes, word)
        pong, message = heard(pings, "end"), heard(writes, "end")
        figures = heard(many, "end")
    if figures["delivered"] < work.subscribers:
        raise Failed(f"{figures['delivered']} of {work.subscribers} were served in time")
    if not pong["delivered"] or not message["delivered"]:
        raise Failed("the other connections were not answered")
    return {
        "connections": connected["connections"],
        "delivered": figures["delivered"],
        "held_ms": pong["longest_us"] / 1000,
        "other_ms": message["longest_us"] / 1000,
        "all_served_ms": figures["longest_us"] / 1000,
    }


def _speech(system: System, work: Work) -> Speech:
    speech = speech_of(system, work)
    if speech is None:
        raise Failed(f"it has no message to one {work.to}")
    if work.rows:
        return replace(speech, publish=speech.publish.replace(f'"{FILL}"', rows(work.rows)))
    return replace(speech, publish=speech.publish.replace(FILL, FILL + "x" * work.padding))


def _is_ours(system: System) -> bool:
    return system.name.startswith("heliograph")


def _received(system: System, servers: list[Server]) -> float:
    return sum(each.metric("heliograph_bus_received_total") for each in servers) if _is_ours(system) else 0.0


def running_s(servers: list[Server]) -> float:
    return sum(each.running_s for each in servers)


def _cpu_s(servers: list[Server]) -> tuple[float, float]:
    used = [each.cpu_s for each in servers]
    return sum(user for user, _ in used), sum(kernel for _, kernel in used)


def load_client(
    speech: Speech, work: Work, servers: list[Server], more: Sequence[str] = ()
) -> AbstractContextManager[subprocess.Popen[str]]:
    """The load client, told what to do."""
    orders = [f"port {servers[:2][-1].port}", f"pub_port {servers[0].port}"]
    orders += [f"subscribers {work.subscribers}", f"sub_path {speech.sub_path}", *more]
    orders.append(f"compressed {work.compressed:d}")
    if work.window or work.rate:
        orders += [f"publish {speech.publish}", f"pub_path {speech.pub_path}", f"publishers {work.publishers}"]
        orders += [f"pub_{kind} {text}" for kind, text in speech.pub_steps]
        orders += [f"window {work.window}" if work.window else f"rate {work.rate}", f"addressed {work.to != 'all':d}"]
        orders += [f"warmup {work.warmup}", f"seconds {work.seconds}", f"stalled {work.stalled}"]
    orders += [f"sub_{kind} {text}" for kind, text in speech.sub_steps]
    if speech.other is not None:
        orders.append(f"other_path {speech.other.sub_path}")
        orders += [f"other_{kind} {text}" for kind, text in speech.other.sub_steps]
    if speech.answer:
        orders.append(f"answer {speech.answer}")
    return _started(client_command(), orders)


@contextmanager
def _started(command: list[str], orders: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A client with these orders. It ends with its standard input."""
    client = subprocess.Popen(  # noqa: S603 - a command of ours
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    # Other addresses each time: ports of the measurement before are not free again yet.
    source = f"source_net {random.randint(1, 250)}"  # noqa: S311 - not a secret
    try:
        assert client.stdin is not None  # noqa: S101 - see above
        client.stdin.write("\n".join([*orders, source, "go", ""]))
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


def heard(client: subprocess.Popen[str], word: str) -> dict[str, Any]:
    """The client's next line, which begins with `word`."""
    assert client.stdout is not None  # noqa: S101 - see `load_client`
    line = client.stdout.readline()
    said, _, rest = line.strip().partition(" ")
    if said != word:
        assert client.stderr is not None  # noqa: S101 - see `load_client`
        client.wait(10)
        raise Failed(client.stderr.read().strip().splitlines()[0] if not line else f"the client said {line!r}")
    return json.loads(rest) if rest else {}
