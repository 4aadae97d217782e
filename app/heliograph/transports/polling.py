"""`/api/poll`: long polling. The same events with the same cursors, some at a time.

A client that polls is connected like any other, and stays so between polls: the directory and presence do not see
each request, and events between two polls wait here. A poll that continues exactly where the last answer ended gets
the waiting events, without a call to Redis; any other poll starts again from its cursor.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from heliograph.auth.authenticator import Authenticator, Identity, credentials_of
from heliograph.cluster.node import Node
from heliograph.codecs.plain.bookmark import Bookmark
from heliograph.codecs.plain.cursor import stated
from heliograph.errors import BusUnavailable, ErrorCode, HeliographError
from heliograph.hub.frames import Encoding, EventFrame
from heliograph.hub.outbox import Outbox, Outboxes
from heliograph.protocol.actions import JoinChannel
from heliograph.protocol.codes import CloseCode, is_final
from heliograph.protocol.events import Connected, InitialState, Subscribed, positions_after
from heliograph.protocol.identity import personal_channel
from heliograph.protocol.operations import Connect
from heliograph.protocol.peer import Peer
from heliograph.protocol.position import NOWHERE, Position, ReadPositions
from heliograph.tasks import end
from heliograph.transports.driver import Disconnected, Drivers
from heliograph.transports.peers import Peers
from heliograph.transports.query import Query
from heliograph.transports.requests import CONTINUED, PER_CHANNEL, RequestRate

logger = logging.getLogger(__name__)

DEFAULT_WAIT_S = 25.0
MOST_WAIT_S = 50.0
ENDED: Final[Mapping[int, ErrorCode]] = {
    CloseCode.EXPIRED: ErrorCode.INVALID_TOKEN,
    CloseCode.FORCED: ErrorCode.NOT_ALLOWED,
    CloseCode.INTERNAL_ERROR: ErrorCode.INTERNAL,
}  # answers to a poll whose connection was closed while it waited


def refusal_after(code: int) -> ErrorCode | None:
    """Return what a poll is refused with after its connection was closed with `code`; None: the client continues."""
    return ENDED.get(code) or (ErrorCode.NOT_ALLOWED if is_final(code) else None)


class BadWait(HeliographError):
    """A `wait` that is not valid."""

    code = ErrorCode.BAD_REQUEST


class PollResponse(msgspec.Struct, frozen=True):
    """`cursor`: the client's positions after the events; it passes it to the next poll."""

    user: str
    replica: str
    cursor: str
    events: list[msgspec.Raw]


@dataclass(frozen=True, slots=True)
class PollKey:
    """What two polls must have in common for one to continue the other."""

    who: Identity
    channels: tuple[str, ...]
    cursor: str


