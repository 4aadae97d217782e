"""Record the frames of two versions on the plain protocol, to compare them byte for byte.

    python loadtest/frames.py record before.jsonl              # with the version before, from its checkout
    python loadtest/frames.py record after.jsonl               # with the version after
    python loadtest/frames.py compare before.jsonl after.jsonl

A recording starts two replicas and a Redis of its own, on free ports of this machine, and holds the same conversation
with them. It is drawn from a seed, with valid and invalid frames of every kind. After each step a ping on every
connection makes sure that all frames have arrived. Values that differ from run to run (sessions, message ids, epochs,
times) are replaced by their number in order of appearance; every other byte counts. It ends by itself after
`--frames` lines.
"""

import argparse
import asyncio
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

SEED = 20261129
USERS = ("alice", "bob", "우주여행고양이", "🚀", "مريم")
CHANNELS = ("news", "chat:lobby", "logs:101", "run:20251105_1430_우주여행고양이", "orders:1", "quiet:1")
API_KEY = "frames-are-compared-byte-for-byte"
SETTINGS = {
    "HELIOGRAPH_AUTH__MODE": "open",
    "HELIOGRAPH_API__KEY": API_KEY,
    "HELIOGRAPH_PRESENCE__GRACE_S": "0",
    "HELIOGRAPH_LIMITS__MESSAGES_PER_SECOND": "0",
    "HELIOGRAPH_LIMITS__USER_MESSAGES_PER_SECOND": "0",  # as the pings after each step are read as slowly as messages
    "HELIOGRAPH_NAMESPACES": json.dumps({"orders": {"history_size": 5}, "quiet": {"ephemeral": True}}),
    "HELIOGRAPH_LOG__LEVEL": "error",
}
# The values that differ from run to run.
VARYING = (
    re.compile(r'"session":"([0-9a-f]{32})"'),
    re.compile(r'"message_id":"([^"]+)"'),
    re.compile(r'"(?:sent_at|timestamp)":"([^"]+)"'),
    re.compile(r'[=."]([0-9a-f]{8})\.\d'),  # an epoch, before the offset in a cursor
)
BAD_FRAMES = (
    "",
    "{",
    "[]",
    "null",
    '{"id":{}}',
    '{"type":"nothing","id":7}',
    '{"type":"connect","user":"eve","id":9}',
    '{"type":"refresh","token":"x","id":1}',
    '{"type":"send","to":"","data":1,"id":8}',
    '{"type":"send","to":"bob"}',
    '{"type":"send","to":5,"data":1}',
    '{"type":"send","to":"bob","data":' + "[" * 40 + "]" * 40 + ',"id":"deep"}',
    '{"type":"publish","channel":"news","data":NaN}',
    '{"type":"subscribe","channel":"news","cursor":"%%%","id":"q"}',
    '{"type":"ping","id":"p"}',
)
Json = dict[str, object]


def free_port() -> int:
    """Return a port below 32768 on which nothing listens."""
    while True:
        port = random.randrange(20_000, 32_000)  # noqa: S311
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)):
                return port


@asynccontextmanager
async def process(command: list[str], environment: dict[str, str]) -> AsyncIterator[None]:
    child = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        child.terminate()
        await asyncio.wait_for(child.wait(), 30)


async def until_ready(port: int) -> None:
    async with asyncio.timeout(30), httpx.AsyncClient(trust_env=False) as client:
        while True:
            try:
                if (await client.get(f"http://127.0.0.1:{port}/ready")).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.1)


