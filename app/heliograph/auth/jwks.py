"""Public keys that an identity provider publishes at a URL, as a JSON Web Key Set."""

import asyncio
import json
import logging
import math
from collections.abc import Sequence
from urllib.parse import urlsplit

import httpx

from heliograph.auth.keys import Key, jwk_key
from heliograph.clock import Clock
from heliograph.errors import KeysUnavailable
from heliograph.loopback import is_loopback_host
from heliograph.tasks import end

logger = logging.getLogger(__name__)

AGAIN_S = 5.0  # between two requests, at least: a client that invents key ids cannot cause more
MOST_BYTES = 1_048_576
SHOWN_KID = 64  # characters of a key id that count
MOST_UNKNOWN = 1000  # unknown key ids that are remembered
# Not compressed: a short response could expand far beyond MOST_BYTES before it can be measured.
HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}


class KeySet:
    """`KeySource` from a URL. It is read for the first token, and again when it is old or a token names another key.

    If that fails, the earlier keys stay in use. Callers that wait for it share one request.
    """

    def __init__(self, url: str, *, max_age_s: float, timeout_s: float, clock: Clock) -> None:
        self._url = url
        self._max_age_s = max_age_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._keys: list[Key] = []
        self._read_at = -math.inf  # monotonic seconds
        self._tried_at = -math.inf
        self._failure = ""
        self._asked_since: dict[str, float] = {}  # unknown key id -> first asked for, monotonic seconds
        self._client: httpx.AsyncClient | None = None
        self._reading: asyncio.Task[None] | None = None

    async def find(self, kid: str | None) -> Sequence[Key]:
        if not self._keys:
            await self._read()
        elif self._clock.monotonic() - self._read_at > self._max_age_s:
            self._begin_to_read()  # the old keys stay in use meanwhile
        if not self._keys:
            raise KeysUnavailable(f"tokens cannot be checked at the moment: {self._failure}")
        if kid is None:
            return self._keys
        if found := self._named(kid):
            return found
        asked_since = self._remember(kid[:SHOWN_KID])
        if not await self._read() and self._read_at < asked_since:
            raise KeysUnavailable("the token's key is unknown, and the key set could not be read again just now")
        # The set has been read since this key was first asked for: it does not exist.
        if found := self._named(kid):
            self._asked_since.pop(kid[:SHOWN_KID], None)
        return found

    def at_hand(self, kid: str | None) -> Sequence[Key] | None:
        if self._clock.monotonic() - self._read_at > self._max_age_s:
            return None
        return (self._keys if kid is None else self._named(kid)) or None

    async def stop(self) -> None:
        if self._reading is not None:
            await end([self._reading])
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    def _remember(self, kid: str) -> float:
        """Return when (monotonic seconds) an unknown key was first asked for."""
        if kid not in self._asked_since and len(self._asked_since) >= MOST_UNKNOWN:
            del self._asked_since[next(iter(self._asked_since))]
        return self._asked_since.setdefault(kid, self._clock.monotonic())

    def _named(self, kid: str) -> list[Key]:
        return [key for key in self._keys if key.kid == kid]

    async def _read(self) -> bool:
        """Read the key set, in one request for all callers. Return whether it has just been read."""
        asked_at = self._clock.monotonic()
        self._begin_to_read()
        if self._reading is not None:
            await asyncio.wait([self._reading])
        return self._read_at >= asked_at

    def _begin_to_read(self) -> None:
        if self._reading is None and self._clock.monotonic() - self._tried_at >= AGAIN_S:
            self._tried_at = self._clock.monotonic()
            self._reading = asyncio.create_task(self._try_to_read(), name="jwks-read")

    async def _try_to_read(self) -> None:
        try:
            self._keys = _keys_in(await self._fetch())
            self._read_at, self._failure = self._clock.monotonic(), ""
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError, ValueError, RecursionError) as error:
            self._failure = "their keys cannot be read"
            reason = str(error) or type(error).__name__
            logger.warning(
                "key set %s cannot be read (%s); the %d known keys stay in use", self._url, reason, len(self._keys)
            )
        finally:
            self._reading = None

    async def _fetch(self) -> bytes:
        if self._client is None:
            # A proxy of the environment is not for this machine.
            outside = not is_loopback(self._url)
            self._client = httpx.AsyncClient(timeout=self._timeout_s, trust_env=outside, follow_redirects=False)
        body = bytearray()
        async with (
            asyncio.timeout(self._timeout_s),
            self._client.stream("GET", self._url, headers=HEADERS) as response,
        ):
            if response.status_code != 200:
                raise ValueError(f"it answers {response.status_code}")
            if (encoding := response.headers.get("Content-Encoding", "identity")) != "identity":
                raise ValueError(f"it is compressed ({encoding}), which was not asked for")
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MOST_BYTES:
                    raise ValueError(f"it is larger than {MOST_BYTES} bytes")
        return bytes(body)


def is_loopback(url: str) -> bool:
    """Return whether the URL's host is this machine."""
    return is_loopback_host(urlsplit(url).hostname or "")


def _keys_in(body: bytes) -> list[Key]:
    document = json.loads(body)
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("it is no key set: there is no list of 'keys'")
    keys = [key for key in map(jwk_key, listed) if key is not None]
    if not keys:
        raise ValueError(f"none of its {len(listed)} keys is an RSA or EC key to check tokens with")
    if len(keys) < len(listed):
        logger.info(
            "%d of the %d keys in the key set ignored: not RSA or EC keys for signatures",
            len(listed) - len(keys),
            len(listed),
        )
    return keys