class PollEndpoint:
    """Answer `GET /api/poll`, and keep the connections of its clients in between.

    `open_connection`: opens one for a client. It puts the task that joins its channels into the set.
    """

    def __init__(
        self,
        open_connection: "Callable[[PollKey, Peer, set[asyncio.Task[None]]], PollConnection]",
        authenticator: Authenticator,
        requests: RequestRate,
        node: Node,
        peers: Peers,
        *,
        linger_s: float,
    ) -> None:
        self._open_connection = open_connection
        self._authenticator = authenticator
        self._requests = requests  # by user
        self._node = node
        self._peers = peers
        self._linger_s = linger_s
        self._parked: dict[PollKey, list[PollConnection]] = {}  # those without a waiting poll, oldest first
        self._joining: set[asyncio.Task[None]] = set()

    async def serve(self, request: Request) -> Response:
        query = Query(request.scope)
        wait_s = wait_of(query)
        credentials = credentials_of(request.scope, query)
        peer = self._peers.of(request.scope, "poll")
        identity = await self._authenticator.identify(credentials, peer)
        if self._node.draining:
            raise Disconnected(ErrorCode.UNAVAILABLE, "this replica is shutting down")
        asked = PollKey(replace(identity, expires_at=None), query.channels, query.get("cursor", ""))
        cost = CONTINUED if asked in self._parked else 1 + PER_CHANNEL * len(query.channels)
        self._requests.take(identity.user, cost)
        connection = self._take(asked)
        if connection is None:
            connect = Connect(credentials.token, credentials.user, stated(asked.cursor), replay="replay" in query)
            connection = await self._open(asked, peer, connect, identity)
        else:
            connection.driver.expire_at(identity.expires_at)
        try:
            events = await connection.collect(wait_s if asked.cursor else 0, request.receive)
        except BaseException:
            connection.end()
            raise
        self._park(connection, replace(asked, cursor=connection.cursor))
        answer = PollResponse(identity.user, self._node.name, connection.cursor, events)
        return Response(msgspec.json.encode(answer), media_type="application/json")

    async def stop(self) -> None:
        """End all connections."""
        for connection in [each for connections in self._parked.values() for each in connections]:
            connection.end()
        await end(self._joining)

    async def _open(self, asked: PollKey, peer: Peer, connect: Connect, identity: Identity) -> "PollConnection":
        while True:
            connection = self._open_connection(asked, peer, self._joining)
            try:
                await connection.begin(connect, identity)
            except Disconnected as refused:
                connection.end()
                # A parked one makes room: most likely its answer was lost, and its client polls again.
                if refused.code is not ErrorCode.CONNECTION_LIMIT or not self._make_room(identity.user):
                    raise
            except BaseException:
                connection.end()
                raise
            else:
                return connection

    def _make_room(self, user: str) -> bool:
        for asked, connections in self._parked.items():
            if asked.who.user == user:
                connections[0].end()
                return True
        return False

    def _take(self, asked: PollKey) -> "PollConnection | None":
        connections = self._parked.get(asked)
        if not connections or not asked.cursor:
            return None
        connection = connections.pop()
        if not connections:
            del self._parked[asked]
        return connection

    def _park(self, connection: "PollConnection", at: PollKey) -> None:
        if connection.closed is not None:
            connection.end()
            return
        self._parked.setdefault(at, []).append(connection)
        connection.park(self._linger_s, lambda: self._forget(connection, at))

    def _forget(self, connection: "PollConnection", at: PollKey) -> None:
        connections = self._parked.get(at, [])
        if connection in connections:
            connections.remove(connection)
            if not connections:
                del self._parked[at]


