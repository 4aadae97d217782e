"""`GET /api/poll` that continues the last poll: no application, no task, an answer in the iteration of its events."""

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import Scope

from heliograph.errors import HeliographError
from heliograph.transports.address_limits import AddressLimits
from heliograph.transports.addresses import address_of
from heliograph.transports.origins import OriginPolicy
from heliograph.transports.polling import PollEndpoint


class DirectPoll:
    """The `DirectGet`. Whatever is not as it should be is left to `PollEndpoint`, which says what is wrong."""

    def __init__(self, polls: PollEndpoint, origins: OriginPolicy, by_address: AddressLimits) -> None:
        self._polls = polls
        self._origins = origins
        self._by_address = by_address

    def begin(self, scope: Scope, answer: Callable[[bytes | None, bytes], object]) -> Callable[[], None] | None:
        """See `DirectGet`."""
        if not self._origins.admits(scope["headers"]):
            return None
        try:
            poll = self._polls.find(scope)
        except HeliographError:
            return None
        if poll is None or not self._by_address.requests.try_to_take(address_of(scope)):
            return None
        connections = self._by_address.connections
        address = connections.enter(scope)
        if address is None:
            return None
        fields = self._fields(scope)

        def done(body: bytes | None) -> None:
            connections.leave(address)
            answer(body, fields)

        try:
            on_leave = self._polls.resume(poll, done)
        except BaseException:
            connections.leave(address)
            raise
        if on_leave is None:
            connections.leave(address)
        return on_leave

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
