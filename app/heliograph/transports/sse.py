"""`/sse`: the endpoint for `EventSource`. One request, then a stream of events."""

import logging
from collections.abc import AsyncIterator, Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from heliograph.auth.authenticator import Authenticator, Credentials, Identity, credentials_of
from heliograph.codecs.plain.cursor import RIGHT, stated
from heliograph.errors import BusUnavailable, HookUnavailable, KeysUnavailable
from heliograph.hub.frames import Encoding
from heliograph.hub.outbox import Outboxes
from heliograph.protocol.actions import JoinChannel
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.identity import personal_channel
from heliograph.protocol.operations import Connect
from heliograph.protocol.peer import Peer
from heliograph.transports.driver import Driver, Drivers
from heliograph.transports.event_stream import KEEP_ALIVE, MEDIA_TYPE, PREFACE, EventBlock, EventSink
from heliograph.transports.peers import Peers
from heliograph.transports.query import Query
from heliograph.transports.requests import PER_CHANNEL, RequestRate
from heliograph.transports.stream_response import StreamResponse, stream_for

logger = logging.getLogger(__name__)


class SseEndpoint:
    """Answer `GET /sse` with a stream, or with a refusal before it begins. `encoding`: see `in_block`."""

    def __init__(
        self,
        drivers: Drivers,
        outboxes: Outboxes,
        encoding: Encoding[EventBlock],
        authenticator: Authenticator,
        requests: RequestRate,
        peers: Peers,
        *,
        keep_alive_s: float,
    ) -> None:
        self._drivers = drivers
        self._outboxes = outboxes
        self._encoding = encoding
        self._authenticator = authenticator
        self._requests = requests  # by user
        self._peers = peers
        self._keep_alive_s = keep_alive_s

    async def serve(self, request: Request) -> Response:
        query = Query(request.scope)
        cursor, right = _parts_of_id(request.headers.get("last-event-id", ""))
        credentials = credentials_of(request.scope, query)
        peer = self._peers.of(request.scope, "sse")
        try:
            identity, right = await self._identify(credentials, peer, right)
        except (BusUnavailable, KeysUnavailable, HookUnavailable):
            if not right:
                raise
            return StreamingResponse(_again_soon(), media_type=MEDIA_TYPE)
        self._requests.take(identity.user, 1 + PER_CHANNEL * len(query.channels))
        cursor = cursor or query.get("cursor", "")
        stream = stream_for(request.scope, keep_alive_s=self._keep_alive_s)
        sink = EventSink(stream, self._outboxes, [personal_channel(identity.user), *query.channels], right)
        driver = self._drivers.new(self._encoding, sink.outbox, peer=peer, channels=query.channels)
        connect = Connect(
            credentials.token,
            credentials.user,
            stated(cursor),
            replay="replay" in query,
            device=query.get("device"),
        )
        try:
            joins = await driver.enter(connect, identity)
        except BaseException:
            driver.end()
            raise
        return StreamResponse(
            stream,
            sink,
            partial(_join_all, driver, joins),
            driver.end,
            media_type=MEDIA_TYPE,
            first=PREFACE,
            keep_alive=KEEP_ALIVE,
        )

    async def _identify(self, credentials: Credentials, peer: Peer, right: str) -> tuple[Identity, str]:
        """Return the client's identity, and its right to return if it came with a ticket (otherwise empty).

        A ticket is valid once. An `EventSource` reconnects with the same URL, and the last id that it got. So the ids
        of its stream hold a secret, and a request with both comes from the client of that stream.
        """
        authenticator, ticket = self._authenticator, credentials.ticket
        if ticket is None:
            return await authenticator.identify(credentials, peer), ""
        identity = await authenticator.identify_returning(ticket, right) if right else None
        if identity is None:
            identity, right = await authenticator.identify(credentials), ""
        try:
            right = await authenticator.keep_right_to_return(identity, ticket, right)
        except BusUnavailable as error:
            logger.debug("the right to reconnect to a stream was not kept: %s", error)
        return identity, right


async def _join_all(driver: Driver, joins: Sequence[JoinChannel]) -> None:
    try:
        for join in joins:
            await driver.join_or_say(join)
    except Exception:
        logger.exception("failed", extra=driver.about)
        driver.connection.close(CloseCode.INTERNAL_ERROR, "internal error")


def _parts_of_id(last_event_id: str) -> tuple[str, str]:
    """Split the id of an event: the client's cursor, and its right to return (empty: none)."""
    parts = last_event_id.split("&")
    rights = [part.removeprefix(RIGHT) for part in parts if part.startswith(RIGHT)]
    return "&".join(part for part in parts if not part.startswith(RIGHT)), rights[-1] if rights else ""


async def _again_soon() -> AsyncIterator[bytes]:
    """Return a stream that ends at once. An `EventSource` reconnects after it, but not after an error."""
    yield PREFACE
