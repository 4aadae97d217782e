"""What it costs a message that its way can be traced: the notes for `heliograph why`, and OpenTelemetry.

    python -m loadtest.trace_cost instructions     # under valgrind: what each choice adds to a message
    python -m loadtest.trace_cost watched          # in real time: what it costs to watch one user

`instructions` counts what replicas execute for each message, of a fan-out on one replica and of messages from a user
on one replica to a user on another (both counted). It counts them with the calls that take notes removed from the
source, with none kept, with notes, and with OpenTelemetry on. It compiles two copies of the package for that, which
takes minutes.

`watched` has 50 users write to 50 others as fast as they can without notes, with them, and while somebody follows one
of them, and compares the CPU time of both replicas for each message. It needs what `scripts/bench` installs.
"""

import ast
import asyncio
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import httpx

from loadtest.bench.measure import Work, heard, load_client, running_s
from loadtest.bench.processes import Server, redis_server, server_of
from loadtest.bench.systems import API_KEY, ROOT, SYSTEMS
from tests.support.client import Client
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer

STARTING_S: Final = 300.0  # under valgrind
WARM_UP: Final = 50  # messages
FIRST, MORE = "first", "more"
TURN_S: Final = 0.25
FOREVER_S: Final = 600.0

# What happens now and then would count as part of the messages.
QUIET: Final = {
    "HELIOGRAPH_AUTH__MODE": "open",
    "HELIOGRAPH_BUS__CANARY_INTERVAL_S": "30",
    "HELIOGRAPH_BUS__CANARY_TIMEOUT_S": "60",
    "HELIOGRAPH_DIRECTORY__LEASE_TTL_S": "120",
    "HELIOGRAPH_DIRECTORY__RENEW_INTERVAL_S": "40",
    "HELIOGRAPH_CHANNELS__HEARTBEAT_S": "40",
    "HELIOGRAPH_LIMITS__MESSAGES_PER_SECOND": "0",
    "HELIOGRAPH_LIMITS__USER_MESSAGES_PER_SECOND": "0",
    "HELIOGRAPH_LIMITS__USER_BYTES_PER_SECOND": "0",
    "HELIOGRAPH_LIMITS__RECIPIENT_MESSAGES_PER_SECOND": "0",
    "HELIOGRAPH_PING__INTERVAL_S": "60",
    "HELIOGRAPH_WATCHDOG_S": "0",
    "HELIOGRAPH_LOG__LEVEL": "error",
    "OTEL_TRACES_EXPORTER": "none",
}


@dataclass(frozen=True)
class Choice:
    """One way to run a replica: `tree` is where the package is."""

    title: str
    tree: Path
    settings: dict[str, str]


@click.group()
def main() -> None:
    """Measure what traces cost."""


# -- instructions


@main.command()
@click.option("--messages", default=1000, show_default=True, type=click.IntRange(100, 100_000))
@click.option("--subscribers", default=100, show_default=True, type=click.IntRange(1, 1000), help="of the fan-out")
@click.option("--sources", is_flag=True, help="Run the sources, and compile nothing: quick, and not what counts.")
@click.option("--trees", type=click.Path(path_type=Path), help="An empty directory that keeps the copies.")
def instructions(messages: int, subscribers: int, sources: bool, trees: Path | None) -> None:
    """Count the instructions of a message."""
    with ExitStack() as stack:
        folder = trees or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        whole, bare = (
            _tree(folder / kind, with_notes=kind == "whole", compiled=not sources) for kind in ("whole", "bare")
        )
        off, on = {"HELIOGRAPH_TRACE__NOTES": "0"}, {"HELIOGRAPH_TRACE__NOTES": "20000"}
        choices = [
            Choice("no calls that take notes", bare, off),
            Choice("no notes", whole, off),
            Choice("notes", whole, on),
            Choice("notes, OpenTelemetry on, no message traced", whole, {**on, "HELIOGRAPH_OTEL__ENABLED": "true"}),
        ]
        for title, listeners in ((f"fan-out to {subscribers}", subscribers), ("user → user, two replicas", 0)):
            click.echo(title)
            first = 0.0
            for choice in choices:
                count = asyncio.run(_counted(choice, messages, listeners))
                first = first or count
                click.echo(f"  {choice.title:44}{count:12,.0f} a message {count / first - 1:+8.2%}")


