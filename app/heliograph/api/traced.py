"""The server API as part of its callers' traces: the `traceparent` of a request continues in what it publishes.

These classes take the place of others where spans are on. Requests outside of a recorded trace go the same way as
without them.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import msgspec
from opentelemetry import context as current
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from heliograph.api.broadcast import OnPosition, Outcome
from heliograph.api.errors import ApiError
from heliograph.api.publishing import Publishing
from heliograph.cluster.replica_spans import PublishTags, ReplicaSpans
from heliograph.protocol.traceparent import TRACEPARENT, TRACESTATE, is_sampled
from heliograph.spans import context_in, current_context, end, fail
from heliograph.transports.direct import DirectEndpoint, Headers

logger = logging.getLogger(__name__)

_TRACEPARENT = TRACEPARENT.encode()


class TracedPublishing:
    """`Publishing` that makes a span of each publication in a recorded trace."""

    def __init__(self, spans: ReplicaSpans, publishing: Publishing) -> None:
        self._spans = spans
        self._publishing = publishing
        self.max_depth = publishing.max_depth
        self.most_commands = publishing.most_commands
        self.read_usual = publishing.read_usual

    def publish(
        self,
        channel: str,
        data: msgspec.Raw,
        idempotency_key: str | None,
        done: OnPosition,
        *,
        ephemeral: bool = False,
        tags: dict[str, str] | None = None,
    ) -> None:
        traced = self._begin(channel, len(data), tags)
        if traced is not None:
            done, tags = partial(_end, traced, done), traced
        self._publishing.publish(channel, data, idempotency_key, done, ephemeral=ephemeral, tags=tags)

    def _begin(self, channel: str, size: int, tags: dict[str, str] | None) -> PublishTags | None:
        try:
            return self._spans.publish(channel, size, tags)
        except Exception:  # of a sampler or processor that the program brings
            logger.exception("a span could not be made; the publication goes on without one")
            return None


def _end(traced: PublishTags, done: OnPosition, outcome: Outcome) -> None:
    if isinstance(outcome, ApiError):
        fail(traced.span, str(outcome.body.code), outcome.body.message)
    end(traced.span)
    done(outcome)


def continuing(routes: Iterable[BaseRoute]) -> list[BaseRoute]:
    """Return the routes of the server API so that they run in the trace of each request."""
    return [Route(each.path, _Continuing(each.app)) for each in routes if isinstance(each, Route)]


def untraced(endpoints: Mapping[bytes, DirectEndpoint]) -> dict[bytes, DirectEndpoint]:
    """Return endpoints that leave requests of recorded traces to the application."""
    return {url: _Untraced(endpoint) for url, endpoint in endpoints.items()}


class _Continuing:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if current_context() is None and (context := context_in(_carrier(scope["headers"]))) is not None:
            token = current.attach(context)
            try:
                await self._app(scope, receive, send)
            finally:
                current.detach(token)
        else:
            await self._app(scope, receive, send)


class _Untraced:
    def __init__(self, endpoint: DirectEndpoint) -> None:
        self._endpoint = endpoint

    def admits(self, headers: Headers) -> bool:
        for name, value in headers:
            if name == _TRACEPARENT and is_sampled(value.decode("latin-1")):
                return False
        return self._endpoint.admits(headers)

    def begin(self, body: bytes, answer: Callable[[bytes], object]) -> bool:
        return self._endpoint.begin(body, answer)


def _carrier(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the two headers. More than one `traceparent` is none; parts of `tracestate` are one list."""
    found: dict[str, list[str]] = {TRACEPARENT: [], TRACESTATE: []}
    for name, value in headers:
        if (values := found.get(name.decode("latin-1"))) is not None:
            values.append(value.decode("latin-1"))
    return {name: ",".join(values) for name, values in found.items() if values}