class Conversation:
    """The same frames in the same order, as long as both versions answer alike."""

    def __init__(self, ports: list[int], most: int) -> None:
        self._ports = ports
        self._most = most
        self._dice = random.Random(SEED)  # noqa: S311
        self._clients: list[tuple[str, ClientConnection]] = []
        self._cursors: list[str] = []
        self._seen: dict[str, str] = {}
        self._number = 0
        self.lines: list[str] = []

    async def hold(self) -> None:
        steps: tuple[tuple[Callable[[], object], int], ...] = (
            (self._send, 20),
            (self._subscribe, 8),
            (self._publish, 20),
            (self._publish_as_server, 12),
            (self._unsubscribe, 4),
            (self._history, 6),
            (self._presence, 4),
            (self._emit, 2),
            (self._bad, 6),
            (self._come, 5),
            (self._go, 4),
        )
        await self._come()
        while len(self.lines) < self._most:
            [step] = self._dice.choices([each for each, _ in steps], [weight for _, weight in steps])
            await step()  # type: ignore[misc]
            await self._settle()
        for _, client in self._clients:
            await client.close()

    async def _come(self) -> None:
        if len(self._clients) >= 6:
            return
        user, port = self._dice.choice(USERS), self._dice.choice(self._ports)
        more = self._dice.choice(("", "&replay", "&channels=news,logs:101", "&cursor="))
        if more == "&cursor=":
            more += quote(self._dice.choice(self._cursors)) if self._cursors else "news=00000000.1"
        path = self._dice.choice(
            (f"/ws?user={quote(user)}{more}", f"/ws/users/{quote(user)}", f"/ws/logs/101?user={quote(user)}")
        )
        name = f"c{self._number}"
        client = await connect(f"ws://127.0.0.1:{port}{path}", proxy=None, max_size=None)
        self._clients.append((name, client))
        self._note(name, ">", path)

    async def _go(self) -> None:
        if len(self._clients) > 2:
            name, client = self._clients.pop(self._dice.randrange(len(self._clients)))
            await client.close()
            self._note(name, "closed", str(client.close_code))

    async def _say(self, frame: Json | str) -> None:
        name, client = self._dice.choice(self._clients)
        text = frame if isinstance(frame, str) else json.dumps(frame, ensure_ascii=False)
        self._note(name, ">", text)
        await client.send(text)

    def _data(self) -> object:
        return self._dice.choice(
            (
                1,
                -2.5,
                None,
                True,
                "텍스트 🚀",
                [],
                {},
                {"a": [1, {"b": "ü"}]},
                {"n": self._dice.randrange(10**6)},
                'a"b\\c\n',
            )
        )

    def _one_of(self, *fields: Json) -> Json:
        return self._dice.choice(fields)

    def _id(self) -> Json:
        return self._one_of({}, {"id": self._number}, {"id": f"r{self._number}"})

    def _cursor(self) -> Json:
        if not self._cursors:
            return {}
        return self._one_of({}, {"cursor": self._dice.choice(self._cursors[-50:])}, {"replay": True})

    async def _send(self) -> None:
        more = self._one_of({}, {}, {"ephemeral": True})
        await self._say(
            {"type": "send", "to": self._dice.choice((*USERS, "ghost")), "data": self._data(), **more, **self._id()}
        )

    async def _publish(self) -> None:
        more = self._one_of({}, {}, {"ephemeral": True})
        channel = self._dice.choice((*CHANNELS, "#bob"))
        await self._say({"type": "publish", "channel": channel, "data": self._data(), **more, **self._id()})

    async def _publish_as_server(self) -> None:
        channel = self._dice.choice((*CHANNELS, *(f"#{user}" for user in USERS)))
        data = self._data()
        if channel.startswith("run:"):
            data = {
                "state": self._dice.choice(("RUNNING", "END")),
                "progress": self._dice.randrange(100),
                "message": "a\nb",
            }
        port = self._dice.choice(self._ports)
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(
                f"http://127.0.0.1:{port}/api/publish",
                headers={"X-API-Key": API_KEY},
                json={"channel": channel, "data": data},
            )
        self._note("api", str(answer.status_code), re.sub(r'"epoch":"[0-9a-f]{8}"', '"epoch":""', answer.text))

    async def _subscribe(self) -> None:
        channel = self._dice.choice((*CHANNELS, "#bob", "#", "x\n"))
        await self._say({"type": "subscribe", "channel": channel, **self._cursor(), **self._id()})

    async def _unsubscribe(self) -> None:
        await self._say({"type": "unsubscribe", "channel": self._dice.choice(CHANNELS), **self._id()})

    async def _history(self) -> None:
        more = self._one_of({}, {"limit": 3}, {"limit": 0}, {"limit": 5000})
        cursor = {key: value for key, value in self._cursor().items() if key == "cursor"}
        await self._say({"type": "history", "channel": self._dice.choice(CHANNELS), **more, **cursor, **self._id()})

    async def _presence(self) -> None:
        await self._say({"type": "presence", "channel": self._dice.choice(CHANNELS), **self._id()})

    async def _emit(self) -> None:
        event = self._dice.choice(("order.placed", "payment.confirmed", ""))
        await self._say({"type": "emit", "event": event, "data": self._data(), **self._id()})

    async def _bad(self) -> None:
        await self._say(self._dice.choice(BAD_FRAMES))

    async def _settle(self) -> None:
        """Wait until every connection has all frames of this step: a pong follows them."""
        await asyncio.sleep(0.01)  # over the bus, to the other replica
        for name, client in list(self._clients):
            try:
                self._number += 1
                mark = f'"settle-{self._number}"'
                await client.send(f'{{"type":"ping","id":{mark}}}')
                while mark not in (frame := await asyncio.wait_for(client.recv(decode=True), 10)):
                    self._hear(name, str(frame))
            except ConnectionClosed as closed:
                self._clients.remove((name, client))
                self._note(name, "closed", f"{client.close_code} {client.close_reason or ''} {closed.rcvd is None}")

    def _hear(self, name: str, frame: str) -> None:
        for cursor in re.findall(r'"cursor":"([^"]+)"', frame):
            self._cursors.append(cursor)
        self._note(name, "<", frame)

    def _note(self, name: str, direction: str, text: str) -> None:
        self._number += 1
        self.lines.append(json.dumps([name, direction, self._plain(text)], ensure_ascii=False))

    def _plain(self, text: str) -> str:
        """Return the text with numbers in place of values that differ from run to run."""
        for pattern in VARYING:
            for found in pattern.findall(text):
                text = text.replace(found, self._seen.setdefault(found, f"<{len(self._seen)}>"))
        for found, number in self._seen.items():
            if len(found) == 8 and found in text:
                text = text.replace(found, number)
        return text


