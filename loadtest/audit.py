"""The audit: does any subscriber miss, repeat or reorder a kept message while everything around it breaks?

    python loadtest/audit.py --seconds 60

It starts a real cluster of its own. Publishers on every replica number their messages per channel. (One appends
directly through Redis, and repeats with an idempotency key until it gets an answer.) Subscribers on every replica
write down what they get. If they are dropped they come back on another replica with their cursor; on an error they
stay. Meanwhile bus connections are killed several times a second, replicas are killed with -9, Redis is restarted,
and some subscribers leave on purpose. Now and then those come back just as Redis hangs, or is down.

With `--appendfsync everysec` each restart of Redis may have lost something, as far as the cluster can know, so logs
begin new epochs and gaps are said aloud. What Redis itself has lost by being killed nobody can deliver: it may be
missing, if the reader was told of a gap. What is in the log at the end must have come to every reader all the same.

The exit status is 0 if nothing that is kept or was acknowledged was lost, nothing came twice or out of order, no gap
went unsaid or was said without a reason, no socket was closed but those of a killed replica, and no replica met with
an error that nobody expected.
"""

# ruff: noqa: S311 - dice, not secrets

import argparse
import asyncio
import contextlib
import itertools
import json
import logging
import os
import random
import re
import signal
import sys
import tempfile
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Container, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import msgspec  # noqa: E402
from websockets.asyncio.client import ClientConnection, connect  # noqa: E402
from websockets.exceptions import ConnectionClosed, WebSocketException  # noqa: E402

from heliograph.backends.redis import server as redis_backend  # noqa: E402
from heliograph.backends.redis.client import connect as connect_redis  # noqa: E402
from heliograph.backends.redis.keys import Keys  # noqa: E402
from heliograph.backends.redis.log import RedisLog  # noqa: E402
from heliograph.codecs.plain.cursor import format_cursor, parse_cursor  # noqa: E402
from heliograph.errors import BusUnavailable  # noqa: E402
from heliograph.ports import Draft, ReadRequest  # noqa: E402
from heliograph.protocol.channel_options import Namespace  # noqa: E402
from heliograph.protocol.namespace import Namespaces  # noqa: E402
from heliograph.protocol.position import Position  # noqa: E402
from loadtest.ledger import Positions  # noqa: E402
from loadtest.verdicts import Verdicts, check_verdicts  # noqa: E402
from tests.support.appending import append  # noqa: E402
from tests.support.cluster import LocalClusterProcess  # noqa: E402
from tests.support.redis_server import RedisServer  # noqa: E402

REPLICAS = 3
CHANNELS = ("audit:a", "audit:b", "audit:{우주여행고양이}")
USERS = ("민지", "bob")
HISTORY: Final[dict[str, dict[str, Any]]] = {
    "audit": {"history_size": 100_000, "history_ttl_s": 86_400},
    "#": {"history_size": 100_000, "history_ttl_s": 86_400, "client_publish": False},
}
AGAIN_S = 0.2  # until a subscriber asks again for a channel that it was refused
MISSED_S = 0.5  # how long subscribers stay away before Redis fails them
DOWN_S = 0.2
HANGS_S = (2.0, 3.0)
HURT_S = 3.0  # a socket that ends so soon after its replica was killed was ended by that
TRACEBACK: Final = re.compile(r"(?:.*\n)?.*Traceback.*(?:\n.*){0,24}")  # with what is said before it, and after it
ANSWER_S = 5.0  # how long an acknowledgement may take before nobody knows

Number = tuple[str, int]  # who published it, and which of theirs it is


@dataclass
class Ledger:
    """The messages sent and received, and the faults injected."""

    acknowledged: dict[str, set[Number]] = field(default_factory=lambda: defaultdict(set))  # by channel
    unanswered: int = 0
    errors: int = 0  # errors that subscribers got, and stayed
    killed_at: dict[int, float] = field(default_factory=dict)  # port -> when the replica there was last killed
    faults: Counter[str] = field(default_factory=Counter)
    unhurt_closes: list[str] = field(default_factory=list)
    publishing: bool = True


