"""Who the client is, for each connection anew."""

import asyncio
import base64
import inspect
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import msgspec

# A token is renewed when this part of its life is over.
USED_UP: Final = 0.8
# The program has so long to say who is there.
ASK_S: Final = 10.0

Ask = Callable[[], str | Awaitable[str | None] | None]


class NoCredentials(Exception):
    """The program has given no credentials: there is nobody to connect as."""


@dataclass(frozen=True, slots=True)
class Known:
    """`token` goes into the first frame of a socket or the header of a request, never into a URL; `query` may."""

    query: dict[str, str]
    token: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}


class Credentials:
    """In open mode a name; in jwt mode a token, or a single-use ticket."""

    def __init__(self, user: str | None, token: str | None, get_token: Ask | None, get_ticket: Ask | None) -> None:
        self.user = user
        self._token = token
        self._get_token = get_token
        self._get_ticket = get_ticket
        self._fresh_until = 0.0

    @property
    def renewable(self) -> bool:
        """Return whether the program can give others."""
        return self._get_token is not None or self._get_ticket is not None

    async def token(self) -> str | None:
        """Return the token, a new one if the program can give one.

        Raises:
            NoCredentials: it gives none.
            TimeoutError, or whatever the program's function raises.
        """
        if self._get_token is not None:
            self._token = await _ask(self._get_token, "get_token")
            if not self._token:
                raise NoCredentials("get_token gave no token")
            self._fresh_until = time.monotonic() + USED_UP * _lifetime_s(self._token)
        return self._token

    async def for_socket(self) -> Known:
        """Return what a new socket needs. Raises as `token`."""
        token = await self.token()
        return Known({}, token) if token is not None else Known(await self._query())

    async def for_request(self, *, first: bool = True) -> Known:
        """Return what an HTTP request needs, with a new token for the `first` of a connection and when one is due.

        Raises as `token`.
        """
        if self._get_ticket is not None:
            return Known(await self._query())
        token = await self.token() if first or time.monotonic() >= self._fresh_until else self._token
        return Known({}, token) if token is not None else Known(await self._query())

    def renew_in_s(self, expires_in_s: float | None, *, is_said: bool) -> float | None:
        """Return in how many seconds to renew the token; None if that is not known or cannot be done.

        `is_said`: the server says when it expires; None means never.
        """
        if self._get_token is None or (is_said and expires_in_s is None):
            return None
        rest_s = expires_in_s if expires_in_s is not None else _lifetime_s(self._token or "")
        return max(0.0, USED_UP * rest_s) if math.isfinite(rest_s) else None

    async def _query(self) -> dict[str, str]:
        if self._get_ticket is not None:
            ticket = await _ask(self._get_ticket, "get_ticket")
            if not ticket:
                raise NoCredentials("get_ticket gave no ticket")
            return {"ticket": ticket}
        return {} if self.user is None else {"user": self.user}


async def _ask(give: Ask, name: str) -> str | None:
    """Return what a function of the program returns, if it does so in time."""
    try:
        async with asyncio.timeout(ASK_S):
            given = give()
            return await given if inspect.isawaitable(given) else given
    except TimeoutError:
        raise TimeoutError(f"{name} gave nothing within {ASK_S:g} s") from None


def _lifetime_s(token: str) -> float:
    """Return how long a JWT is valid, by its own `exp`; infinity if that cannot be read."""
    try:
        payload = token.split(".")[1]
        claims = msgspec.json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"]) - time.time()
    except (ValueError, TypeError, KeyError, IndexError):
        return math.inf