async def record(most: int) -> list[str]:
    package = "heliograph" if (Path("app") / "heliograph").is_dir() else "app"
    redis_server = shutil.which("redis-server") or "/usr/bin/redis-server"
    redis_port, *ports = free_port(), free_port(), free_port()
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        options = ["--port", str(redis_port), "--bind", "127.0.0.1", "--save", "", "--dir", directory]
        await stack.enter_async_context(process([redis_server, *options], {}))
        environment = {**SETTINGS, "HELIOGRAPH_REDIS__URL": f"redis://127.0.0.1:{redis_port}/0"}
        for number, port in enumerate(ports, 1):
            command = [sys.executable, "-m", package, "serve", "--port", str(port), "--name", f"replica-{number}"]
            await stack.enter_async_context(process(command, environment))
        for port in ports:
            await until_ready(port)
        conversation = Conversation(ports, most)
        await conversation.hold()
    return conversation.lines


def kinds(lines: list[str]) -> dict[str, int]:
    """Count the received frames by type."""
    frames = [text for _, direction, text in map(json.loads, lines) if direction == "<"]
    return Counter(found.group(1) for frame in frames if (found := re.match(r'\{"type":"(\w+)"', frame)))


def compare(before: Path, after: Path) -> int:
    one, other = before.read_text().splitlines(), after.read_text().splitlines()
    differences = [(number, a, b) for number, (a, b) in enumerate(zip(one, other, strict=False), 1) if a != b]
    for number, a, b in differences[:5]:
        print(f"line {number}\n  {a}\n  {b}")
    print(f"{len(one)} and {len(other)} lines, {len(differences)} differ")
    return int(bool(differences) or len(one) != len(other))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="hold the conversation and write down what was said")
    recording.add_argument("target", type=Path)
    recording.add_argument("--frames", type=int, default=10_000)
    comparing = commands.add_parser("compare", help="say where two recordings differ; 1 if they do")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "compare":
        return compare(arguments.before, arguments.after)
    lines = asyncio.run(record(arguments.frames))
    arguments.target.write_text("\n".join(lines) + "\n")
    print(f"{len(lines)} lines in {arguments.target}; heard: {dict(kinds(lines))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
