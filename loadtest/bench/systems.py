"""What is measured: how each system is started, and how one speaks to it."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from heliograph.local_cluster.machine import find_nginx

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PEERS = HERE / "peers"
HOME = Path(
    os.environ.get("HELIOGRAPH_BENCH_HOME", ROOT / "artifacts" / "bench-home")
)  # where scripts/bench installs
NCHAN = [Path(folder) / "ngx_nchan_module.so" for folder in ("/usr/lib/nginx/modules", "/usr/share/nginx/modules")]

API_KEY = "of the benchmark alone"
BODY_BYTES = 128
_BODY = json.dumps({"at": "{mark}", "text": ""}, separators=(",", ":"))
# The mark takes 26 bytes in the place of the 6 of its name.
FILL = "x" * (BODY_BYTES - len(_BODY) - 20)
BODY = _BODY.replace('""', f'"{FILL}"')


def rows(count: int) -> str:
    """JSON as programs send it: so many objects with the same names and different values, 50 bytes each."""
    chance = random.Random(1)  # noqa: S311 - not a secret
    states = ("queued", "started", "finished", "failed")
    return json.dumps(
        [
            {"host": f"web-{chance.randrange(100)}", "status": chance.choice(states), "took": chance.randrange(10**6)}
            for _ in range(count)
        ],
        separators=(",", ":"),
    )


@dataclass(frozen=True)
class Speech:
    """Paths, and what is sent and waited for after the handshake.

    `{n}` is the number of a connection; in `publish` and `pub_path` that of whom it is for.
    """

    sub_path: str
    pub_path: str
    publish: str
    sub_steps: Sequence[tuple[str, str]] = ()
    pub_steps: Sequence[tuple[str, str]] = ()
    answer: str = ""  # TEXT|REPLY: a ping in the system's own protocol
    other: Speech | None = None  # every second subscriber speaks this instead


@dataclass(frozen=True)
class System:
    """`command(port, redis_port)`; `missing()` says what has to be installed, or nothing."""

    name: str
    label: str
    command: Callable[[int, int], list[str]]
    speech: Speech
    missing: Callable[[], str]
    environment: dict[str, str] = field(default_factory=dict)
    to_user: Speech | None = None  # each message is for one user, `u{n}`
    api: str = ""  # where one posts: `/api` with methods below it, or one path to publish on a channel
    only: str = ""  # the one part that it is measured in
    compresses: bool = False  # for clients that offer permessage-deflate
    to_channel: Speech | None = None  # each message is for one of many channels; None: what is sent goes to one only


def _nothing() -> str:
    return ""


def _heliograph(port: int, redis_port: int) -> list[str]:
    return [
        sys.executable,
        "-m",
        "heliograph",
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--name",
        f"replica-{port}",
    ]


def _heliograph_system(name: str, label: str, options: str) -> System:
    known, subscribed = ("expect", '"connected"'), ("expect", '"subscribed"')
    end = f'"data":{BODY}{options}}}'
    return System(
        name,
        label,
        _heliograph,
        Speech(
            "/ws?user=u{n}&channels=all",
            "/ws?user=publisher",
            '{"type":"publish","channel":"all",' + end,
            sub_steps=[known, subscribed],
            pub_steps=[known],
        ),
        _nothing,
        to_user=Speech(
            "/ws?user=u{n}",
            "/ws?user=p{n}",
            '{"type":"send","to":"u{n}",' + end,
            sub_steps=[known],
            pub_steps=[known],
        ),
        to_channel=Speech(
            "/ws?user=u{n}",
            "/ws?user=publisher",
            '{"type":"publish","channel":"c{n}",' + end,
            sub_steps=[known, ("send", '{"type":"subscribe","channel":"c{n}"}'), subscribed],
            pub_steps=[known],
        ),
        environment=_HELIOGRAPH_ENVIRONMENT,
        api="" if options else "/api",
    )


_HELIOGRAPH_ENVIRONMENT = {
    "HELIOGRAPH_AUTH__MODE": "open",
    "HELIOGRAPH_API__KEY": API_KEY,
    "HELIOGRAPH_LIMITS__MESSAGES_PER_SECOND": "0",
    # Higher than anybody gets, but there: what counting costs is in what is measured.
    "HELIOGRAPH_LIMITS__REQUESTS_PER_SECOND": "0",
    "HELIOGRAPH_LIMITS__REQUESTS_PER_SECOND_PER_ADDRESS": "0",
    "HELIOGRAPH_LIMITS__USER_MESSAGES_PER_SECOND": "100000",
    "HELIOGRAPH_LIMITS__USER_BYTES_PER_SECOND": "100000000",
    "HELIOGRAPH_LIMITS__RECIPIENT_MESSAGES_PER_SECOND": "100000",
    "HELIOGRAPH_LIMITS__CONNECTIONS": "100000",
    "HELIOGRAPH_LIMITS__CONNECTIONS_PER_USER": "0",
    "HELIOGRAPH_LIMITS__CONNECTIONS_PER_ADDRESS": "0",
    "HELIOGRAPH_LOG__LEVEL": "warning",
}


def _python_peer(module: str, *options: str) -> Callable[[int, int], list[str]]:
    def command(port: int, redis_port: int) -> list[str]:
        server = [str(HOME / "venv/bin/python"), "-m", "uvicorn", f"{module}:app", "--host", "127.0.0.1"]
        server += ["--port", str(port), "--ws", "websockets-sansio", "--loop", "uvloop", "--http", "httptools"]
        return [
            *server,
            *("--log-level", "warning", "--no-access-log", "--ws-per-message-deflate", "false", "--backlog", "4096"),
            *options,
        ]

    return command


def _no_venv() -> str:
    return "" if (HOME / "venv/bin/python").exists() else "its Python packages (scripts/bench installs them)"


_SOCKETIO = Speech(
    "/socket.io/?EIO=4&transport=websocket&n={n}",
    "/socket.io/?EIO=4&transport=websocket&publisher=1",
    f'42["say",{BODY}]',
    sub_steps=[("expect", "0{"), ("send", "40"), ("expect", "40{")],
    pub_steps=[("expect", "0{"), ("send", "40"), ("expect", "40{")],
    answer="2|3",
)
_SOCKETIO_TO_USER = replace(_SOCKETIO, publish=f'42["tell","u{{n}}",{BODY}]')


def _plain(greeting: str) -> Speech:
    steps = [("expect", greeting)]
    return Speech("/ws/u{n}", "/ws/publisher", BODY, sub_steps=steps, pub_steps=steps)


def _plain_to_user(greeting: str) -> Speech:
    return replace(_plain(greeting), publish=f'{{"to":"u{{n}}","message":{BODY}}}')


def _node(port: int, redis_port: int) -> list[str]:
    return ["node", str(PEERS / "socketio.js"), str(port)]


def _no_node() -> str:
    if shutil.which("node") is None:
        return "Node.js"
    return "" if (HOME / "node_modules/socket.io").exists() else "its Node.js packages (scripts/bench installs them)"


def _nchan(port: int, redis_port: int, options: str = "") -> list[str]:
    module = next(each for each in NCHAN if each.exists())
    folder = HOME / "nchan" / str(port)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi"))
    temporary += "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in ("uwsgi", "scgi"))
    user = "user root;" if os.geteuid() == 0 else ""
    # Who polls misses what nobody keeps until the next poll.
    kept = "nchan_store_messages on; nchan_message_buffer_length 100; nchan_channel_id polled;"
    kept += " nchan_subscriber_first_message newest;"
    (folder / "nginx.conf").write_text(
        f"""load_module {module}; {user} pid {folder}/pid; error_log {folder}/errors warn;
