"""One logical connection over any number of links."""

import asyncio
import random
import ssl
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Final, Literal, Protocol

from heliograph.client.connection.addresses import Addresses
from heliograph.client.connection.backoff import Backoff
from heliograph.client.connection.credentials import Credentials
from heliograph.client.connection.dispatcher import Place
from heliograph.client.connection.events import ClientState, Frame, Transport
from heliograph.client.connection.link import (
    EXPIRED,
    INVALID_TOKEN,
    NORMAL,
    Closed,
    Link,
    may_reconnect,
)
from heliograph.client.connection.transport_selector import TransportSelector
from heliograph.errors import BadSetting, ClientError
from heliograph.loopback import is_loopback_host

if TYPE_CHECKING:
    import httpx

TRANSPORTS: Final[tuple[Transport, ...]] = ("websocket", "sse", "poll")  # from best to worst
HANDSHAKE_S: Final = 5.0
# A connection that lasted so long was a success; the next loss starts again with short delays.
STABLE_S: Final = 5.0
# How long the old link is still listened to when a new one has taken over: what was on its way through the old
# replica when the new one took the user in must not be cut off.
OVERLAP_S: Final = 1.0
RENEW_AGAIN_S: Final = 5.0
# Before the program is asked for another token in place of one that the server did not take.
OTHER_TOKEN_S: Final = 1.0


class Owner(Protocol):
    """What a connection asks its owner, and tells it."""

    def place(self, link: Link) -> Place:
        """Return where a new link has to continue."""

    def on_opening(self, link: Link) -> None:
        """A link is being opened."""

    def on_established(self, link: Link, hello: Frame) -> None:
        """This link is the one in use from now on."""

    def on_moved(self, link: Link, replica: str) -> None:
        """Another replica serves this link now."""

    def on_frame(self, link: Link, frame: Frame) -> None:
        """Take a frame from any link that is listened to."""

    def on_garbled(self, link: Link, error: Exception) -> None:
        """Something came that is no frame."""

    def on_ended(self, link: Link, closed: Closed) -> None:
        """This link has ended, or was closed from this side; another may be in use."""

    def refuse_channels(self, link: Link, closed: Closed) -> bool:
        """Give up the channels for which the server refused this link. Return whether there are any."""

    def is_busy(self, replaced: Link) -> bool:
        """Return whether something is still due before a link that was replaced may be left."""

    def on_not_upgraded(self, in_use: Link, tried: Transport) -> None:
        """A better transport could not be opened; the link in use stays."""

    async def refresh(self, token: str | None) -> float | None:
        """Hand the server another token. Return in how many seconds it expires; None: never."""

    def on_error(self, error: ClientError) -> None:
        """Report an error that belongs to no call."""

    def on_stopped(self, closed: Closed) -> None:
        """The connection is closed for good."""

    def on_state(self, state: ClientState) -> None:
        """Take the new state. Called last in every transition."""


