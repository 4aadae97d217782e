"""The order in which the programs start and stop."""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from heliograph.local_cluster import programs
from heliograph.local_cluster.child import Child
from heliograph.local_cluster.machine import raise_open_files, refuse_taken_ports
from heliograph.local_cluster.options import CannotStart, LocalClusterOptions
from heliograph.local_cluster.redis_cluster import ClusterServers
from heliograph.local_cluster.redis_programs import redis_stages
from heliograph.local_cluster.terminal import Terminal
from heliograph.redis_url import without_password

READY_WITHIN_S = 30.0
PROBE_INTERVAL_S = 0.1


class LocalCluster:
    """Run Redis, the replicas and nginx, and keep each alive, until a signal arrives.

    They start from the inside out: Redis answers, then each replica is ready, then nginx opens its port. They stop so
    that clients can be told to reconnect: the replicas drain while nginx still runs, then nginx ends, then Redis.
    """

    def __init__(self, options: LocalClusterOptions) -> None:
        self._options = options
        self._terminal = Terminal([name for name, _ in options.ports()], on_closed=self._ask_to_stop)
        self._redis: list[Child] = []
        self._replicas: list[Child] = []
        self._edge: list[Child] = []
        self._redis_cluster: ClusterServers | None = None
        self._stop_asked = asyncio.Event()
        self._killed = False
        """A second signal arrived: wait for nothing any more."""

    async def run(self) -> int:
        """Run until SIGINT, SIGTERM or SIGHUP; the second of them kills everything at once.

        Returns:
            An exit code: 0 after an orderly stop, 1 if the cluster was killed or could not start; then one line says
            why.
        """
        try:
            self._check()
        except CannotStart as error:
            print(f"heliograph: {error}", file=sys.stderr)
            return 1
        with _run_directory() as directory, self._signals():
            try:
                await self._run_until_asked_to_stop(directory)
            except CannotStart as error:
                self._terminal.say(str(error))
                return 1
            finally:
                await self._stop()
        return 1 if self._killed else 0

    def _check(self) -> None:
        self._options.check()
        programs.check_installed(self._options)
        refuse_taken_ports(self._options)

    async def _run_until_asked_to_stop(self, directory: Path) -> None:
        start = asyncio.create_task(self._start(directory), name="start")
        stop = asyncio.create_task(self._stop_asked.wait(), name="wait for a signal")
        try:
            await asyncio.wait({start, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not stop.done():
                await start
                await stop
        finally:
            start.cancel()
            stop.cancel()
            await asyncio.gather(start, stop, return_exceptions=True)

    async def _start(self, directory: Path) -> None:
        open_files = raise_open_files()
        if self._options.redis_urls:
            others = ", ".join(map(without_password, self._options.redis_urls))
            variable, _ = self._options.redis_variable
            self._terminal.say(f"{variable} is set: with the Redis at {others}, and none of its own")
        for parts in self._redis_stages(directory):
            await self._start_stage(self._redis, parts)
        await self._start_stage(self._replicas, programs.replicas(self._options))
        if self._options.edge == "caddy":
            self._terminal.say("nginx is not installed: Caddy stands in for it, without limits for single addresses")
            await self._start_stage(self._edge, programs.caddy(self._options, directory))
        else:
            await self._start_stage(self._edge, programs.nginx(self._options, directory, open_files))
        for line in self._where_everything_is(directory):
            self._terminal.say(line)

    def _redis_stages(self, directory: Path) -> list[list[programs.Part]]:
        if self._options.redis_cluster:
            self._redis_cluster = ClusterServers(self._options)
            return [self._redis_cluster.parts(directory)]
        return redis_stages(self._options, directory)

    async def _start_stage(self, stage: list[Child], parts: list[programs.Part]) -> None:
        """Start some parts together, and wait until each is ready."""
        children = [Child(part.program, self._terminal) for part in parts]
        stage.extend(children)
        for child in children:
            child.start()
        for child, part in zip(children, parts, strict=True):
            await self._until_ready(child, part)
            child.keep_alive()

    async def _until_ready(self, child: Child, part: programs.Part) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + READY_WITHIN_S
        while problem := await part.problem():
            if await child.ended_within(PROBE_INTERVAL_S):
                raise CannotStart(f"{child.program.name} {child.ending} before it was ready; its last lines say why.")
            if clock() > deadline:
                raise CannotStart(f"{child.program.name} is not ready after {READY_WITHIN_S:.0f} s: {problem}")

    async def _stop(self) -> None:
        for stage, what in (
            (self._replicas, "the replicas, which send their clients on"),
            (self._edge, self._options.edge),
            (self._redis, "Redis"),
        ):
            if stage and not self._killed:
                self._terminal.say(f"stopping {what}")
            await asyncio.gather(*(child.stop() for child in stage))

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        heard = [signal.SIGINT, signal.SIGTERM]
        # Under nohup the signal is ignored on purpose.
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            heard.append(signal.SIGHUP)
        for number in heard:
            loop.add_signal_handler(number, self._on_signal)
        try:
            yield
        finally:
            for number in heard:
                loop.remove_signal_handler(number)

    def _on_signal(self) -> None:
        if self._stop_asked.is_set():
            self._kill()
        else:
            self._terminal.say("stopping (once more: at once)")
            self._ask_to_stop()

    def _ask_to_stop(self) -> None:
        self._stop_asked.set()

    def _kill(self) -> None:
        self._terminal.say("killing everything")
        self._killed = True
        for child in (*self._replicas, *self._edge, *self._redis):
            child.kill()

    def _where_everything_is(self, directory: Path) -> Iterator[str]:
        options = self._options
        yield "the cluster is ready"
        if options.console:
            yield f"  console    {options.url}"
        yield f"  clients    {options.url.replace('http', 'ws', 1)}ws"
        for number, port in enumerate(options.replica_ports, start=1):
            yield f"  replica-{number}  http://127.0.0.1:{port}/metrics"
        variable, value = options.redis_variable
        if options.sentinel:
            yield f"  Redis      {variable}='{value}'"
            ports = ", ".join(str(options.redis_ports[master]) for master, _ in options.masters.values())
            yield f"             master: port {ports}; kill it, and watch"
        elif self._redis_cluster is not None:
            yield f"  Redis      {variable}='{value}'"
            for line in self._redis_cluster.what_to_try():
                yield f"             {line}"
        elif len(options.replica_redis_urls) > 1:
            yield f"  Redis      {variable}='{','.join(map(without_password, options.replica_redis_urls))}'"
        else:
            yield f"  Redis      redis-cli -u {without_password(value)}"
        if options.edge == "caddy":
            yield f"  Caddy      {directory / 'Caddyfile'}"
        else:
            yield f"  nginx      {directory / 'nginx.conf'}"
        yield "  stop       Ctrl-C"


@contextlib.contextmanager
def _run_directory() -> Iterator[Path]:
    """Provide a private directory for the configuration and temporary files, and remove it at the end."""
    with tempfile.TemporaryDirectory(prefix="heliograph-") as name:
        if os.geteuid() == 0:
            # As root, nginx runs its workers as "nobody": they may traverse this directory, and not list it.
            os.chmod(name, 0o711)  # noqa: S103
        yield Path(name)
