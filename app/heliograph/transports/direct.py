"""Requests that the server answers itself: without an ASGI application, a task or an `await` for each.

This is for the few requests that come thousands of times a second. The same URL is also a route of the application,
which gets every request that is not an ordinary one, and answers those that are wrong.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

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
