"""The pods of a Deployment, and how Kubernetes replaces them: acted out with processes and nginx on this machine."""

import asyncio
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from heliograph.local_cluster.machine import find_nginx
from tests.support.ports import free_port, free_port_block

ROOT = Path(__file__).parents[1]
REPLICAS: Final = 3
# As in deploy/helm/heliograph/values.yaml; a test compares them.
PRE_STOP_S: Final = 5.0
MIN_READY_S: Final = 5.0
DEADLINE_S: Final = 20.0
MARGIN_S: Final = 5.0
EDGE_LEARNS_S: Final = 1.0  # until nginx knows that a pod ends
START_WITHIN_S: Final = 30.0
PROBE_S: Final = 0.1

NGINX: Final = """
daemon off;
pid "{directory}/nginx.pid";
error_log stderr crit;
worker_processes 1;
worker_rlimit_nofile {files};
events {{ worker_connections {files}; }}
http {{
    log_format heliograph '$status $uri';
    access_log "{directory}/access.log" heliograph;
    client_body_temp_path "{directory}/body";
    proxy_temp_path "{directory}/proxy";
    fastcgi_temp_path "{directory}/fastcgi";
    scgi_temp_path "{directory}/scgi";
    uwsgi_temp_path "{directory}/uwsgi";
    upstream pods {{
        hash $arg_user consistent;
        {servers}
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://pods;
            proxy_next_upstream off;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_connect_timeout 2s;
            proxy_read_timeout 75s;
        }}
    }}
}}
"""


class Edge:
    """nginx before the pods: it leads to those that it has been told of."""

    def __init__(self, directory: Path, log: IO[bytes], files: int) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._directory = directory
        self._log = log
        self._files = files
        self._process: subprocess.Popen[bytes] | None = None

    def lead_to(self, pods: "list[Pod]") -> None:
        """Lead new connections to these pods; connections that exist stay where they are."""
        configuration = self._directory / "nginx.conf"
        servers = "\n        ".join(f"server 127.0.0.1:{pod.port} max_fails=0;" for pod in pods)
        configuration.write_text(
            NGINX.format(directory=self._directory, files=self._files, port=self.port, servers=servers)
        )
        if self._process is None:
            program = find_nginx()
            if program is None:
                raise SystemExit("rollout: nginx is not installed; scripts/run installs it")
            command = [program, "-e", "stderr", "-p", str(self._directory), "-c", str(configuration)]
            self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)  # noqa: S603 - our words
        else:
            self._process.send_signal(signal.SIGHUP)

    async def until_ready(self) -> None:
        await _until_ready("nginx", self.port, self._process)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)

    def handshakes(self) -> tuple[int, Counter[str]]:
        """How many handshakes it has answered, and those that failed, by status."""
        lines = (self._directory / "access.log").read_text().splitlines()
        statuses = Counter(line.split()[0] for line in lines if line.endswith(" /ws"))
        opened = statuses.pop("101", 0)
        return opened + statuses.total(), statuses


class Pod:
    """One replica, from its start to its end."""

    def __init__(self, name: str, port: int, environment: dict[str, str], log: IO[bytes]) -> None:
        self.name = name
        self.port = port
        command = [sys.executable, "-m", "heliograph", "serve", "--host", "127.0.0.1", "--port", str(port)]
        self.process = subprocess.Popen(  # noqa: S603 - our own words
            [*command, "--name", name], env=environment, stdout=log, stderr=log, cwd=ROOT
        )

    async def until_ready(self) -> None:
        await _until_ready(self.name, self.port, self.process)

    async def ends_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(PROBE_S)
        return True


async def _until_ready(name: str, port: int, process: subprocess.Popen[bytes] | None) -> None:
    """Wait as a readiness probe does."""

    def is_ready() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    async with asyncio.timeout(START_WITHIN_S):
        while not await asyncio.to_thread(is_ready):
            if process is None or process.poll() is not None:
                raise SystemExit(f"rollout: {name} ended before it was ready; its log (--keep) says why")
            await asyncio.sleep(PROBE_S)


@dataclass
class Faults:
    """What a rollout does wrong, beside what the ledger finds."""

    killed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


class Deployment:
    """The pods, and how Kubernetes replaces them."""

    def __init__(
        self, edge: Edge, environment: dict[str, str], log: IO[bytes], *, pre_stop_s: float, min_ready_s: float
    ) -> None:
        self._edge = edge
        self._environment = environment
        self._log = log
        self._pre_stop_s = pre_stop_s
        self._min_ready_s = min_ready_s
        self._ports = iter(range(first := free_port_block(2 * REPLICAS), first + 2 * REPLICAS))
        self._pods: list[Pod] = []  # all that run
        self._endpoints: list[Pod] = []  # those that nginx leads to
        self.faults = Faults()

    async def start(self) -> None:
        pods = [self._new_pod(f"old-{number}") for number in range(1, REPLICAS + 1)]
        await asyncio.gather(*(pod.until_ready() for pod in pods))
        self._endpoints = pods
        self._edge.lead_to(pods)
        await self._edge.until_ready()

    async def roll(self) -> None:
        """Replace each pod by a new one, which comes first."""
        ending = []
        for number, old in enumerate(list(self._pods), start=1):
            new = self._new_pod(f"new-{number}")
            await new.until_ready()
            self._endpoints = [*self._endpoints, new]
            self._edge.lead_to(self._endpoints)
            await asyncio.sleep(self._min_ready_s)
            ending.append(asyncio.create_task(self._end(old), name=f"end {old.name}"))
        await asyncio.gather(*ending)

    def stop(self) -> None:
        for pod in self._pods:
            pod.process.kill()
            pod.process.wait()

    def _new_pod(self, name: str) -> Pod:
        pod = Pod(name, next(self._ports), self._environment, self._log)
        self._pods.append(pod)
        return pod

    async def _end(self, pod: Pod) -> None:
        grace_ends = time.monotonic() + self._pre_stop_s + DEADLINE_S + MARGIN_S
        removing = asyncio.create_task(self._remove(pod), name=f"remove {pod.name}")
        await asyncio.sleep(self._pre_stop_s)
        pod.process.terminate()
        if not await pod.ends_within(grace_ends - time.monotonic()):
            self.faults.killed.append(pod.name)
            pod.process.kill()
        if (status := pod.process.wait()) != 0:
            self.faults.failed.append(f"{pod.name} ended with {status}")
        self._pods.remove(pod)
        await removing

    async def _remove(self, pod: Pod) -> None:
        await asyncio.sleep(EDGE_LEARNS_S)
        self._endpoints = [each for each in self._endpoints if each is not pod]
        self._edge.lead_to(self._endpoints)
