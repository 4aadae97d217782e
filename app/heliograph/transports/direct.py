"""Requests that the server answers itself: without an ASGI application, a task or an `await` for each.

This is for the few requests that come thousands of times a second, and for handshakes: after a cut, or a deploy, all
clients come back at once. The same URL is also a route of the application, which gets every request that is not an
ordinary one, and answers those that are wrong.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from starlette.types import Scope

from heliograph.transports.server_socket import ServerSocket

Headers = Sequence[tuple[bytes, bytes]]  # names in lower case


class DirectEndpoint(Protocol):
    """What the server asks of an endpoint, for a `POST` to exactly its URL."""

    def admits(self, headers: Headers) -> bool:
        """Return whether to collect the body of a request with these headers. False: the application gets it."""
        ...

    def begin(self, body: bytes, answer: Callable[[bytes], object]) -> bool:
        """Begin to carry out a request; `answer` takes the JSON that is sent with status 200, once, now or later.

        Return False if nothing was done and the application has to answer.
        """
        ...


class DirectGet(Protocol):
    """What the server asks of an endpoint, for a `GET` of its path without a body."""

    def begin(self, scope: Scope, answer: Callable[[bytes | None, bytes], object]) -> Callable[[], object] | None:
        """Begin to answer a request.

        `answer` takes the JSON that is sent with status 200, and further header fields, each with its line end; once,
        now or later. Without JSON, the application has to answer after all.

        Return what to call if the client leaves before. None: nothing was done, and the application has to answer.
        """
        ...


class DirectSocket(Protocol):
    """What the server asks of an endpoint, for a WebSocket handshake on its path."""

    def open(self, scope: Scope, socket: ServerSocket, accept: Callable[[str | None], object]) -> bool:
        """Accept a handshake: call `accept` with the subprotocol, and attach to the socket.

        Return False if nothing was done and the application has to answer.
        """
        ...


class DirectEndpoints:
    """What the server answers without an application: `posts` by URL, `gets` and `sockets` by path."""

    def __init__(
        self,
        posts: Mapping[bytes, DirectEndpoint],
        gets: Mapping[bytes, DirectGet],
        sockets: Mapping[bytes, DirectSocket],
    ) -> None:
        self.posts = posts
        self.gets = gets
        self.sockets = sockets


NO_ENDPOINTS: Final = DirectEndpoints({}, {}, {})
