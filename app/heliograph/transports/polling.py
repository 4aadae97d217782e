"""`/api/poll`: long polling. The same events with the same cursors, some at a time.

A client that polls is connected like any other, and stays so between polls: the directory and presence do not see
each request, and events between two polls wait here. A poll that continues exactly where the last answer ended gets
the waiting events, without a call to Redis; any other poll starts again from its cursor.
"""

import asyncio
from collections.abc import Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from heliograph.auth.authenticator import Authenticator, Identity, credentials_of
from heliograph.cluster.node import Node
from heliograph.codecs.plain.cursor import stated
from heliograph.errors import BusUnavailable, ErrorCode
from heliograph.protocol.operations import Connect
from heliograph.protocol.peer import Peer
from heliograph.tasks import end
from heliograph.transports.parked_polls import ParkedPolls, key_of, wait_of
from heliograph.transports.peers import Peers
from heliograph.transports.poll_connection import PollConnection
from heliograph.transports.poll_key import PollKey
from heliograph.transports.query import Query
from heliograph.transports.remote_client import Disconnected
from heliograph.transports.requests import CONTINUED, PER_CHANNEL, RequestRate


class PollEndpoint:
    """Answer `GET /api/poll`, and leave the connections of its clients to `parked` in between.

    `open_connection`: opens one for a client. It puts the task that joins its channels into the set.
    """

    def __init__(
        self,
        open_connection: Callable[[PollKey, Peer, set[asyncio.Task[None]]], PollConnection],
        authenticator: Authenticator,
        requests: RequestRate,
        node: Node,
        peers: Peers,
        parked: ParkedPolls,
    ) -> None:
        self._open_connection = open_connection
        self._authenticator = authenticator
        self._requests = requests  # by user
        self._node = node
        self._peers = peers
        self._parked = parked
        self._joining: set[asyncio.Task[None]] = set()

    async def serve(self, request: Request) -> Response:
        query = Query(request.scope)
        wait_s = wait_of(query)
        credentials = credentials_of(request.scope, query)
        peer = self._peers.of(request.scope, "poll")
        identity = await self._authenticator.identify(credentials, peer)
        if self._node.draining:
            raise Disconnected(ErrorCode.UNAVAILABLE, "this replica is shutting down")
        asked = key_of(identity, query)
        cost = CONTINUED if asked in self._parked else 1 + PER_CHANNEL * len(query.channels)
        self._requests.take(identity.user, cost)
        connection = self._parked.take(asked)
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
            body = self._parked.answer(asked, connection, events)
        except BaseException:
            connection.end()
            raise
        return Response(body, media_type="application/json")

    async def stop(self) -> None:
        """End all connections."""
        self._parked.end_all()
        await end(self._joining)

    async def _open(self, asked: PollKey, peer: Peer, connect: Connect, identity: Identity) -> PollConnection:
        while True:
            connection = self._open_connection(asked, peer, self._joining)
            try:
                await connection.begin(connect, identity)
            except Disconnected as refused:
                connection.end()
                # A parked one makes room: most likely its answer was lost, and its client polls again.
                if refused.code is not ErrorCode.CONNECTION_LIMIT or not self._parked.make_room(identity.user):
                    raise
            except BaseException:
                connection.end()
                raise
            else:
                return connection


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
