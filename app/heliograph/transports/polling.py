"""`/api/poll`: long polling. The same events with the same cursors, some at a time.

A client that polls is connected like any other, and stays so between polls: the directory and presence do not see
each request, and events between two polls wait here. A poll that continues exactly where the last answer ended gets
the waiting events, without a call to Redis; any other poll starts again from its cursor.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from heliograph.auth.authenticator import Authenticator, Identity, credentials_of
from heliograph.cluster.node import Node
from heliograph.codecs.plain.cursor import stated
from heliograph.errors import BusUnavailable, ErrorCode, HeliographError
from heliograph.protocol.operations import Connect
from heliograph.protocol.peer import Peer
from heliograph.tasks import end
from heliograph.transports.peers import Peers
from heliograph.transports.poll_connection import PollConnection, PollKey
from heliograph.transports.query import Query
from heliograph.transports.remote_client import Disconnected
from heliograph.transports.requests import CONTINUED, PER_CHANNEL, RequestRate

DEFAULT_WAIT_S = 25.0
MOST_WAIT_S = 50.0


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
class Continued:
    """A poll that continues one whose connection is waiting for it."""

    asked: PollKey
    identity: Identity
    wait_s: float


class PollEndpoint:
    """Answer `GET /api/poll`, and keep the connections of its clients in between.

    `open_connection`: opens one for a client. It puts the task that joins its channels into the set.
    """

    def __init__(
        self,
        open_connection: Callable[[PollKey, Peer, set[asyncio.Task[None]]], PollConnection],
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
        asked = _key_of(identity, query)
        cost = CONTINUED if asked in self._parked else 1 + PER_CHANNEL * len(query.channels)
        self._requests.take(identity.user, cost)
        connection = self._take(asked)
        if connection is None:
            connect = Connect(
                credentials.token,
                credentials.user,
                stated(asked.cursor),
                replay="replay" in query,
                device=query.get("device"),
            )
            connection = await self._open(asked, peer, connect, identity)
        else:
            connection.driver.expire_at(identity.expires_at)
        try:
            events = await _collected(connection, wait_s if asked.cursor else 0, request.receive)
        except BaseException:
            connection.end()
            raise
        return Response(self._answer(asked, connection, events), media_type="application/json")

    def _answer(self, asked: PollKey, connection: PollConnection, events: list[msgspec.Raw]) -> bytes:
        """Return the body of an answer, and let the connection wait for the next poll."""
        cursor = connection.cursor
        self._park(connection, msgspec.structs.replace(asked, cursor=cursor))
        return msgspec.json.encode(PollResponse(asked.who.user, self._node.name, cursor, events))

    def find(self, scope: Scope) -> Continued | None:
        """Return the poll of this request if nothing has to be awaited for it; None: `serve` has to answer it.

        Raises:
            HeliographError: the request is wrong, and `serve` says how.
        """
        query = Query(scope)
        wait_s = wait_of(query)
        identity = self._authenticator.identify_now(credentials_of(scope, query))
        if identity is None or self._node.draining:
            return None
        asked = _key_of(identity, query)
        return Continued(asked, identity, wait_s) if asked in self._parked else None

    def resume(self, poll: Continued, done: Callable[[bytes | None], object]) -> Callable[[], None] | None:
        """Continue the poll. `done` gets the body of its answer, now or later; None: `serve` has to answer after all.

        Return what to call if the client leaves before; None if nothing was begun, as the user polls too often.
        """
        if not self._requests.try_to_take(poll.identity.user, CONTINUED):
            return None
        connection = self._take(poll.asked)
        if connection is None:
            return None
        connection.driver.expire_at(poll.identity.expires_at)

        def collected(result: list[msgspec.Raw] | BusUnavailable | Disconnected) -> None:
            if isinstance(result, Exception):
                # `serve` finds the connection, which answers it the same, and says so. A new one would be let in.
                self._keep(connection, poll.asked)
                done(None)
            else:
                done(self._answer(poll.asked, connection, result))

        connection.collect(poll.wait_s, collected)
        return connection.on_client_left

    async def stop(self) -> None:
        """End all connections."""
        for connection in [each for connections in self._parked.values() for each in connections]:
            connection.end()
        await end(self._joining)

    async def _open(self, asked: PollKey, peer: Peer, connect: Connect, identity: Identity) -> PollConnection:
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

    def _take(self, asked: PollKey) -> PollConnection | None:
        connections = self._parked.get(asked)
        if not connections or not asked.cursor:
            return None
        connection = connections.pop()
        if not connections:
            del self._parked[asked]
        return connection

    def _park(self, connection: PollConnection, at: PollKey) -> None:
        if connection.closed is not None:
            connection.end()
        else:
            self._keep(connection, at)

    def _keep(self, connection: PollConnection, at: PollKey) -> None:
        self._parked.setdefault(at, []).append(connection)
        connection.park(self._linger_s, lambda: self._forget(connection, at))

    def _forget(self, connection: PollConnection, at: PollKey) -> None:
        connections = self._parked.get(at, [])
        if connection in connections:
            connections.remove(connection)
            if not connections:
                del self._parked[at]


async def _collected(connection: PollConnection, wait_s: float, receive: Receive) -> list[msgspec.Raw]:
    """Await the events of a poll. A client that leaves meanwhile ends it."""
    future: asyncio.Future[list[msgspec.Raw]] = asyncio.get_running_loop().create_future()

    def done(result: list[msgspec.Raw] | BusUnavailable | Disconnected) -> None:
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)

    connection.collect(wait_s, done)
    if future.done():
        return future.result()
    watching = asyncio.create_task(_watch(receive, connection), name="poll-watch")
    try:
        return await future
    finally:
        await end([watching])


async def _watch(receive: Receive, connection: PollConnection) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    connection.on_client_left()


def _key_of(identity: Identity, query: Query) -> PollKey:
    who = msgspec.structs.replace(identity, expires_at=None, data=None)
    return PollKey(who, query.channels, query.get("cursor", ""), query.get("device", ""))


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
