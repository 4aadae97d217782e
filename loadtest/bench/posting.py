"""Publishing by HTTP: `wrk` posts the same request again and again, on connections that it keeps."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loadtest.bench.processes import OTHER_CORE, pinned
from loadtest.bench.systems import API_KEY, BODY

if TYPE_CHECKING:
    from loadtest.bench.processes import Server
    from loadtest.bench.systems import System

BATCH: Final = 100
CHANNELS: Final = 1000
_UNITS: Final = {"us": 1.0, "ms": 1e3, "s": 1e6}
_DATA: Final = json.loads(BODY)


class Request(NamedTuple):
    """`publications`: in one request. `body`: of the server API."""

    method: str
    publications: int
    body: dict[str, Any]


_COMMANDS: Final = [{"publish": {"channel": f"c{number}", "data": _DATA}} for number in range(BATCH)]
REQUESTS: Final = {
    "publish": Request("publish", 1, {"channel": "all", "data": _DATA}),
    "batch": Request("batch", BATCH, {"commands": _COMMANDS}),
    "parallel batch": Request("batch", BATCH, {"commands": _COMMANDS, "parallel": True}),
    "broadcast": Request("broadcast", CHANNELS, {"channels": [f"c{n:06}" for n in range(CHANNELS)], "data": _DATA}),
}


class NotPosted(Exception):
    """The requests were not answered as they should be."""


def post(system: System, name: str, connections: int, seconds: float, servers: list[Server]) -> dict[str, Any]:
    """Post for some seconds to the first server; the figures are of publications, the latency of requests."""
    request, server = REQUESTS[name], servers[0]
    if system.api == "/api":
        path, body = f"/api/{request.method}", json.dumps(request.body, separators=(",", ":"))
    else:
        path, body = system.api, BODY
    url = f"http://127.0.0.1:{server.port}{path}"
    _check(url, body)
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        headers = {"X-API-Key": API_KEY, "Content-Type": "application/json"}
        lines = [f'wrk.headers["{header}"] = "{value}"' for header, value in headers.items()]
        script.write_text("\n".join(['wrk.method = "POST"', f"wrk.body = [==[{body}]==]", *lines]))
        _run(url, script, connections, 1)
        cpu, client = server.running_s, _children_s()
        figures = _run(url, script, connections, round(seconds) or 1)
        used, client_used = server.running_s - cpu, _children_s() - client
    count = figures["requests"] * request.publications
    return {
        "requests_per_s": figures["per_s"],
        "publications_per_s": figures["per_s"] * request.publications,
        "cpu_us": used / count * 1e6,
        "p50_us": figures["p50_us"],
        "p99_us": figures["p99_us"],
        "server_cpu": used / figures["seconds"],
        "client_cpu": client_used / figures["seconds"],
    }


def _check(url: str, body: str) -> None:
    """Raise NotPosted if the request is not carried out whole."""
    headers = {"X-API-Key": API_KEY, "Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body.encode(), headers), timeout=10) as answer:  # noqa: S310 - ours
            said = answer.read()
    except urllib.error.URLError as error:
        raise NotPosted(f"{url}: {error}") from None
    if b'"error"' in said:
        raise NotPosted(f"{url}: {said[:200]!r}")


def _run(url: str, script: Path, connections: int, seconds: int) -> dict[str, float]:
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",  # it takes no fractions
        "--latency",
        "-s",
        str(script),
        url,
    ]
    said = subprocess.run(pinned(OTHER_CORE, command), capture_output=True, text=True, check=True).stdout  # noqa: S603 - ours
    if refused := re.search(r"(Non-2xx.*|Socket errors.*)", said):
        raise NotPosted(refused[1])
    total = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s)", said)
    middle, late = (re.search(rf"{percent}%\s+([\d.]+)(us|ms|s)", said) for percent in (50, 99))
    if total is None or middle is None or late is None or not int(total[1]):
        raise NotPosted(f"wrk said {said[-300:]!r}")
    lasted_s = float(total[2]) * _UNITS[total[3]] / 1e6
    return {
        "requests": int(total[1]),
        "seconds": lasted_s,
        "per_s": int(total[1]) / lasted_s,
        "p50_us": float(middle[1]) * _UNITS[middle[2]],
        "p99_us": float(late[1]) * _UNITS[late[2]],
    }


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
