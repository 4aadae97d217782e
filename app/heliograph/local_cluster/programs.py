"""The programs of a local cluster: each one's command line, configuration and readiness check."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from heliograph.local_cluster.child import Program
from heliograph.local_cluster.machine import find_caddy, find_nginx, find_redis, listen_addresses
from heliograph.local_cluster.options import CannotStart, LocalClusterOptions, bracketed

TEMPLATES = Path(__file__).parent / "templates"
TEMPLATE = TEMPLATES / "nginx.conf.template"
PROBE_TIMEOUT_S = 2.0
OTHERS_STOP_WITHIN_S = 5.0
# nginx's own variables, and an internal port, which all replicas here would share.
_NOT_FOR_REPLICAS = ("HELIOGRAPH_NGINX_", "HELIOGRAPH_INTERNAL__")
_TEMPLATE_VARIABLE = re.compile(r"\$\{(HELIOGRAPH_\w+)\}")


@dataclass(frozen=True, slots=True)
class Part:
    """A program of the cluster, with its readiness check."""

    program: Program
    problem: Callable[[], Awaitable[str | None]]
    """Returns None if it is ready, else what is missing, for a person."""


def check_installed(options: LocalClusterOptions) -> None:
    """Check that all programs are installed.

    Raises:
        CannotStart: names the missing program.
    """
    if options.own_redis_port is not None:
        find_redis()
    if options.edge == "caddy":
        find_caddy()


def replicas(options: LocalClusterOptions) -> list[Part]:
    """Return the replicas, one process each."""
    return [_replica(options, number, port) for number, port in enumerate(options.replica_ports, start=1)]


def nginx(options: LocalClusterOptions, directory: Path, open_files: int) -> list[Part]:
    """Return the nginx in front of them, and write its configuration to `directory`."""
    program = find_nginx()
    if program is None:
        raise CannotStart("nginx is not installed any more.")
    configuration = directory / "nginx.conf"
    configuration.write_text(render(TEMPLATE.read_text(), _nginx_variables(options, directory, open_files)))
    argv = (
        program,
        # Before it reads its configuration, nginx would log to a file of the system's nginx.
        *("-e", "stderr", "-p", str(directory), "-c", str(configuration)),
    )
    # Its workers do not notice the supervisor's death: the master must live to end them.
    child = Program("nginx", argv, dict(os.environ), OTHERS_STOP_WITHIN_S, orphan_signal=signal.SIGTERM)
    return [Part(child, lambda: _edge_problem(options))]


def caddy(options: LocalClusterOptions, directory: Path) -> list[Part]:
    """Return the Caddy in front of them where nginx is not installed, and write its configuration to `directory`."""
    configuration = directory / "Caddyfile"
    variables = {
        "HELIOGRAPH_CADDY_RUN_DIR": str(directory / "caddy"),
        "HELIOGRAPH_CADDY_PORT": str(options.port),
        "HELIOGRAPH_CADDY_ADDRESSES": " ".join(listen_addresses(options.host)),
        "HELIOGRAPH_CADDY_SERVERS": " ".join(f"127.0.0.1:{port}" for port in options.replica_ports),
    }
    configuration.write_text(render((TEMPLATES / "Caddyfile.template").read_text(), variables))
    argv = (find_caddy(), "run", "--adapter", "caddyfile", "--config", str(configuration))
    # Otherwise Caddy writes its last configuration into the home directory.
    home = {"XDG_CONFIG_HOME": str(directory / "caddy"), "XDG_DATA_HOME": str(directory / "caddy")}
    child = Program("caddy", argv, {**os.environ, **home}, OTHERS_STOP_WITHIN_S)
    return [Part(child, lambda: _edge_problem(options))]


async def _edge_problem(options: LocalClusterOptions) -> str | None:
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(options.host, options.host)  # noqa: S104 - asked, not bound
    return await _http_problem(address, options.port, "/ready")


def _nginx_variables(options: LocalClusterOptions, directory: Path, open_files: int) -> dict[str, str]:
    """Return the template's variables; the template explains each."""
    addresses = listen_addresses(options.host)
    return {
        "HELIOGRAPH_NGINX_RUN_DIR": str(directory),
        "HELIOGRAPH_NGINX_WORKERS": str(min(4, os.cpu_count() or 1)),
        "HELIOGRAPH_NGINX_OPEN_FILES": str(open_files),
        "HELIOGRAPH_NGINX_LISTEN": " ".join(f"listen {bracketed(a)}:{options.port};" for a in addresses),
        "HELIOGRAPH_NGINX_SERVERS": " ".join(
            f"server 127.0.0.1:{port} max_fails=0;" for port in options.replica_ports
        ),
        "HELIOGRAPH_NGINX_RESOLVER": "",
        "HELIOGRAPH_NGINX_TRUSTED_PROXIES": os.environ.get("HELIOGRAPH_NGINX_TRUSTED_PROXIES", ""),
        "HELIOGRAPH_NGINX_CONNECTIONS_PER_ADDRESS": str(options.connections_per_address or 65_535),
        "HELIOGRAPH_NGINX_REQUESTS_PER_SECOND": os.environ.get("HELIOGRAPH_NGINX_REQUESTS_PER_SECOND") or "200",
        "HELIOGRAPH_NGINX_REQUEST_BURST": os.environ.get("HELIOGRAPH_NGINX_REQUEST_BURST") or "2000",
    }


