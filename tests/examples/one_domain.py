"""Starts the programs of an example, and before them the nginx of examples/fastapi: Heliograph at /live/."""

import os
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from tests.support.cluster import ROOT, LocalClusterProcess
from tests.support.http import http_client
from tests.support.ports import free_port_block
from tests.support.waiting import eventually

PORT = "{port}"  # in a command: where the application is to listen


@asynccontextmanager
async def one_domain(
    cluster: LocalClusterProcess,
    directory: Path,
    commands: Mapping[str, Sequence[str]],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    port: int | None = None,
) -> AsyncIterator[str]:
    """Yield the domain's URL once it and the cluster behind it answer; what was started ends with the block.

    `port`: that of the domain, where it is known before; the next one is the application's.
    """
    port = port or free_port_block(2)
    (directory / "temp").mkdir()
    text = (ROOT / "examples" / "fastapi" / "nginx.conf").read_text()
    for old, new in ((8000, port), (8001, port + 1), (8080, cluster.port)):
        text = text.replace(f"127.0.0.1:{old}", f"127.0.0.1:{new}")
    (directory / "nginx.conf").write_text(text)
    nginx = ["/usr/sbin/nginx", "-e", "stderr", "-p", str(directory), "-c", "nginx.conf"]
    programs = {
        name: _start(
            [part.replace(PORT, str(port + 1)) for part in command], directory / f"{name}.log", cwd, environment
        )
        for name, command in {**commands, "nginx": nginx}.items()
    }
    url = f"http://localhost:{port}"

    async def is_up() -> bool:
        for name, program in programs.items():
            assert program.poll() is None, (directory / f"{name}.log").read_text()
        try:
            async with http_client(url) as http:
                answers = [await http.get("/"), await http.get("/live/ready")]
        except httpx.TransportError:
            return False
        return all(answer.status_code < 400 for answer in answers)

    try:
        await eventually(is_up, within_s=60)
        yield url
    finally:
        for program in programs.values():
            program.terminate()
        for program in programs.values():
            program.wait(20)


def _start(command: list[str], log: Path, cwd: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment}
        return subprocess.Popen(command, cwd=cwd, env=environment, stdout=output, stderr=output)
