"""What the transports over HTTP share: requests with credentials, one deadline, and an end."""

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import urljoin

import httpx

from heliograph.client.connection.credentials import Credentials
from heliograph.client.connection.events import Frame, Transport
from heliograph.client.connection.link import (
    ABNORMAL,
    EXPIRED,
    INVALID_TOKEN,
    Closed,
    Handlers,
    LinkEnded,
    decode,
    refusal,
)
from heliograph.client.connection.receipts import Said

RECEIVED_S: Final = 10.0  # how long a receipt may take to be answered

logger = logging.getLogger(__name__)


class HttpLink(ABC):
    """See `Link`. These bring what the server says and take nothing."""

    transport: Transport
    received_path: str  # where receipts are said, as seen from its own endpoint
    takes_frames = False

    def __init__(
        self,
        number: int,
        url: str,
        credentials: Credentials,
        handlers: Handlers,
        *,
        within_s: float,
        http: httpx.AsyncClient,
    ) -> None:
        """`within_s`: how long the first answer may take."""
        self.number = number
        self.replica = ""
        self.within_s = within_s  # how long an answer may take
        self._url = url
        self._credentials = credentials
        self._handlers = handlers
        self._http = http
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False
        self._task: asyncio.Task[None] | None = None

    @abstractmethod
    async def follow(self) -> None:
        """Connect and read until the end, which it raises as LinkEnded."""

    def ended(self) -> bool:
        """Return whether it has ended; a handler may end it at any time."""
        return self._ended

    def start(self) -> asyncio.Task[None]:
        self._task = self._loop.create_task(self._run(), name=f"heliograph-{self.transport}-{self.number}")
        return self._task

    def send(self, frame: bytes) -> None:
        raise AssertionError("this transport only receives; open a socket to send")

    async def received(self, cursor: str, device: str | None) -> Said:
        body = {"cursor": cursor} if device is None else {"cursor": cursor, "device": device}
        try:
            known = await self._credentials.for_request(first=False)
            url = urljoin(self._url, self.received_path)
            response = await self._http.post(
                url, params=known.query, headers=known.headers, json=body, timeout=RECEIVED_S
            )
        except Exception as error:  # noqa: BLE001 - the program's own function may raise anything
            logger.debug("what was received could not be said, retrying: %r", error)
            return Said.LATER
        if response.is_success:
            return Said.NOTED
        return Said.LATER if response.status_code in (401, 429) or response.is_server_error else Said.REFUSED

    def probe(self, wait_s: float = 0.0) -> None:
        return  # there is nothing to ask: silence for too long ends it

    def close(self) -> None:
        if self._ended:
            return
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def expect_within(self, delay_s: float, reason: str) -> None:
        """End for this reason unless it is called again in time."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._ended:
            self._timer = self._loop.call_later(delay_s, lambda: self._end(Closed(ABNORMAL, reason)))

    def begin(self) -> dict[str, str | list[str]]:
        """Return the query of the first request: the channels and the cursor of this moment."""
        place = self._handlers.place(self)
        query: dict[str, str | list[str]] = {
            "channels": ",".join(name for name in place.channels if "," not in name),
            "channel": [name for name in place.channels if "," in name],
            "cursor": place.cursor,
            "replay": "true" if place.replay else "",
            "device": place.device or "",
        }
        return {name: value for name, value in query.items() if value}

    @contextlib.asynccontextmanager
    async def request(self, query: dict[str, Any], *, first: bool) -> AsyncIterator[httpx.Response]:
        """Make a request and yield its response, which is a success. Raises LinkEnded."""
        try:
            known = await self._credentials.for_request(first=first)
        except Exception as error:  # noqa: BLE001 - the program's own function may raise anything
            raise LinkEnded(Closed.without_credentials(error)) from None
        self.expect_within(self.within_s, "no answer")
        async with self._http.stream(
            "GET", self._url, params={**known.query, **query}, headers=known.headers
        ) as response:
            if not response.is_success:
                raise LinkEnded(self._refusal(response.status_code, await response.aread()))
            yield response

    def welcome(self, hello: Frame) -> None:
        """Report that the connection is established."""
        self.replica = hello["replica"]
        self._handlers.on_connected(self, hello)

    def serve_by(self, replica: str) -> None:
        """Note which replica answers: each request may go to another."""
        if replica != self.replica:
            self.replica = replica
            self._handlers.on_moved(self, replica)

    def deliver(self, frame: Frame) -> None:
        """Pass on a frame, as a socket does."""
        self._handlers.on_frame(self, frame)

    def decode(self, text: bytes) -> Frame | None:
        """Return the frame; None if it is no JSON object, which is reported."""
        try:
            return decode(text)
        except ValueError as error:
            self._handlers.on_garbled(self, error)
            return None

    async def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # by `close`, or by an end that was reported already
            try:
                await self.follow()
            except LinkEnded as ended:
                self._end(ended.closed)
            except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
                self._end(Closed(ABNORMAL, str(error) or type(error).__name__))
            except Exception as error:
                logger.exception("the connection to %s ends: a fault of the client", self._url)
                self._end(Closed(ABNORMAL, repr(error)))

    def _refusal(self, status: int, body: bytes) -> Closed:
        closed = refusal(status, body)
        # The credentials were valid when the connection began, and have expired: new ones may be valid.
        if closed.code == INVALID_TOKEN and self.replica and self._credentials.renewable:
            return Closed(EXPIRED, closed.reason, error=closed.error)
        return closed

    def _end(self, closed: Closed) -> None:
        if self._ended:
            return
        self.close()
        self._handlers.on_closed(self, closed)
