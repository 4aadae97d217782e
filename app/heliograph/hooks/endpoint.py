"""One URL of the user's backend, called within limits: a backend that fails harms nobody but its callers."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import aiohttp
from yarl import URL

from heliograph.errors import HookUnavailable
from heliograph.hooks.circuit import Circuit
from heliograph.hooks.http import BackendHttp, shown, text_of
from heliograph.protocol.decision import Hook
from heliograph.protocol.peer import Headers
from heliograph.settings import HookSettings
from heliograph.telemetry import HookStats

logger = logging.getLogger(__name__)

LOG_EVERY_S: Final = 10.0
UNAVAILABLE: Final = "the backend does not answer at the moment, try again"  # for clients: it names nothing internal
GATEWAY: Final = frozenset({502, 503, 504})  # statuses of a proxy whose backend does not answer
# What may be asked twice: nothing happens because of it.
REPEATABLE: Final = frozenset({Hook.CONNECT, Hook.REFRESH, Hook.SUBSCRIBE, Hook.SUB_REFRESH})


class BadAnswer(Exception):
    """An answer that is none. The text says why."""


class GatewayError(Exception):
    """The answer of a proxy whose backend does not answer."""


def open_endpoints(
    settings: HookSettings, stats: dict[str, HookStats], monotonic: Callable[[], float]
) -> "tuple[dict[Hook, HookEndpoint], Callable[[], Awaitable[None]]]":
    """Return the endpoints of the hooks that are switched on, and what closes them. `stats`: gets their counters."""
    http, endpoints = BackendHttp(settings.ca_file, settings.secret_headers()), {}
    for hook, url in settings.urls().items():
        stats[hook.value] = HookStats()
        endpoints[hook] = HookEndpoint(hook, url, http, settings, stats[hook.value], monotonic)
    return endpoints, http.close


class HookEndpoint:
    """Call one hook: so many calls at once, so many that wait, one deadline for all, and a circuit breaker."""

    def __init__(
        self,
        hook: Hook,
        url: str,
        http: BackendHttp,
        settings: HookSettings,
        stats: HookStats,
        monotonic: Callable[[], float],
    ) -> None:
        self._hook = hook
        self._url = URL(url, encoded=True)
        self._shown = shown(url)
        self._http = http
        self._timeout_s = settings.timeout_s
        self._own_headers = frozenset(map(str.lower, settings.static_headers))  # no client can replace these
        self._most_waiting = settings.queue
        self._most_bytes = settings.answer_bytes
        self._stats = stats
        self._monotonic = monotonic
        self._circuit = Circuit(monotonic)
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._waiting = 0
        self._unsaid = 0  # failures since the last log line
        self._said_at = -LOG_EVERY_S

    async def call(self, body: bytes, headers: Headers) -> bytes:
        """Return the body of the backend's answer. `headers`: those of the client.

        Raises:
            HookUnavailable: there is none, or none in time. Temporary.
        """
        if (self._slots.locked() and self._waiting >= self._most_waiting) or not self._circuit.admits():
            raise self._refused()
        is_trial = self._circuit.is_open
        began = self._monotonic()
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._call_in_turn(body, headers, is_trial=is_trial)
        except TimeoutError:
            raise self._failed(f"no answer within {self._timeout_s:g} s", is_dead=True) from None
        except ValueError as error:  # a header that cannot be sent, which is no fault of the backend
            raise self._failed(str(error), is_dead=False) from None
        except (aiohttp.ClientError, GatewayError, OSError) as error:
            raise self._failed(text_of(error), is_dead=True) from None
        except BadAnswer as error:
            self._answered()
            raise self._failed(str(error), is_dead=False) from None
        self._stats.time.observe(self._monotonic() - began)
        self._answered()
        return answer

    def reject(self, why: str) -> HookUnavailable:
        """Note that an answer could not be used. Return the error to raise."""
        return self._failed(why, is_dead=False)

    async def _call_in_turn(self, body: bytes, headers: Headers, *, is_trial: bool) -> bytes:
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            if self._circuit.is_open and not is_trial:  # since this call began to wait
                raise self._refused()
            return await self._post(body, headers)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            # The backend has closed a kept connection as the call went out.
            if self._hook not in REPEATABLE:
                raise
            return await self._post(body, headers)
        finally:
            self._slots.release()

    async def _post(self, body: bytes, headers: Headers) -> bytes:
        answer = bytearray()
        passed_on = [each for each in headers if each[0].lower() not in self._own_headers]
        async with self._http.session.post(
            self._url, data=body, headers=passed_on, allow_redirects=False
        ) as response:
            if response.status != 200:
                text = f"it answers {response.status}, not 200"
                raise GatewayError(text) if response.status in GATEWAY else BadAnswer(text)
            if (encoding := response.headers.get("Content-Encoding", "identity")) != "identity":
                raise BadAnswer(f"it is compressed ({encoding[:32]}), which was not asked for")
            async for chunk in response.content.iter_any():
                answer += chunk
                if len(answer) > self._most_bytes:
                    raise BadAnswer(f"it is larger than {self._most_bytes} bytes (HELIOGRAPH_HOOKS__ANSWER_BYTES)")
        return bytes(answer)

    def _answered(self) -> None:
        if self._circuit.succeeded():
            logger.info("the %s hook answers again", self._hook)

    def _refused(self) -> HookUnavailable:
        """Count a call that is not made. Return the error to raise."""
        self._stats.refused += 1
        return HookUnavailable(UNAVAILABLE)

    def _failed(self, why: str, *, is_dead: bool) -> HookUnavailable:
        """Count a failure, and log some of them. Return the error to raise."""
        self._stats.failed += 1
        self._unsaid += 1
        if is_dead and self._circuit.failed():
            self._log("the %s hook at %s is left alone for now: %d calls failed, the last with: %s", why)
        elif self._monotonic() - self._said_at >= LOG_EVERY_S:
            self._log("the %s hook at %s failed (%d times since the last line like this): %s", why)
        return HookUnavailable(UNAVAILABLE)

    def _log(self, text: str, why: str) -> None:
        logger.warning(text, self._hook, self._shown, self._unsaid, why)
        self._said_at, self._unsaid = self._monotonic(), 0
