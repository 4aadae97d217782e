"""What the SDKs connect to: a Heliograph cluster, or, for reference, a Centrifugo that runs the same scenarios."""

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import httpx

from tests.support.cluster import ROOT, LocalClusterProcess
from tests.support.http import http_client
from tests.support.ports import free_port, free_port_block
from tests.support.redis_server import RedisServer
from tests.support.tokens import SECRET, token
from tests.support.waiting import eventually

Fields = dict[str, Any]

KEY = "a key of sixteen"
REPLICAS = 3
# The namespaces of the scenarios: in `chat` clients read and write, in `stream` they read what programs write, in
# `private` only with a token for the channel, and `document` is written in deltas.
NAMESPACES: dict[str, Fields] = {
    "chat": {
        "client_subscribe": True,
        "client_publish": True,
        "presence": True,
        "join_leave": True,
        "history_size": 1000,
    },
    "stream": {"client_subscribe": True, "history_size": 20_000},
    "private": {"presence": True},
    "document": {"client_subscribe": True, "allowed_delta_types": ["fossil"]},
}
_KEPT: Fields = {"force_recovery": True, "history_ttl": "300s"}
CENTRIFUGO_NAMESPACES: dict[str, Fields] = {
    "chat": {
        "allow_subscribe_for_client": True,
        "allow_publish_for_client": True,
        "allow_history_for_client": True,
        "allow_presence_for_client": True,
        "presence": True,
        "join_leave": True,
        "history_size": 1000,
        **_KEPT,
    },
    "stream": {
        "allow_subscribe_for_client": True,
        "allow_history_for_client": True,
        "history_size": 20_000,
        **_KEPT,
    },
    "private": {"presence": True, "history_size": 100, **_KEPT},
    "document": {
        "allow_subscribe_for_client": True,
        "allowed_delta_types": ["fossil"],
        "delta_publish": True,
        "force_positioning": True,
        "history_size": 100,
        **_KEPT,
    },
}


def subscription_token(user: str, channel: str, **claims: Any) -> str:
    """A token for one channel."""
    return token(user, channel=channel, **claims)


class ApiError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Cluster(Protocol):
    """A cluster of replicas behind nginx, in jwt mode, with the namespaces above."""

    url: str
    parallel_keeps_order: bool  # publications of a batch that is carried out in parallel keep their order

    def address(self, replica: int = 0) -> str:
        """The address of nginx, or of the replica with this number."""

    async def api(self, method: str, *, replica: int = 0, **parameters: Any) -> Fields:
        """Call the server API, through nginx or on the replica with this number. Raises ApiError."""

    async def is_whole(self) -> bool:
        """True if every replica is ready."""

    async def end_replicas_with_clients(self, count: int, by: signal.Signals) -> set[int]:
        """Send this signal to each replica that holds some of these `count` clients; return their numbers."""

    def stop(self) -> None: ...


async def call_api(url: str, method: str, parameters: Fields) -> Fields:
    async with http_client(url, timeout=10) as client:
        answer = await client.post(f"/api/{method}", json=parameters, headers={"X-API-Key": KEY})
    answer.raise_for_status()
    body: Fields = answer.json()
    if "error" in body:
        raise ApiError(body["error"]["code"], body["error"]["message"])
    found: Fields = body.get("result", body)
    return found


async def _replicas_with_clients(cluster: Cluster, count: int) -> set[int]:
    """The numbers of those replicas, as soon as they have counted so many clients; their names end with them."""

    async def clients() -> dict[int, int]:
        nodes = (await cluster.api("info"))["nodes"]
        return {int(node["name"].rpartition("-")[2]): node.get("num_clients", 0) for node in nodes}

    async def all_are_counted() -> bool:
        return sum((await clients()).values()) >= count

    await eventually(all_are_counted)
    return {number for number, held in (await clients()).items() if held}


class Heliograph:
    """The cluster that `heliograph up` starts."""

    parallel_keeps_order = True

    def __init__(self, directory: Path, *, rpc_url: str) -> None:
        self._cluster = LocalClusterProcess(
            directory / "log",
            replicas=REPLICAS,
            HELIOGRAPH_AUTH__MODE="jwt",
            HELIOGRAPH_AUTH__SECRET=SECRET,
            HELIOGRAPH_AUTH__LEEWAY_S="0",
            HELIOGRAPH_API__KEY=KEY,
            HELIOGRAPH_NAMESPACES=json.dumps(NAMESPACES),
            HELIOGRAPH_HOOKS__RPC=rpc_url,
        )
        self._cluster.__enter__()
        self.url = self._cluster.url

    def address(self, replica: int = 0) -> str:
        return f"http://127.0.0.1:{self._cluster.port + replica}"

    async def api(self, method: str, *, replica: int = 0, **parameters: Any) -> Fields:
        return await call_api(self.address(replica), method, parameters)

    async def is_whole(self) -> bool:
        return all(self._cluster.status("/ready", number) == 200 for number in range(1, REPLICAS + 1))

    async def end_replicas_with_clients(self, count: int, by: signal.Signals) -> set[int]:
        pids = self._cluster.pids()
        held = await _replicas_with_clients(self, count)
        for number in held:
            os.kill(pids[f"replica-{number}"], by)
        return held

    def stop(self) -> None:
        self._cluster.__exit__()


