"""`GET /api/poll` that continues the last poll: no application, no task, an answer in the iteration of its events."""

from collections.abc import Callable
from functools import partial

import msgspec
from starlette.datastructures import Headers
from starlette.types import Scope

from heliograph.auth.authenticator import Authenticator, credentials_of
from heliograph.cluster.node import Node
from heliograph.errors import BusUnavailable, HeliographError
from heliograph.transports.address_limits import AddressLimits
from heliograph.transports.addresses import address_of
from heliograph.transports.origins import OriginPolicy
from heliograph.transports.parked_polls import ParkedPolls, key_of, wait_of
from heliograph.transports.poll_connection import PollConnection
from heliograph.transports.poll_key import PollKey
from heliograph.transports.query import Query
from heliograph.transports.remote_client import Disconnected
from heliograph.transports.requests import CONTINUED, RequestRate


class DirectPoll:
    """The `DirectGet`. Whatever is not as it should be is left to `PollEndpoint`, which says what is wrong.

    `requests`: the rate of each user's.
    """

    def __init__(
        self,
        parked: ParkedPolls,
        authenticator: Authenticator,
        requests: RequestRate,
        node: Node,
        origins: OriginPolicy,
        by_address: AddressLimits,
    ) -> None:
        self._parked = parked
        self._authenticator = authenticator
        self._requests = requests
        self._node = node
        self._origins = origins
        self._by_address = by_address

    def begin(self, scope: Scope, answer: Callable[[bytes | None, bytes], object]) -> Callable[[], None] | None:
        """See `DirectGet`."""
        if self._node.draining or not self._origins.admits(scope["headers"]):
            return None
        try:
            query = Query(scope)
            wait_s = wait_of(query)
            identity = self._authenticator.identify_now(credentials_of(scope, query))
        except HeliographError:
            return None
        if identity is None:
            return None
        asked = key_of(identity, query)
        if asked not in self._parked or not self._by_address.requests.try_to_take(address_of(scope)):
            return None
        address = self._by_address.connections.enter(scope)
        if address is None:
            return None
        connection = self._parked.take(asked) if self._requests.try_to_take(identity.user, CONTINUED) else None
        if connection is None:
            self._by_address.connections.leave(address)
            return None
        try:
            connection.driver.expire_at(identity.expires_at)
            collected = partial(self._collected, asked, connection, address, answer, self._fields(scope))
            connection.collect(wait_s, collected)
        except BaseException:
            connection.end()
            self._by_address.connections.leave(address)
            raise
        return connection.on_client_left

    def _collected(
        self,
        asked: PollKey,
        connection: PollConnection,
        address: str,
        answer: Callable[[bytes | None, bytes], object],
        fields: bytes,
        result: list[msgspec.Raw] | BusUnavailable | Disconnected,
    ) -> None:
        """Answer the poll, now or later."""
        if isinstance(result, Exception):
            # `PollEndpoint` finds the connection, which answers it the same, and says so. A new one would be let in.
            self._parked.keep(connection, asked)
            body = None
        else:
            body = self._parked.answer(asked, connection, result)
        self._by_address.connections.leave(address)
        answer(body, fields)

    def _fields(self, scope: Scope) -> bytes:
        """Return the header fields of the answer, as `PublicEndpoint` sets them."""
        fields = b"cache-control: no-store\r\nvary: Origin\r\n"
        if not any(name == b"origin" for name, _ in scope["headers"]):
            return fields
        headers = Headers(scope=scope)
        origin = headers["origin"]
        if self._origins.is_another(origin, headers.get("host", "")):
            fields += b"access-control-allow-origin: %b\r\n" % origin.encode("latin-1")
            fields += b"access-control-expose-headers: Retry-After\r\n"
        return fields