class Connection:
    """Opens the first link, replaces it before it ends, changes transports, reconnects after delays that grow, and
    renews the token. It does not know what frames mean."""

    def __init__(
        self,
        addresses: Addresses,
        credentials: Credentials,
        transports: Sequence[Transport],
        ssl_context: ssl.SSLContext | None,
        owner: Owner,
    ) -> None:
        """Nothing is opened yet.

        Raises:
            BadSetting: the transports cannot be used, or a library is missing.
        """
        if not transports or not set(transports) <= set(TRANSPORTS):
            raise BadSetting(f"transports are some of {', '.join(TRANSPORTS)}, not {list(transports)!r}")
        self.state = ClientState("closed")
        self.link: Link | None = None  # the one in use
        self._opening: Link | None = None  # the first, a replacement, or a successor beside `link`
        self._leaving: set[Link] = set()  # replaced, and still listened to for a moment
        self._libraries = _libraries()
        self._addresses = addresses
        self._credentials = credentials
        self._ssl_context = ssl_context
        self._owner = owner
        self._backoff = Backoff(draw)
        self._selector = TransportSelector(transports, draw)
        self._last_number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._http: httpx.AsyncClient | None = None
        self._asked_for_other_token = False  # since the last connection

    # -- for its owner

    def open(self) -> None:
        """Begin to connect."""
        self._dial()
        self._set_state(ClientState("connecting"))

    def stop(self, closed: Closed) -> None:
        """End all links, and stay away."""
        if self.state.state == "closed":
            return
        for name in list(self._timers):
            self._cancel(name)
        links = [link for link in (self.link, self._opening, *self._leaving) if link is not None]
        self.link = self._opening = None
        self._leaving.clear()
        for link in links:
            self._hang_up(link, closed)
        self._owner.on_stopped(closed)
        self._set_state(ClientState("closed", code=closed.code, reason=closed.reason))

    async def close(self) -> None:
        """Stop, and wait until nothing is left. May be called twice."""
        self.stop(Closed(NORMAL, ""))
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._http is not None:
            await self._http.aclose()

    def replace(self, transport: Transport | None = None) -> None:
        """Open another link beside the one in use, unless one is being opened; without `transport`, by the same."""
        if self.link is not None and self._opening is None:
            self._dial(transport or self.link.transport)

    def replace_in(self, delay_s: float) -> None:
        """Open another link after so many seconds, unless one is being opened."""
        if self._opening is None:
            self._dial_in(delay_s)

    def find(self, number: int) -> Link | None:
        """Return the link with this number, if it is listened to."""
        links = (self.link, *self._leaving)
        return next((link for link in links if link is not None and link.number == number), None)

    def can_use(self, transport: Transport) -> bool:
        """Return whether this transport may be used."""
        return self._selector.has(transport)

    def http_client(self) -> "httpx.AsyncClient":
        """Return the client for requests to the cluster. It has no time-out of its own."""
        if self._http is None:
            import httpx

            # No proxy is of use on the way to this machine itself.
            self._http = httpx.AsyncClient(
                timeout=None,  # noqa: S113 - every request has a deadline
                verify=self._ssl_context or True,
                trust_env=not is_loopback_host(self._addresses.host),
            )
        return self._http

    # -- for its links: see `Handlers`

    def place(self, link: Link) -> Place:
        return self._owner.place(link)

    def on_connected(self, link: Link, hello: Frame) -> None:
        left = self.link
        self._opening, self.link = None, link
        self._owner.on_established(link, hello)
        self._asked_for_other_token = False
        if left is not None:
            self._leave(left)
        self._selector.connected(link.transport)
        self._later("stable", STABLE_S, self._backoff.reset)
        self._upgrade_later()
        self._renew_in(self._credentials.renew_in_s(hello.get("expires_in"), is_said="expires_in" in hello))
        self._set_state(
            ClientState(
                "connected",
                user=hello["user"],
                session=hello.get("session"),
                replica=link.replica,
                transport=link.transport,
            )
        )

    def on_moved(self, link: Link, replica: str) -> None:
        self._owner.on_moved(link, replica)
        if link is self.link:
            user = self.state.user
            self._set_state(ClientState("connected", user=user, replica=replica, transport=link.transport))

    def on_frame(self, link: Link, frame: Frame) -> None:
        self._owner.on_frame(link, frame)

    def on_garbled(self, link: Link, error: Exception) -> None:
        self._owner.on_garbled(link, error)

    def on_doubted(self, link: Link) -> None:
        if link is self.link:
            self.replace()

    def on_closed(self, link: Link, closed: Closed) -> None:
        refused = link is self._opening and self._owner.refuse_channels(link, closed)
        if link is self._opening:
            self._opening = None
            self._owner.on_ended(link, closed)
            if refused:
                self._dial(link.transport)
            elif self.link is not None:
                self._on_successor_failed(self.link, link, closed)
            else:
                self._retry_or_stop(link, closed)
        elif link is self.link:
            self.link = None
            self._owner.on_ended(link, closed)
            self._cancel("stable")
            if self._opening is not None and may_reconnect(closed.code):
                self._set_state(ClientState("reconnecting", code=closed.code, reason=closed.reason))
            else:
                self._retry_or_stop(link, closed)
        else:
            self._leaving.discard(link)
            self._owner.on_ended(link, closed)

    # -- opening, replacing, leaving

    def _dial(self, transport: Transport | None = None) -> None:
        """Open a link; beside the one in use if there is one."""
        self._cancel("open")
        self._last_number += 1
        link = self._opening = self._make_link(transport or self._selector.current)
        self._owner.on_opening(link)
        self._own(link.start())

    def _dial_in(self, delay_s: float) -> None:
        def dial() -> None:
            if self._opening is None:
                self._dial(None if self.link is None else self.link.transport)

        self._later("open", delay_s, dial)

    def _make_link(self, transport: Transport) -> Link:
        url, number = self._addresses.of_transport(transport), self._last_number
        link: Link
        if transport == "websocket":
            tls = self._ssl_context if url.startswith("wss:") else None
            link = self._libraries.SocketLink(number, url, self._credentials, self, within_s=HANDSHAKE_S, tls=tls)
        else:
            kind = self._libraries.StreamLink if transport == "sse" else self._libraries.PollLink
            link = kind(number, url, self._credentials, self, within_s=HANDSHAKE_S, http=self.http_client())
        return link

    def _leave(self, link: Link) -> None:
        """Close the old link when nothing more is due on it, and the new one has everything."""
        self._leaving.add(link)
        loop = asyncio.get_running_loop()

        def look() -> None:
            if link not in self._leaving:
                return
            if self._owner.is_busy(link):
                loop.call_later(OVERLAP_S, look)
            else:
                self._leaving.discard(link)
                self._hang_up(link, Closed(NORMAL, ""))

        loop.call_later(OVERLAP_S, look)

    def _hang_up(self, link: Link, closed: Closed) -> None:
        link.close()
        self._owner.on_ended(link, closed)

    def _on_successor_failed(self, in_use: Link, failed: Link, closed: Closed) -> None:
        """Handle a new link that failed while the link in use still works."""
        if failed.transport != in_use.transport:
            self._upgrade_later()
            self._owner.on_not_upgraded(in_use, failed.transport)
        elif may_reconnect(closed.code):
            self._dial_in(self._backoff.next())
        # Else the server has said that another try is pointless (the limit of connections, say): the old link is
        # served to its end, and followed by an ordinary reconnect.

    def _retry_or_stop(self, link: Link, closed: Closed) -> None:
        code, reason = closed.code, closed.reason
        renewable = self._credentials.renewable and not self._asked_for_other_token
        if code == INVALID_TOKEN and not closed.unasked and renewable:
            # It may have run out on the way, or the clocks differ: the program is asked for another, once.
            self._asked_for_other_token = True
            self._dial_in(OTHER_TOKEN_S)
            self._set_state(ClientState("reconnecting", OTHER_TOKEN_S, EXPIRED, reason))
        elif not may_reconnect(code):
            self.stop(closed)
        elif not link.replica and not closed.unasked and self._selector.failed(link.transport):
            self._dial()
            self._set_state(ClientState(self._trying(), 0.0, code, reason))
        else:
            retry_in_s = self._backoff.next()
            self._dial_in(retry_in_s)
            self._set_state(ClientState(self._trying(), retry_in_s, code, reason))

    def _trying(self) -> Literal["connecting", "reconnecting"]:
        return "connecting" if self.state.state == "connecting" else "reconnecting"

    # -- from a transport that had to do back to a better one

    def _upgrade_later(self) -> None:
        self._cancel("upgrade")
        if self._selector.can_upgrade():
            self._later("upgrade", self._selector.upgrade_in_s, self._upgrade)

    def _upgrade(self) -> None:
        if self.link is not None and self._opening is None and "open" not in self._timers:
            self._dial(self._selector.next_upgrade())
        else:
            self._upgrade_later()

    # -- staying who one is

    def _renew_in(self, delay_s: float | None) -> None:
        self._cancel("renew")
        if delay_s is not None:
            self._later("renew", delay_s, self._begin_renewing)

    def _begin_renewing(self) -> None:
        link = self.link
        if link is not None and link.takes_frames:
            self._own(asyncio.get_running_loop().create_task(self._renew(link), name="heliograph-renew"))
        elif link is not None and link.transport == "sse":
            self.replace()

    async def _renew(self, link: Link) -> None:
        """Send a new token over the open link, before the old one has expired."""
        try:
            token = await self._credentials.token()
            if link is not self.link:
                return
            expires_in_s = await self._owner.refresh(token)
            if link is self.link:
                self._renew_in(self._credentials.renew_in_s(expires_in_s, is_said=True))
        except Exception as error:  # noqa: BLE001 - the program's own function may raise anything
            if link is self.link:
                code = error.code if isinstance(error, ClientError) else "token"
                self._owner.on_error(ClientError(code, f"the token was not renewed: {error}"))
                self._renew_in(RENEW_AGAIN_S)

    # -- its parts

    def _set_state(self, state: ClientState) -> None:
        self.state = state
        self._owner.on_state(state)

    def _own(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _later(self, name: str, delay_s: float, callback: Callable[[], None]) -> None:
        self._cancel(name)

        def call() -> None:
            del self._timers[name]
            callback()

        self._timers[name] = asyncio.get_running_loop().call_later(delay_s, call)

    def _cancel(self, name: str) -> None:
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()


def draw() -> float:
    """Return a random number in [0, 1)."""
    return random.random()  # noqa: S311 - jitter, no secret


def _libraries() -> ModuleType:
    """Return the links. They need what a program that only publishes need not have."""
    try:
        from heliograph.client.connection import links
    except ImportError as error:
        raise BadSetting(f"a client needs websockets and httpx: pip install 'heliograph[client]' ({error})") from None
    return links