CENTRIFUGO = ROOT / "artifacts" / "sdks" / "centrifugo"  # where scripts/test-sdks builds it
NGINX = """daemon off; pid "{directory}/nginx.pid"; error_log "{directory}/nginx.log";
events {{ worker_connections 1000; }}
http {{
    access_log off;
    client_body_temp_path "{directory}/body"; proxy_temp_path "{directory}/proxy";
    fastcgi_temp_path "{directory}/fastcgi"; scgi_temp_path "{directory}/scgi"; uwsgi_temp_path "{directory}/uwsgi";
    upstream replicas {{ ip_hash; {servers} }}
    server {{
        listen 127.0.0.1:{port};
        proxy_http_version 1.1; proxy_buffering off; proxy_read_timeout 75s;
        proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
        proxy_set_header Host $http_host;
        proxy_next_upstream error timeout http_503;
        location / {{ proxy_pass http://replicas; }}
    }}
    map $http_upgrade $connection_upgrade {{ "" close; default upgrade; }}
}}
"""


class Centrifugo:
    """Three nodes of it, a Redis and an nginx: what the scenarios were first right about."""

    parallel_keeps_order = False

    def __init__(self, directory: Path, *, rpc_url: str) -> None:
        self._directory = directory
        self._redis = RedisServer(directory).start()
        self._first = free_port_block(REPLICAS)
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._config = {
            "client": {"token": {"hmac_secret_key": SECRET}, "allowed_origins": ["*"]},
            "http_api": {"key": KEY},
            "engine": {"type": "redis", "redis": {"address": self._redis.url}},
            "channel": {"namespaces": [{"name": name, **options} for name, options in CENTRIFUGO_NAMESPACES.items()]},
            "rpc": {"proxy": {"endpoint": rpc_url}, "without_namespace": {"proxy_enabled": True}},
            "http_stream": {"enabled": True},
            "sse": {"enabled": True},
            "health": {"enabled": True},
            "node": {"info_metrics_aggregate_interval": "1s"},
            "log": {"level": "info"},
        }
        self._nodes: dict[int, subprocess.Popen[bytes]] = {}
        for number in range(1, REPLICAS + 1):
            self._start_node(number)
        servers = " ".join(f"server 127.0.0.1:{self._first + n} max_fails=0;" for n in range(REPLICAS))
        nginx = directory / "nginx.conf"
        nginx.write_text(NGINX.format(directory=directory, servers=servers, port=self._port))
        self._nginx = subprocess.Popen(["/usr/sbin/nginx", "-e", directory / "nginx.log", "-c", nginx])
        self._until_ready()

    def _start_node(self, number: int) -> None:
        port = self._first + number - 1
        config = self._directory / f"node-{number}.json"
        config.write_text(
            json.dumps(
                {
                    **self._config,
                    "http_server": {"address": "127.0.0.1", "port": port},
                    "node": {"name": f"node-{number}", "info_metrics_aggregate_interval": "1s"},
                }
            )
        )
        with (self._directory / f"node-{number}.log").open("wb") as log:
            self._nodes[number] = subprocess.Popen([CENTRIFUGO, "-c", config], stdout=log, stderr=log)

    def _until_ready(self) -> None:
        deadline = time.monotonic() + 15
        for port in (self._port, *range(self._first, self._first + REPLICAS)):
            while True:
                with suppress(httpx.HTTPError):
                    if httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200:
                        break
                assert time.monotonic() < deadline, f"nobody answers on {port}; see {self._directory}"
                time.sleep(0.05)

    def address(self, replica: int = 0) -> str:
        return f"http://127.0.0.1:{self._first + replica - 1 if replica else self._port}"

    async def api(self, method: str, *, replica: int = 0, **parameters: Any) -> Fields:
        return await call_api(self.address(replica), method, parameters)

    async def is_whole(self) -> bool:
        for number, node in self._nodes.items():
            if node.poll() is not None:
                self._start_node(number)
        self._until_ready()
        return True

    async def end_replicas_with_clients(self, count: int, by: signal.Signals) -> set[int]:
        held = await _replicas_with_clients(self, count)
        for number in held:
            self._nodes[number].send_signal(by)
        return held

    def stop(self) -> None:
        self._nginx.terminate()
        self._nginx.wait()
        for node in self._nodes.values():
            node.kill()
            node.wait()
        self._redis.stop()
