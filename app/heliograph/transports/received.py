"""`POST /api/received`: what a device has received, said by a client that cannot send: one with a stream or polls.

Any replica answers, so the positions are checked against the channels' logs, and not against a connection.
"""

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from heliograph.auth.authenticator import Authenticator, credentials_of
from heliograph.cluster.reading import Reading
from heliograph.cluster.receipts import ReceiptWriter
from heliograph.codecs.plain.cursor import parse_cursor
from heliograph.errors import ErrorCode
from heliograph.protocol.identity import check_channel, check_device, personal_channel, user_of
from heliograph.transports.body import read_body
from heliograph.transports.http import refusal
from heliograph.transports.peers import Peers
from heliograph.transports.query import Query
from heliograph.transports.receiving import check_received
from heliograph.transports.requests import RequestRate

MOST_BYTES = 65_536


class Said(msgspec.Struct, frozen=True):
    """The body of a request. `cursor`: of messages, joined with `&`; `device`: as the client has named it."""

    cursor: str
    device: str = ""


class ReceivedEndpoint:
    """Note what a client has received. `most_channels`: in one request, beside the user's own."""

    def __init__(
        self,
        reading: Reading,
        receipts: ReceiptWriter,
        authenticator: Authenticator,
        requests: RequestRate,
        peers: Peers,
        *,
        most_channels: int,
    ) -> None:
        self._reading = reading
        self._receipts = receipts
        self._authenticator = authenticator
        self._requests = requests  # by user
        self._peers = peers
        self._most_channels = most_channels

    async def serve(self, request: Request) -> Response:
        credentials = credentials_of(request.scope, Query(request.scope))
        identity = await self._authenticator.identify(credentials, self._peers.of(request.scope, "http"))
        self._requests.take(identity.user)
        body = await read_body(request, MOST_BYTES)
        if body is None:
            return refusal(ErrorCode.BAD_REQUEST, f"the body is larger than {MOST_BYTES} bytes")
        try:
            said = msgspec.json.decode(body, type=Said)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return refusal(ErrorCode.BAD_REQUEST, f'the body is not {{"cursor":"…","device":"…"}}: {error}')
        device = check_device(said.device) if said.device else ""
        positions = dict(parse_cursor(said.cursor, self._most_channels).named)
        for channel in positions:
            check_channel(channel)
            if user_of(channel) not in (None, identity.user):
                return refusal(ErrorCode.NOT_ALLOWED, f"{channel!r} is the own channel of another user")
        if not positions:
            return refusal(ErrorCode.BAD_REQUEST, "the cursor names no channel")
        tops, own = await self._reading.tops(positions), personal_channel(identity.user)
        mine = {channel: position for channel, position in positions.items() if channel == own}
        others = {channel: position for channel, position in positions.items() if channel != own}
        why = check_received(mine, tops, "the cluster has kept") or check_received(others, tops, "")
        if why is not None:
            return refusal(why.code, why.message)
        self._receipts.take(identity.user, device, positions)
        return Response(b"{}", media_type="application/json")
