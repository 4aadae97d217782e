"""Sends a publisher's drafts to the cluster. The publisher decides what to repeat; a transport tries once."""

from collections.abc import Sequence
from typing import Protocol

from heliograph.client.drafts import Published
from heliograph.client.retrying import Failure
from heliograph.ports import Draft


class _Common(Protocol):
    @property
    def server(self) -> str:
        """The server's name in error texts."""

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """The exceptions that `send` raises if the server refuses or cannot be reached."""

    def failure(self, error: Exception) -> Failure:
        """Return what one of the `failures` means."""

    def renew_in_child(self) -> None:
        """See `heliograph.client.forks`."""


class Transport(_Common, Protocol):
    """For plain functions, in any number of threads."""

    def send(self, drafts: Sequence[Draft], *, kept: bool) -> list[Published]:
        """Publish them in order; `kept`: what their namespaces say."""

    def close(self) -> None:
        """Close the connections. May be called twice."""


class AsyncTransport(_Common, Protocol):
    """For coroutines of one event loop."""

    async def send(self, drafts: Sequence[Draft], *, kept: bool) -> list[Published]:
        """See `Transport.send`."""

    async def close(self) -> None:
        """Close the connections. May be called twice."""