class PollConnection:
    """The connection of a client that polls, and the `Sink` with the events that it has not got yet."""

    def __init__(
        self,
        drivers: Drivers,
        outboxes: Outboxes,
        encoding: Encoding[EventFrame],
        asked: PollKey,
        peer: Peer,
        tasks: set[asyncio.Task[None]],
        *,
        most_bytes: int,
        most_channels: int,
    ) -> None:
        self.closed: tuple[int, str] | None = None
        self._most_bytes = most_bytes
        self._most_channels = most_channels
        self._outbox: Outbox[EventFrame] = outboxes.new(self)
        self.driver = drivers.new(encoding, self._outbox, peer=peer, channels=asked.channels)
        self._known: ReadPositions = NOWHERE  # the client's stated positions
        self._replays = False  # its own channel starts with everything that is kept, after `subscribed`
        self._tasks = tasks
        self._joining: asyncio.Task[None] | None = None
        self._failure: BusUnavailable | None = None  # why its events cannot be read
        self._frames: deque[EventFrame] = deque()
        self._bytes = 0
        self._news = 0  # how many of the waiting events the client must see
        self._bookmark = Bookmark()
        self._woken = asyncio.Event()
        self._poll_gone = False
        self._parked_until: asyncio.TimerHandle | None = None
        self._on_end: Callable[[], None] | None = None

    @property
    def cursor(self) -> str:
        """The client's positions, after everything that it got."""
        return str(self._bookmark)

    # -- the connection

    async def begin(self, connect: Connect, identity: Identity) -> None:
        """Connect, and begin to join the channels.

        Raises:
            Disconnected: the client is not let in.
            BadCursor: its cursor is not valid.
        """
        self._known = connect.since.read(self._most_channels)
        self._replays = connect.replay
        joins = await self.driver.enter(connect, identity)
        self._joining = asyncio.create_task(self._join_all(joins), name="poll-join")
        self._tasks.add(self._joining)
        self._joining.add_done_callback(self._tasks.discard)
        self._joining.add_done_callback(lambda _: self._woken.set())

    async def _join_all(self, joins: Sequence[JoinChannel]) -> None:
        try:
            for join in joins:
                await self.driver.join(join)
        except BusUnavailable as error:
            self._failure = error
        except Exception:
            logger.exception(
                "a poll failed with an unexpected error; its connection is closed", extra=self.driver.about
            )
            self.driver.connection.close(CloseCode.INTERNAL_ERROR, "internal error")
        finally:
            if self.closed is not None:
                self.driver.end()

    def end(self) -> None:
        """Disconnect. May be called more than once."""
        self._unpark()
        if self._joining is not None:
            self._joining.cancel()
        self._outbox.close(CloseCode.INTERNAL_ERROR, "nobody polls any more")
        self.driver.end()

    # -- between polls

    def park(self, for_s: float, on_end: Callable[[], None]) -> None:
        """Wait for the next poll for at most `for_s`. `on_end` is called at the end of the wait."""
        self._outbox.pause()
        self._on_end = on_end
        self._parked_until = asyncio.get_running_loop().call_later(for_s, self.end)

    def _unpark(self) -> None:
        if self._parked_until is not None:
            self._parked_until.cancel()
            self._parked_until = None
        if self._on_end is not None:
            on_end, self._on_end = self._on_end, None
            on_end()

    # -- as a sink

    def write(self, frames: list[EventFrame]) -> None:
        for frame in frames:
            self._frames.append(frame)
            self._bytes += len(frame)
            self._news += self._is_news(frame)
        self._woken.set()

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)
        self._woken.set()
        if self._parked_until is not None:
            self.end()

    def _is_news(self, frame: EventFrame) -> bool:
        """Return whether the client must see it. That it resumes from its own position is not news."""
        event = frame.event
        match event:
            case Connected():
                if not self._replays and personal_channel(event.user) not in event.positions:
                    self._failure = BusUnavailable("where your own channel stands cannot be read")
                return False
            case Subscribed():
                # The frame with a run's state does not name the run: the frame before it does.
                return not (event.recovered and self._knows(event.channel, event.position))
            case InitialState():
                return not self._knows(event.channel, event.position)
            case _:
                return True

    def _knows(self, channel: str, position: Position) -> bool:
        """Return whether the client has stated this position."""
        return self._known.position_in(channel) == position

    # -- polls

    async def collect(self, wait_s: float, receive: Receive) -> list[msgspec.Raw]:
        """Return the waiting events; if there are none, the next ones, or none after `wait_s` seconds.

        Raises:
            BusUnavailable: the client's positions cannot be read.
            Disconnected: the connection was closed, and the next poll would fail too.
        """
        deadline = asyncio.get_running_loop().time() + wait_s
        self._unpark()
        self._poll_gone = False
        if self._bytes < self._most_bytes:
            self._outbox.resume()
            self._outbox.flush()
        if not (self._news and self._is_joined()):
            watching = asyncio.create_task(self._watch(receive), name="poll-watch")
            try:
                await self._wait(lambda: self._is_joined() or self._bytes >= self._most_bytes)
                self._outbox.flush()
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(deadline):
                        await self._wait(lambda: self._news)
            finally:
                await end([watching])
        if self._failure is not None:
            raise self._failure
        events = [] if self._poll_gone else self._take()
        if self.closed is not None and not events and (code := refusal_after(self.closed[0])) is not None:
            raise Disconnected(code, self.closed[1])
        return events

    def _is_joined(self) -> bool:
        return self._joining is None or self._joining.done()

    async def _wait(self, condition: Callable[[], object]) -> None:
        while not (condition() or self.closed is not None or self._failure is not None or self._poll_gone):
            self._woken.clear()
            await self._woken.wait()

    async def _watch(self, receive: Receive) -> None:
        """Notice when the client gives this poll up."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._poll_gone = True
        self._woken.set()

    def _take(self) -> list[msgspec.Raw]:
        events, size = [], 0
        while self._frames and (size == 0 or size + len(self._frames[0]) <= self._most_bytes):
            frame = self._frames.popleft()
            self._bookmark.move(positions_after(frame.event))
            self._bytes -= len(frame)
            if self._is_news(frame):
                self._news -= 1
                size += len(frame)
                events.append(msgspec.Raw(frame.payload))
        return events


def wait_of(query: dict[str, str]) -> float:
    """Return `?wait=`: how long the client waits for an event, in seconds."""
    text = query.get("wait", "")
    try:
        wait_s = float(text) if text else DEFAULT_WAIT_S
    except ValueError:
        wait_s = -1
    if not 0 <= wait_s <= MOST_WAIT_S:
        raise BadWait(f"'wait' is a number of seconds from 0 to {MOST_WAIT_S:g}, not {text[:32]!r}")
    return wait_s