async def _counted(choice: Choice, messages: int, listeners: int) -> float:
    """Return the instructions of a message. `listeners`: of a fan-out; 0: it is for a user on another replica."""
    async with _replicas(choice, 1 if listeners else 2) as replicas, AsyncExitStack() as stack:
        urls = [url for _, url, _ in replicas]
        if listeners:
            sender = await stack.enter_async_context(Client(urls[0], user="alice"))
            for number in range(listeners):
                client = await stack.enter_async_context(Client(urls[0], path=f"/ws?user=u{number}&channels=all"))
                await client.next("subscribed", within_s=60)
            frame: dict[str, Any] = {"type": "publish", "channel": "all", "data": {"text": "x" * 100}}
        else:
            sender = await stack.enter_async_context(Client(urls[0], user="alice"))
            await stack.enter_async_context(Client(urls[1], user="bob"))
            frame = {"type": "send", "to": "bob", "data": {"text": "x" * 100}}
        for process, _, _ in replicas:
            _control(process, "--instr=on")
        await _send(sender, frame, WARM_UP)
        before = [_counter(process, folder, FIRST) for process, _, folder in replicas]
        await _send(sender, frame, messages)
        after = [_counter(process, folder, MORE) for process, _, folder in replicas]
    return (sum(after) - sum(before)) / messages


async def _send(sender: Client, frame: dict[str, Any], count: int) -> None:
    """Send one after the other: so each is alone in its event-loop iteration, which shows the whole of its cost."""
    for number in range(count):
        await sender.say({**frame, "id": number})
        answer = await sender.next("ack", "error", within_s=60, id=number)
        if answer["type"] != "ack":
            raise click.ClickException(f"a message was not accepted: {answer}")


def _counter(process: "subprocess.Popen[bytes]", folder: Path, name: str) -> int:
    """Have the counts so far written, and return the instructions since the last time, added up."""
    _control(process, f"--dump={name}")
    total = 0
    for each in folder.glob("counts.*"):
        for line in each.read_text(errors="replace").splitlines():
            if line.startswith(("summary:", "totals:")):
                total += int(line.split()[1])
                break
    return total


def _control(process: "subprocess.Popen[bytes]", order: str) -> None:
    command = ["callgrind_control", order, str(process.pid)]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - a command of ours


@asynccontextmanager
async def _replicas(choice: Choice, count: int) -> AsyncIterator[list[tuple["subprocess.Popen[bytes]", str, Path]]]:
    """Start Redis, and so many replicas under valgrind. Give their processes, URLs and folders."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "redis").mkdir()
        redis = RedisServer(folder / "redis").start()
        started = []
        try:
            for number in range(1, count + 1):
                port, counts = free_port(), folder / f"replica-{number}"
                counts.mkdir()
                command = ["valgrind", "--tool=callgrind", "--instr-atstart=no"]  # so that it starts faster
                command += [f"--callgrind-out-file={counts}/counts.%p"]
                command += [sys.executable, "-m", "heliograph", "serve", "--port", str(port)]
                command += ["--name", f"replica-{number}"]
                environment = {**os.environ, **QUIET, **choice.settings, "PYTHONPATH": str(choice.tree)}
                environment["HELIOGRAPH_REDIS__URL"] = redis.url
                with (folder / f"log-{number}").open("wb") as log:
                    process = subprocess.Popen(command, env=environment, cwd=name, stdout=log, stderr=log)  # noqa: S603, ASYNC220 - ours
                started.append((process, f"http://127.0.0.1:{port}", counts))
            for process, url, _ in started:
                await _ready(process, url, folder)
            await asyncio.sleep(3)  # what replicas do at their start
            yield started
        finally:
            for process, _, _ in started:
                process.send_signal(signal.SIGKILL)
                process.wait()
            redis.stop()


async def _ready(process: "subprocess.Popen[bytes]", url: str, folder: Path) -> None:
    deadline = time.monotonic() + STARTING_S
    async with httpx.AsyncClient(trust_env=False) as http:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise click.ClickException(f"a replica ended at once:\n{_logs(folder)}")
            try:
                if (await http.get(f"{url}/ready", timeout=20)).is_success:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.2)
    raise click.ClickException(f"a replica was not ready within {STARTING_S:g} s")


def _logs(folder: Path) -> str:
    return "\n".join(each.read_text(errors="replace") for each in folder.glob("log-*"))


def _tree(checkout: Path, *, with_notes: bool, compiled: bool) -> Path:
    """Make a copy of the package, perhaps without the calls that take notes. Return where it is imported from."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
    for each in ("app", "clients/js/src", "LICENSES"):
        shutil.copytree(ROOT / each, checkout / each, ignore=ignored)
    for each in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / each, checkout)
    if not with_notes:
        removed = sum(map(_without_notes, (checkout / "app").rglob("*.py")))
        click.echo(f"removed {removed} calls that take notes", err=True)
    if not compiled:
        return checkout / "app"
    click.echo(f"compiling in {checkout}", err=True)
    command = [sys.executable, "setup.py", "--quiet", "build", "--build-lib", "lib"]
    environment = {**os.environ, "HELIOGRAPH_COMPILE": "1", "HELIOGRAPH_COMPILE_DIR": "c"}
    subprocess.run(command, cwd=checkout, env=environment, check=True)  # noqa: S603 - a command of ours
    return checkout / "lib"


