"""An `EventSource`: reads `/sse` as a browser does, block by block, and keeps the last id."""

import asyncio
import json
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tests.support.http import http_client

if TYPE_CHECKING:
    import httpx


class EventSource:
    """`async with EventSource(url, user="bob", channels="news") as events:` has its answer when the block begins.

    `params` are those of the URL. `last_event_id` is what a browser would send when it comes back. `source` is the
    loopback address that it comes from.
    """

    def __init__(
        self,
        base_url: str,
        *,
        last_event_id: str | None = None,
        headers: dict[str, str] | None = None,
        source: str | None = None,
        **params: str,
    ) -> None:
        self._http = http_client(
            base_url,
            timeout=600,
            source=source,
        )
        self._params = params
        self._headers = headers or {}
        if last_event_id is not None:
            self._headers = {"Last-Event-ID": last_event_id, **self._headers}
        self.last_event_id = last_event_id or ""
        self.comments = 0
        self.retry_ms: int | None = None
        self.response: httpx.Response
        self._buffer = b""
        self._seen: list[dict[str, Any]] = []

    async def __aenter__(self) -> Self:
        request = self._http.build_request("GET", "/sse", params=self._params, headers=self._headers)
        self.response = await self._http.send(request, stream=True)
        self._bytes = self.response.aiter_bytes()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.response.aclose()
        await self._http.aclose()

    async def error(self) -> dict[str, Any]:
        """The body of a refusal."""
        await self.response.aread()
        return dict(self.response.json()["error"])

    async def event(self, within_s: float = 5.0) -> dict[str, Any]:
        """The next event. Raises EOFError if the stream has ended."""
        async with asyncio.timeout(within_s):
            return self._parse(await self._block())

    async def next(self, *types: str, within_s: float = 5.0, **fields: Any) -> dict[str, Any]:
        """The next event of one of these types that has these fields; others are kept for later."""

        def wanted(event: dict[str, Any]) -> bool:
            return event["type"] in types and all(event.get(key) == value for key, value in fields.items())

        async with asyncio.timeout(within_s):
            for index, event in enumerate(self._seen):
                if wanted(event):
                    return self._seen.pop(index)
            while not wanted(event := await self.event(within_s)):
                self._seen.append(event)
            return event

    async def ended(self, within_s: float = 5.0) -> list[dict[str, Any]]:
        """What comes until the server ends the stream."""
        events = []
        try:
            while True:
                events.append(await self.event(within_s))
        except EOFError:
            return events

    async def _block(self) -> list[bytes]:
        """The lines of the next event. Comments belong to none, and are counted as they come."""
        lines: list[bytes] = []
        while True:
            while b"\n" not in self._buffer:
                try:
                    self._buffer += await anext(self._bytes)
                except StopAsyncIteration:
                    raise EOFError("the stream has ended") from None
            line, _, self._buffer = self._buffer.partition(b"\n")
            if line.startswith(b":"):
                self.comments += 1
            elif line:
                lines.append(line)
            else:
                return lines

    def _parse(self, lines: list[bytes]) -> dict[str, Any]:
        data = []
        for line in lines:
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            match field:
                case b"data":
                    data.append(value)
                case b"id":
                    self.last_event_id = value.decode()
                case b"retry":
                    self.retry_ms = int(value)
                case _:
                    raise AssertionError(f"a field that nobody asked for: {line!r}")
        assert data, "some readers take a block without data for an event"
        return dict(json.loads(b"\n".join(data)))
