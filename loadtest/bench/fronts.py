"""What stands before a server, to keep an address on one replica: nginx as we configure it, and other ways."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from heliograph.local_cluster.machine import find_nginx
from heliograph.local_cluster.programs import TEMPLATE, render
from loadtest.bench.processes import OPEN_FILES, SERVER_CORE, Server, free_port
from loadtest.bench.systems import HOME

if TYPE_CHECKING:
    from collections.abc import Callable

_STREAM_MODULES: Final = [
    Path(folder) / "ngx_stream_module.so" for folder in ("/usr/lib/nginx/modules", "/usr/share/nginx/modules")
]


class Front(Server):
    """A proxy before a server, on the same core. What it uses and what the server uses count together."""

    def __init__(self, kind: str, server: Server, log: Path) -> None:
        port = free_port()
        folder = HOME / "fronts" / str(port)
        folder.mkdir(parents=True, exist_ok=True)
        command = FRONTS[kind](folder, port, server.port)
        super().__init__(command, port, SERVER_CORE, dict(os.environ), log)
        self._server = server

    @property
    def pids(self) -> list[int]:
        return [*super().pids, *self._server.pids]

    def _stop(self) -> None:
        self._end(super().pids)


def _nginx(folder: Path, port: int, server: int) -> list[str]:
    """As every cluster has it, with one worker and without the limit on requests."""
    names = {
        "RUN_DIR": str(folder),
        "WORKERS": "1",
        "OPEN_FILES": str(OPEN_FILES),
        "LISTEN": f"listen 127.0.0.1:{port} backlog=4096;",
        "SERVERS": f"server 127.0.0.1:{server} max_fails=0;",
        "RESOLVER": "",
        "TRUSTED_PROXIES": "",
        "CONNECTIONS_PER_ADDRESS": "65535",
        "REQUESTS_PER_SECOND": "1000000",
        "REQUEST_BURST": "1000000",
    }
    variables = {f"HELIOGRAPH_NGINX_{name}": value for name, value in names.items()}
    text = render(TEMPLATE.read_text(encoding="utf-8"), variables)
    return _nginx_command(folder, f"user root;\n{text}" if os.geteuid() == 0 else text)


def _stream(folder: Path, port: int, server: int) -> list[str]:
    """nginx that passes TCP on, whatever is in it."""
    module = next((each for each in _STREAM_MODULES if each.exists()), None)
    load = "" if module is None else f"load_module {module};"
    user = "user root;" if os.geteuid() == 0 else ""
    text = f"""{load} {user} pid {folder}/pid; error_log stderr crit; worker_processes 1; daemon off;
worker_rlimit_nofile {OPEN_FILES};
events {{ worker_connections {OPEN_FILES}; }}
stream {{
  upstream replicas {{ hash $remote_addr consistent; server 127.0.0.1:{server}; }}
  server {{ listen 127.0.0.1:{port} backlog=4096; proxy_pass replicas; proxy_timeout 75s; tcp_nodelay on; }}
}}
"""
    return _nginx_command(folder, text)


def _haproxy(folder: Path, port: int, server: int) -> list[str]:
    """HAProxy that passes TCP on, and lets the kernel do it where that pays."""
    path = folder / "haproxy.cfg"
    path.write_text(
        f"""global
  maxconn {OPEN_FILES // 4}
  maxpipes {OPEN_FILES // 8}
  nbthread 1
defaults
  mode tcp
  option splice-auto
  timeout connect 2s
  timeout client 75s
  timeout server 75s
listen replicas
  bind 127.0.0.1:{port} backlog 4096
  balance source
  hash-type consistent
  server one 127.0.0.1:{server}
"""
    )
    return [shutil.which("haproxy", path=_PATH) or "haproxy", "-db", "-f", str(path)]


_PATH: Final = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
FRONTS: Final[dict[str, Callable[[Path, int, int], list[str]]]] = {
    "nginx": _nginx,
    "nginx stream": _stream,
    "haproxy": _haproxy,
}


def _nginx_command(folder: Path, text: str) -> list[str]:
    (folder / "nginx.conf").write_text(text)
    return [str(find_nginx()), "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]