def _without_notes(module: Path) -> int:
    """Remove the calls of a module that take notes; return how many."""
    text = module.read_text(encoding="utf-8")
    if "trace." not in text or module.name in ("trace.py", "span_trace.py"):
        return 0
    lines = text.splitlines(keepends=True)
    found = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Attribute)
        and isinstance(node.value.func.value, ast.Attribute)
        and node.value.func.value.attr in ("trace", "_trace")
    ]
    for node in found:
        last = node.end_lineno or node.lineno
        lines[node.lineno - 1 : last] = [f"{' ' * node.col_offset}pass\n", *["\n"] * (last - node.lineno)]
    if found:
        module.write_text("".join(lines), encoding="utf-8")
    return len(found)


# -- notes, and one user watched


@main.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 100), help="each with new processes")
@click.option(
    "--seconds", default=8.0, show_default=True, type=click.FloatRange(1, 120), help="for each pair, of one"
)
def watched(rounds: int, seconds: float) -> None:
    """Compare the CPU time of a message without notes, with them, and while somebody watches a user."""
    found: dict[str, list[float]] = {"no notes": [], "notes": [], "one user watched": []}
    for _ in range(rounds):
        for title, microseconds in _round(seconds).items():
            found[title].append(microseconds)
            click.echo(f"{title:20}{microseconds:8.2f} µs", err=True)
    for title, values in found.items():
        ratio = statistics.median(each / plain for each, plain in zip(values, found["no notes"], strict=True))
        click.echo(f"{title:20}{statistics.median(values):8.2f} µs a message on both replicas {ratio - 1:+8.2%}")


def _round(seconds: float) -> dict[str, float]:
    """Return the CPU time of both replicas for a message, in µs, without notes, with them, and watched.

    There is a pair of replicas for each, and all but one are frozen, in turns of a fraction of a second. So what
    slows the machine down, which differs by half from one run to the next, slows all of them down.
    """
    with ExitStack() as stack:
        pairs = {
            "no notes": stack.enter_context(_pair({"HELIOGRAPH_TRACE__NOTES": "0"})),
            "notes": stack.enter_context(_pair({})),
            "one user watched": stack.enter_context(_pair({}, watch=True)),
        }
        before = {title: _spent(pair) for title, pair in pairs.items()}
        for _ in range(round(seconds / TURN_S)):
            for pair in pairs.values():
                with _thawed(pair):
                    time.sleep(TURN_S)
        after = {title: _spent(pair) for title, pair in pairs.items()}
    return {
        title: (after[title][0] - spent) / (after[title][1] - messages) * 1e6
        for title, (spent, messages) in before.items()
    }


@contextmanager
def _pair(settings: dict[str, str], *, watch: bool = False) -> Iterator[list[Server]]:
    """Two frozen replicas: 50 users on the first write to 50 on the second as fast as they can while it is thawed."""
    [system] = [each for each in SYSTEMS if each.name == "heliograph"]
    assert system.to_user is not None  # noqa: S101 - Heliograph has it
    work = Work("unicast", 50, to="user", publishers=50, seconds=FOREVER_S, window=8)
    with ExitStack() as stack:
        log = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "log"
        redis = stack.enter_context(redis_server(log))
        pair = [stack.enter_context(server_of(system, redis.port, log, settings)) for _ in range(2)]
        time.sleep(1)
        client = stack.enter_context(load_client(system.to_user, work, pair))
        heard(client, "ready")
        if watch:
            watcher = _watcher(pair[0].port)
            stack.callback(watcher.wait)
            stack.callback(watcher.terminate)
        heard(client, "begin")
        _signal(pair, signal.SIGSTOP)
        stack.callback(_signal, pair, signal.SIGCONT)
        yield pair


@contextmanager
def _thawed(pair: list[Server]) -> Iterator[None]:
    _signal(pair, signal.SIGCONT)
    try:
        yield
    finally:
        _signal(pair, signal.SIGSTOP)


def _signal(pair: list[Server], number: signal.Signals) -> None:
    for pid in [pid for each in pair for pid in each.pids]:
        os.kill(pid, number)


def _spent(pair: list[Server]) -> tuple[float, float]:
    """Return the CPU time (s) of both replicas so far, and how many messages the second one has got."""
    with _thawed(pair):
        return running_s(pair), pair[1].metric("heliograph_bus_received_total")


def _watcher(port: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "heliograph", "why", "--follow", "--url", f"http://127.0.0.1:{port}", "u1"]
    environment = {**os.environ, "HELIOGRAPH_API__KEY": API_KEY}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)  # noqa: S603 - a command of ours


if __name__ == "__main__":
    main()