def render(template: str, variables: Mapping[str, str]) -> str:
    """Replace `${HELIOGRAPH_…}` and nothing else, as envsubst does in the nginx image.

    Raises:
        KeyError: the template names an unknown variable.
    """
    return _TEMPLATE_VARIABLE.sub(lambda match: variables[match[1]], template)


def _replica(options: LocalClusterOptions, number: int, port: int) -> Part:
    name = f"replica-{number}"
    argv = (sys.executable, "-m", "heliograph", "serve", "--host", "127.0.0.1", "--port", str(port), "--name", name)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(_NOT_FOR_REPLICAS)},
        **dict([options.redis_variable]),
        # Otherwise Python buffers what it writes into a pipe.
        "PYTHONUNBUFFERED": "1",
    }
    program = Program(name, argv, environment, options.replicas_stop_within_s)
    return Part(program, lambda: _http_problem("127.0.0.1", port, "/ready"))


async def _http_problem(address: str, port: int, path: str) -> str | None:
    try:
        answer = await ask(address, port, f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode(), _all)
    except OSError as error:
        return why(error)
    head, _, body = answer.decode(errors="replace").partition("\r\n\r\n")
    status = head.partition("\r\n")[0]
    return None if " 200 " in f"{status} " else f"{path} is answered with {status!r} {body.strip()[:200]}"


async def ask(
    address: str, port: int, question: bytes, read: Callable[[asyncio.StreamReader], Awaitable[bytes]]
) -> bytes:
    """Send a request, and return what `read` gets of the answer."""
    async with asyncio.timeout(PROBE_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(address, port)
        try:
            writer.write(question)
            return await read(reader)
        finally:
            writer.close()


def _all(reader: asyncio.StreamReader) -> Awaitable[bytes]:
    """Read until the other side closes."""
    return reader.read()


async def ask_redis(port: int, question: str, end: bytes) -> bytes:
    """Send a command to the Redis on a port of this machine, and return its answer up to `end`.

    Raises:
        OSError: says what is wrong: it does not answer, or not with that.
    """
    try:
        return await ask("127.0.0.1", port, f"{question}\r\n".encode(), lambda reader: reader.readuntil(end))
    except EOFError:
        raise OSError(f"it answers no {question}") from None


def why(error: OSError) -> str:
    return "it does not answer" if isinstance(error, TimeoutError) else str(error)