worker_processes 1; daemon off;
events {{ worker_connections 65536; }}
http {{
  access_log off; {temporary} nchan_shared_memory_size 512M;
  upstream redis {{ nchan_redis_server redis://127.0.0.1:{redis_port}; nchan_redis_storage_mode nostore; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096; nchan_store_messages off; keepalive_requests 1000000000;
    location ~ ^/sub/ {{ nchan_subscriber websocket; nchan_channel_id all; nchan_redis_pass redis; }}
    location ~ ^/user/(.+)$ {{ nchan_subscriber websocket; nchan_channel_id $1; nchan_redis_pass redis; }}
    location ~ ^/tell/(.+)$ {{ nchan_publisher websocket; nchan_channel_id $1; nchan_redis_pass redis; }}
    location ~ ^/events/ {{ nchan_subscriber eventsource; nchan_channel_id all; nchan_redis_pass redis; }}
    location ~ ^/poll/ {{ nchan_subscriber longpoll; {kept} }}
    location = /post-kept {{ nchan_publisher http; {kept} }}
    location = /post {{ nchan_publisher http; nchan_channel_id all; nchan_redis_pass redis; }}
    location = /pub {{ nchan_publisher websocket; nchan_channel_id all; nchan_redis_pass redis; {options} }}
  }}
}}
"""
    )
    return [str(find_nginx()), "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def _no_nchan() -> str:
    return "" if find_nginx() and any(each.exists() for each in NCHAN) else "nginx and libnginx-mod-nchan"


def _centrifugo(port: int, redis_port: int) -> list[str]:
    server = [str(HOME / "centrifugo"), "--http_server.port", str(port), "--http_server.address", "127.0.0.1"]
    return [*server, "--log.level", "none"]


_CENTRIFUGO_ENVIRONMENT = {
    "GOMAXPROCS": "1",
    "CENTRIFUGO_CLIENT_INSECURE": "true",
    "CENTRIFUGO_HTTP_API_KEY": API_KEY,
    "CENTRIFUGO_CLIENT_ALLOWED_ORIGINS": "*",
    "CENTRIFUGO_ENGINE_TYPE": "redis",
    "CENTRIFUGO_CHANNEL_WITHOUT_NAMESPACE_ALLOW_PUBLISH_FOR_CLIENT": "true",
    "CENTRIFUGO_CHANNEL_WITHOUT_NAMESPACE_ALLOW_SUBSCRIBE_FOR_CLIENT": "true",
}
_CENTRIFUGO_SPEECH = Speech(
    "/connection/websocket",
    "/connection/websocket",
    f'{{"id":3,"publish":{{"channel":"all","data":{BODY}}}}}',
    sub_steps=[
        ("send", '{"id":1,"connect":{}}'),
        ("expect", '"connect"'),
        ("send", '{"id":2,"subscribe":{"channel":"all"}}'),
        ("expect", '"subscribe"'),
    ],
    pub_steps=[("send", '{"id":1,"connect":{}}'), ("expect", '"connect"')],
    answer="{}|{}",
)
_CENTRIFUGO_TO_USER = replace(
    _CENTRIFUGO_SPEECH,
    publish=f'{{"id":3,"publish":{{"channel":"u{{n}}","data":{BODY}}}}}',
    sub_steps=[
        ("send", '{"id":1,"connect":{}}'),
        ("expect", '"connect"'),
        ("send", '{"id":2,"subscribe":{"channel":"u{n}"}}'),
        ("expect", '"subscribe"'),
    ],
)


def _no_centrifugo() -> str:
    return "" if (HOME / "centrifugo").exists() else "centrifugo (scripts/bench installs it where Go is)"


_COMPRESSING_NCHAN = "nchan_deflate_message_for_websocket on;"

_KEPT = _heliograph_system("heliograph", "Heliograph, kept", "")
# What it is spoken to by an SDK, in JSON. The publisher is a plain client in each case.
_BY_SDK = replace(
    _KEPT.speech,
    sub_path="/connection/websocket",
    sub_steps=[
        ("send", '{"id":1,"connect":{"data":{"user":"u{n}"}}}'),
        ("expect", '"connect"'),
        *_CENTRIFUGO_SPEECH.sub_steps[2:],
    ],
    answer="{}|{}",
)
_SERVERS = [
    _KEPT,
    _heliograph_system("heliograph-ephemeral", "Heliograph, ephemeral", ',"ephemeral":true'),
    replace(_KEPT, name="heliograph-sdk", label="Heliograph, kept, to SDK clients", speech=_BY_SDK),
    replace(
        _KEPT,
        name="heliograph-mixed",
        label="Heliograph, kept, to SDK and plain clients",
        speech=replace(_BY_SDK, other=_KEPT.speech),
    ),
    System(
        "centrifugo",
        "Centrifugo (Go)",
        _centrifugo,
        _CENTRIFUGO_SPEECH,
        _no_centrifugo,
        to_user=_CENTRIFUGO_TO_USER,
        to_channel=_CENTRIFUGO_TO_USER,
        environment=_CENTRIFUGO_ENVIRONMENT,
        api="/api",
    ),
    System(
        "nchan",
        "Nchan (C)",
        _nchan,
        Speech("/sub/{n}", "/pub", BODY),
        _no_nchan,
        to_user=Speech("/user/u{n}", "/tell/u{n}", BODY),
        api="/post",
    ),
    System(
        "socketio-node",
        "Socket.IO (Node.js)",
        _node,
        _SOCKETIO,
        _no_node,
        to_user=_SOCKETIO_TO_USER,
        to_channel=_SOCKETIO_TO_USER,
        environment={"NODE_PATH": f"{HOME}/node_modules"},
    ),
    System(
        "naive",
        "one send_json per socket",
        _python_peer("naive"),
        _plain('"connected"'),
        _no_venv,
        to_user=_plain_to_user('"connected"'),
        to_channel=_plain_to_user('"connected"'),
    ),
    System(
        "python-socketio",
        "python-socketio",
        _python_peer("python_socketio"),
        _SOCKETIO,
        _no_venv,
        to_user=_SOCKETIO_TO_USER,
        to_channel=_SOCKETIO_TO_USER,
    ),
    System(
        "channels",
        "Django Channels",
        _python_peer("django_channels", "--lifespan", "off"),
        _plain("{}"),
        _no_venv,
        to_user=_plain_to_user("{}"),
        to_channel=_plain_to_user("{}"),
    ),
    System(
        "epoll",
        "the bound: C, epoll, send()",
        lambda port, redis_port: [str(HOME / "epoll"), str(port)],
        Speech("/sub", "/pub", BODY, sub_steps=[("expect", "{}")], pub_steps=[("expect", "{}")]),
        lambda: "" if (HOME / "epoll").exists() else "a C compiler",
    ),
]

_BY_NAME = {each.name: each for each in _SERVERS}

SYSTEMS = [
    *_SERVERS,
    replace(
        _BY_NAME["centrifugo"],
        name="centrifugo-kept",
        label="Centrifugo (Go), with history",
        only="api",
        environment=_CENTRIFUGO_ENVIRONMENT
        | {
            "CENTRIFUGO_CHANNEL_WITHOUT_NAMESPACE_HISTORY_SIZE": "100",
            "CENTRIFUGO_CHANNEL_WITHOUT_NAMESPACE_HISTORY_TTL": "300s",
        },
    ),
    # The same with permessage-deflate.
    *(
        replace(
            _BY_NAME[name],
            name=f"{name}-deflate",
            label=f"{_BY_NAME[name].label}, compressed",
            environment=_BY_NAME[name].environment | more,
            only="deflate",
            compresses=True,
        )
        for name, more in (
            ("heliograph", {"HELIOGRAPH_COMPRESSION__ENABLED": "true"}),
            (
                "centrifugo",
                {
                    "CENTRIFUGO_WEBSOCKET_COMPRESSION": "true",
                    "CENTRIFUGO_WEBSOCKET_COMPRESSION_PREPARED_MESSAGE_CACHE_SIZE": "10485760",
                },
            ),
        )
    ),
    replace(
        _BY_NAME["nchan"],
        name="nchan-deflate",
        label="Nchan (C), compressed",
        command=partial(_nchan, options=_COMPRESSING_NCHAN),
        only="deflate",
        compresses=True,
    ),
]