class Book(Positions):
    """What one subscriber got on one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.got: list[tuple[Position, Number]] = []

    def note(self, position: Position, number: Number) -> None:
        self.take(position)
        self.got.append((position, number))


class Subscriber:
    """A user on one channel (and on their own), who comes back with their cursor whatever happens."""

    def __init__(self, name: str, ledger: Ledger, ports: list[int], *, user: str, channel: str, leaves: bool) -> None:
        self.name = name
        self.books = {f"#{user}": Book(), channel: Book()}
        self.connects = 0
        self._ledger = ledger
        self._ports = ports
        self.user = user
        self._channel = channel
        self._socket: ClientConnection | None = None
        self._is_welcome = asyncio.Event()
        self._is_welcome.set()
        self.leaves = leaves

    async def run(self) -> None:
        for port in itertools.chain([self._ports[0]], self._elsewhere()):
            await self._is_welcome.wait()
            try:
                await self._visit(port)
            except (OSError, TimeoutError, WebSocketException) as error:
                if isinstance(error, ConnectionClosed):
                    self._judge(port, error)
                await asyncio.sleep(random.uniform(0, 0.1))

    async def stay_away(self) -> None:
        """Leave, and do not come back before `come_back`."""
        self._is_welcome.clear()
        if self._socket is not None:
            await self._socket.close()

    def come_back(self) -> None:
        self._is_welcome.set()

    def _elsewhere(self) -> Any:
        while True:
            yield random.choice(self._ports)

    def _judge(self, port: int, error: ConnectionClosed) -> None:
        was_hurt = time.monotonic() - self._ledger.killed_at.get(port, -HURT_S) < HURT_S
        if self._is_welcome.is_set() and not was_hurt:
            self._ledger.unhurt_closes.append(f"{self.name} on {port}: {error}")

    async def _visit(self, port: int) -> None:
        """One connection: until it ends, or we leave."""
        own = self.books[f"#{self.user}"]
        query = f"user={quote(self.user)}"
        if own.position is not None:
            query += f"&cursor={quote(format_cursor({f'#{self.user}': own.position}), safe='')}"
        async with connect(
            f"ws://127.0.0.1:{port}/ws?{query}", proxy=None, compression=None, open_timeout=3
        ) as socket:
            self.connects += 1
            self._socket = socket
            await self._subscribe(socket)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(random.uniform(0.2, 4) if self.leaves else None):
                    while True:
                        frame = json.loads(await socket.recv())
                        self._note(frame)
                        if frame["type"] == "error" and "id" in frame:
                            await asyncio.sleep(AGAIN_S)
                            await self._subscribe(socket)

    async def _subscribe(self, socket: ClientConnection) -> None:
        """Ask for the channel, from where we stand."""
        subscribe: dict[str, Any] = {"type": "subscribe", "channel": self._channel, "id": 1}
        if (position := self.books[self._channel].position) is not None:
            subscribe["cursor"] = format_cursor({self._channel: position})
        await socket.send(json.dumps(subscribe))

    def _note(self, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "connected":
                own = self.books[f"#{self.user}"]
                if own.position is None and frame["cursor"]:
                    own.begins(parse_cursor(frame["cursor"])[f"#{self.user}"], recovered=False)
            case "subscribed":
                channel = frame["channel"]
                self.books[channel].begins(parse_cursor(frame["cursor"])[channel], recovered=frame["recovered"])
            case "message":
                channel = frame["channel"]
                publisher, number = frame["data"]
                self.books[channel].note(parse_cursor(frame["cursor"])[channel], (publisher, number))
            case "error":
                self._ledger.errors += 1


async def publish_through(ledger: Ledger, port_of: list[int], name: str, per_s: float) -> None:
    """Publish numbered messages through replicas. A message without an answer counts as unknown; the next follows."""
    numbers = itertools.count(1)
    ports = itertools.cycle(port_of)
    while ledger.publishing:
        port = next(ports)
        try:
            async with connect(
                f"ws://127.0.0.1:{port}/ws?user={name}", proxy=None, compression=None, open_timeout=3
            ) as socket:
                await _publish_on(ledger, socket, name, numbers, per_s)
        except ConnectionClosed as error:
            if time.monotonic() - ledger.killed_at.get(port, -HURT_S) >= HURT_S:
                ledger.unhurt_closes.append(f"{name} on {port}: {error}")
        except (OSError, TimeoutError, WebSocketException):
            await asyncio.sleep(0.1)


async def _publish_on(
    ledger: Ledger, socket: ClientConnection, name: str, numbers: "itertools.count[int]", per_s: float
) -> None:
    while ledger.publishing:
        number = next(numbers)
        channel = random.choice([*CHANNELS, *(f"#{user}" for user in USERS)])
        frame: dict[str, Any] = {"data": [name, number], "id": number}
        if channel.startswith("#"):
            frame |= {"type": "send", "to": channel[1:]}
        else:
            frame |= {"type": "publish", "channel": channel}
        ledger.unanswered += 1
        await socket.send(json.dumps(frame))
        async with asyncio.timeout(ANSWER_S):
            while (answer := json.loads(await socket.recv())).get("id") != number:
                pass
        if answer["type"] == "ack":
            ledger.unanswered -= 1
            ledger.acknowledged[channel].add((name, number))
        await asyncio.sleep(random.expovariate(per_s))


async def append_through(ledger: Ledger, log: RedisLog, name: str, per_s: float) -> None:
    """Append numbered messages directly to the log, and repeat each with its idempotency key until an answer."""
    namespaces = Namespaces({space: Namespace(**options) for space, options in HISTORY.items()})
    for number in itertools.count(1):
        if not ledger.publishing:
            return
        channel = random.choice([*CHANNELS, *(f"#{user}" for user in USERS)])
        draft = Draft(
            channel=channel,
            data=msgspec.Raw(msgspec.json.encode([name, number])),
            message_id=uuid.uuid4().hex,
            sent_at="2026-01-01T00:00:00Z",
            idempotency_key=f"{name}-{number}",
        )
        while True:
            try:
                await append(log, draft, namespaces.of(channel), lease="")
            except BusUnavailable:
                await asyncio.sleep(0.1)
            else:
                break
        if random.random() < 0.2:  # as if the answer had been lost
            with contextlib.suppress(BusUnavailable):
                await append(log, draft, namespaces.of(channel), lease="")
        ledger.acknowledged[channel].add((name, number))
        await asyncio.sleep(random.expovariate(per_s))


async def kill_bus_connections(ledger: Ledger, redis: RedisServer) -> None:
    while True:
        await asyncio.sleep(random.uniform(0.1, 0.5))
        killed = await asyncio.to_thread(redis.command, "CLIENT", "KILL", "TYPE", "pubsub")
        ledger.faults["bus connections killed"] += int(killed) if killed.isdigit() else 0


async def stall_redis(ledger: Ledger, redis: RedisServer) -> None:
    """Stall Redis for some time, for publishers and for the bus."""
    while True:
        await asyncio.sleep(random.uniform(1, 3))
        if await asyncio.to_thread(redis.command, "CLIENT", "PAUSE", "400", "ALL") == "OK":
            ledger.faults["Redis stalled"] += 1


async def kill_replicas(ledger: Ledger, cluster: LocalClusterProcess, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        index = random.randrange(REPLICAS)
        pid = (await asyncio.to_thread(cluster.pids)).get(f"replica-{index + 1}")
        if pid is not None:
            ledger.killed_at[_ports(cluster)[index]] = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            ledger.faults["replicas killed"] += 1


async def restart_redis(ledger: Ledger, redis: RedisServer, one_at_a_time: asyncio.Lock, every_s: float) -> None:
    for gently in itertools.cycle([True, False]):
        await asyncio.sleep(every_s)
        async with one_at_a_time:
            await asyncio.to_thread(redis.restart, gently=gently)
        ledger.faults["Redis restarted"] += 1


async def fail_those_who_return(
    ledger: Ledger, redis: RedisServer, readers: list[Subscriber], one_at_a_time: asyncio.Lock, every_s: float
) -> None:
    """Let some subscribers leave, miss a few messages, and come back just as Redis hangs or is down."""
    some = [reader for reader in readers if reader.leaves]
    for hangs in itertools.cycle([True, False]):
        await asyncio.sleep(every_s)
        async with one_at_a_time:
            await asyncio.gather(*(reader.stay_away() for reader in some))
            await asyncio.sleep(MISSED_S)
            if hangs:
                redis.freeze()
            else:
                await asyncio.to_thread(redis.stop)
            try:
                for reader in some:
                    reader.come_back()
                await asyncio.sleep(random.uniform(*HANGS_S) if hangs else DOWN_S)
            finally:
                if hangs:
                    redis.thaw()
                else:
                    redis.start()
        ledger.faults["Redis hung as users came back" if hangs else "Redis was down as users came back"] += 1


def _ports(cluster: LocalClusterProcess) -> list[int]:
    return [cluster.port + 1 + index for index in range(REPLICAS)]


async def _rest(seconds: float, jobs: list[Coroutine[Any, Any, None]]) -> None:
    """Run the jobs for `seconds`. One that fails ends the audit."""
    tasks = [asyncio.create_task(job) for job in jobs]
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def audit(
    seconds: float, rate: float, subscribers: int, appendfsync: str, directory: Path, verdicts: int = 0
) -> int:
    """Run the audit. Return the exit status. `verdicts`: for so many messages, ask what became of them."""
    key, judged = uuid.uuid4().hex, Verdicts()
    ledger = Ledger()
    redis = RedisServer(directory, appendonly=True, options=("--appendfsync", appendfsync)).start()
    environment: dict[str, Any] = {
        "HELIOGRAPH_REDIS__URL": redis.url,
        "HELIOGRAPH_LIMITS__MESSAGES_PER_SECOND": "0",
        "HELIOGRAPH_LIMITS__REQUESTS_PER_SECOND": "0",
        "HELIOGRAPH_LIMITS__REQUESTS_PER_SECOND_PER_ADDRESS": "0",
        "HELIOGRAPH_LIMITS__USER_MESSAGES_PER_SECOND": "0",
        "HELIOGRAPH_LIMITS__USER_BYTES_PER_SECOND": "0",
        "HELIOGRAPH_LIMITS__RECIPIENT_MESSAGES_PER_SECOND": "0",
        "HELIOGRAPH_LIMITS__CONNECTIONS_PER_USER": "0",
        "HELIOGRAPH_NAMESPACES": json.dumps(HISTORY),
        "HELIOGRAPH_API__KEY": key,
        "HELIOGRAPH_TRACE__NOTES": "200000",
    }
    client = connect_redis(redis.url)
    keys = Keys("heliograph:", "events")
    log = RedisLog(redis_backend.RedisServer(client, keys))
    try:
        with LocalClusterProcess(directory / "log", replicas=REPLICAS, **environment) as cluster:
            ports = _ports(cluster)
            readers = [
                Subscriber(
                    f"subscriber-{i}",
                    ledger,
                    ports[i % REPLICAS :] + ports[: i % REPLICAS],
                    user=USERS[i // REPLICAS % len(USERS)],
                    channel=CHANNELS[i % len(CHANNELS)] if i % 4 else CHANNELS[0],
                    leaves=i % 2 == 1,
                )
                for i in range(subscribers)
            ]
            reading = [asyncio.create_task(reader.run(), name=reader.name) for reader in readers]
            await _wait(lambda: all(book.position for reader in readers for book in reader.books.values()), 20)
            writing = [
                asyncio.create_task(publish_through(ledger, ports[i:] + ports[:i], f"publisher-{i + 1}", rate))
                for i in range(REPLICAS)
            ]
            writing.append(asyncio.create_task(append_through(ledger, log, "appender", rate)))
            pause_s = min(10.0, seconds / 3)
            one_at_a_time = asyncio.Lock()
            await _rest(
                seconds,
                [
                    kill_bus_connections(ledger, redis),
                    stall_redis(ledger, redis),
                    kill_replicas(ledger, cluster, pause_s),
                    restart_redis(ledger, redis, one_at_a_time, pause_s * 1.3),
                    fail_those_who_return(ledger, redis, readers, one_at_a_time, pause_s / 2),
                ],
            )
            for reader in readers:
                reader.come_back()
            ledger.publishing = False
            await asyncio.wait_for(asyncio.gather(*writing), 30)
            tops = {name: await _top(log, name) for name in ledger.acknowledged}
            late = await _settle(readers, tops)
            kept = {name: await _kept(log, name) for name in ledger.acknowledged}
            if verdicts:
                urls = [f"http://127.0.0.1:{port}" for port in ports]
                got = _got(readers)
                judged = await check_verdicts(urls, key, log, USERS, list(ledger.acknowledged), got, verdicts)
            for task in [*reading, *writing]:
                if task.done() and not task.cancelled():
                    task.result()
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)
            output = cluster.output()
    finally:
        await client.aclose()
        redis.stop()
    return report(ledger, readers, kept, late, output, judged, may_gap=appendfsync != "always")


def _got(readers: list[Subscriber]) -> dict[tuple[str, str], set[Position]]:
    """What the subscribers of each user have got on each channel."""
    got: dict[tuple[str, str], set[Position]] = defaultdict(set)
    for reader in readers:
        for channel, book in reader.books.items():
            got[reader.user, channel] |= {position for position, _ in book.got}
    return got


async def _top(log: RedisLog, channel: str) -> Position:
    """Where the channel stands: in a new epoch, if Redis has restarted and nobody has looked since."""
    [at] = await log.read([ReadRequest(channel)])
    return at.position


async def _kept(log: RedisLog, channel: str) -> set[Number]:
    """All that is in the log of the channel."""
    [page] = await log.read([ReadRequest(channel, replay=True)])
    publications = page.publications
    while page.publications and (last := page.publications[-1].position) != page.position:
        [page] = await log.read([ReadRequest(channel, after=last)])
        publications += page.publications
    return {(name, number) for name, number in (json.loads(bytes(each.data)) for each in publications)}


async def _wait(condition: Any, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


async def _settle(readers: list[Subscriber], tops: dict[str, Position]) -> list[str]:
    """Wait until everybody stands where the log does; returns who does not get there."""

    def behind() -> list[str]:
        return [
            f"{reader.name} {channel} at {book.position} of {tops[channel]}"
            for reader in readers
            for channel, book in reader.books.items()
            if channel in tops and book.position != tops[channel]
        ]

    await _wait(lambda: not behind(), 15)
    return behind()


def report(
    ledger: Ledger,
    readers: list[Subscriber],
    kept: dict[str, set[Number]],
    late: list[str],
    output: str,
    judged: Verdicts,
    *,
    may_gap: bool,
) -> int:
    """Print the result. Return 1 if anything is wrong.

    `kept`: what the logs hold at the end, by channel. `may_gap`: Redis may lose what it has acknowledged, and the
    cluster has a reason to say so aloud.
    """
    books = [(reader.name, channel, book) for reader in readers for channel, book in reader.books.items()]
    lost: list[str] = []
    told: list[str] = []
    undelivered: list[str] = []
    doubled: list[str] = []
    at: dict[tuple[str, Position], Number] = {}
    for name, channel, book in books:
        numbers = Counter(number for _, number in book.got)
        doubled += [f"{name} {channel}: {number} twice" for number, count in numbers.items() if count > 1]
        gone = ledger.acknowledged[channel] - kept.get(channel, set())
        (told if may_gap and book.gaps else lost).extend(_missing(name, channel, gone, numbers))
        undelivered += _missing(name, channel, kept.get(channel, set()), numbers)
        for position, number in book.got:
            if at.setdefault((channel, position), number) != number:
                doubled.append(f"{name} {channel}: {position} is {number} and {at[channel, position]}")
    disordered = [f"{name} {channel}: {each}" for name, channel, book in books for each in book.disordered]
    for name, channel, book in books:
        last: dict[str, int] = {}
        for _, (publisher, count) in book.got:
            if count < last.get(publisher, 0):
                disordered.append(f"{name} {channel}: {publisher} {count} after {last[publisher]}")
            last[publisher] = count
    doubled += [f"{name} {channel}: {each}" for name, channel, book in books for each in book.doubled]
    unsignalled = [f"{name} {channel}: {each}" for name, channel, book in books for each in book.unsignalled] + late
    gaps = [f"{name} {channel}: {before} -> {after}" for name, channel, book in books for before, after in book.gaps]
    wrong = {
        "kept but not delivered": undelivered,
        "acknowledged but lost": lost,
        "doubled": doubled,
        "out of order": disordered,
        "unsignalled gaps": unsignalled,
        "gaps said without a reason": [] if may_gap else gaps,
        "sockets closed without a kill": ledger.unhurt_closes,
        "tracebacks in the cluster's log": TRACEBACK.findall(output),
        "verdicts that are not so": judged.wrong,
    }
    facts = {
        "published and acknowledged": sum(map(len, ledger.acknowledged.values())),
        "published, no answer or refused": ledger.unanswered,
        "deliveries": sum(len(book.got) for *_, book in books),
        "connects of subscribers": sum(reader.connects for reader in readers),
        "errors told to subscribers": ledger.errors,
        **ledger.faults,
        "repairs inside replicas": output.count(": repaired "),
        "gaps said aloud": len(gaps),
        "acknowledged, and lost by Redis": sum(
            len(numbers - kept.get(channel, set())) for channel, numbers in ledger.acknowledged.items()
        ),
        "of these missing in gaps said aloud": len(told),
        "verdicts that agree": judged.agreeing,
        "verdicts of 'not known'": judged.not_known,
    }
    for name, count in facts.items():
        print(f"{name:<36}{count:>8}")
    print("-" * 44)
    for name, found in wrong.items():
        print(f"{name:<36}{len(found):>8}")
        for line in found[:5]:
            print(f"    {line}")
    return 1 if any(wrong.values()) else 0


def _missing(reader: str, channel: str, numbers: set[Number], got: Container[Number]) -> list[str]:
    return [f"{reader} {channel}: {number}" for number in sorted(numbers) if number not in got]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="how long to break things")
    parser.add_argument("--rate", type=float, default=30, help="publications a second of each of four publishers")
    parser.add_argument("--subscribers", type=int, default=12)
    parser.add_argument("--appendfsync", choices=["always", "everysec"], default="always", help="how Redis writes")
    parser.add_argument("--verdicts", type=int, default=0, help="ask `heliograph why` of so many random messages")
    parser.add_argument("--keep", type=Path, help="a directory for the cluster's log and Redis' files")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary:
        directory = options.keep or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        run = audit(
            options.seconds,
            options.rate,
            options.subscribers,
            options.appendfsync,
            directory,
            options.verdicts,
        )
        sys.exit(asyncio.run(run))


if __name__ == "__main__":
    main()
