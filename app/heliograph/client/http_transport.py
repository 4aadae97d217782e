"""Send a publisher's drafts to a replica, over the server API. One attempt a call; no retries here."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import msgspec

from heliograph.client.drafts import Published
from heliograph.client.forks import leave_alone
from heliograph.client.retrying import Failure, PartlyDone, after
from heliograph.errors import BadSetting
from heliograph.loopback import is_loopback_host
from heliograph.ports import Draft

TIMEOUT_S: Final = 5.0
MAX_CONNECTIONS: Final = 10
# Limits of a request, below the server's defaults (HELIOGRAPH_API__BATCH, HELIOGRAPH_API__BODY_BYTES).
MOST_COMMANDS: Final = 100
MOST_BYTES: Final = 524_288

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
_PASSING_STATUS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_NOT_DONE_STATUS: Final = frozenset({425, 429})
_INTERNAL: Final = 100  # error code of the server API: retry; the command may have been carried out


class ReplyError(Exception):
    """The server has answered, but without a result."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


class Request(msgspec.Struct, frozen=True):
    """One request to the server API: its method, its body, and the drafts that it publishes."""

    method: str
    body: bytes
    drafts: Sequence[Draft]


def requests_of(drafts: Sequence[Draft]) -> Iterator[Request]:
    """Return the requests that publish these drafts, to be sent one after the other."""
    if len(drafts) == 1:
        yield Request("publish", msgspec.json.encode(_parameters(drafts[0])), drafts)
        return
    commands: list[msgspec.Raw] = []
    size, start = 0, 0
    for index, draft in enumerate(drafts):
        command = msgspec.Raw(msgspec.json.encode({"publish": _parameters(draft)}))
        if commands and (len(commands) == MOST_COMMANDS or size + len(command) > MOST_BYTES):
            yield Request("batch", msgspec.json.encode({"commands": commands}), drafts[start:index])
            commands, size, start = [], 0, index
        commands.append(command)
        size += len(command)
    yield Request("batch", msgspec.json.encode({"commands": commands}), drafts[start:])


def read_response(request: Request, status: int, body: bytes) -> list[Published]:
    """Return the positions of the request's drafts.

    Raises:
        ReplyError: none of them was published, or nobody knows.
        PartlyDone: one of them was not published, and others were.
    """
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        answer = None
    if not isinstance(answer, dict):
        answer = {}
    if status != HTTPStatus.OK:
        raise ReplyError(_refusal(status, answer))
    if "error" in answer:
        raise ReplyError(_error(answer["error"]))
    try:
        if request.method == "publish":
            return [_published(request.drafts[0], answer["result"])]
        replies = answer["replies"]
        with after([reply for reply in replies if "publish" in reply], (ReplyError,)):
            return [_published(draft, _result(reply)) for draft, reply in zip(request.drafts, replies, strict=True)]
    except (KeyError, TypeError, ValueError):
        text = "the answer is not the server API's: does the URL lead to the cluster?"
        raise ReplyError(Failure(text, passes=False, may_be_done=False)) from None


def _parameters(draft: Draft) -> dict[str, object]:
    found: dict[str, object] = {
        "channel": draft.channel,
        "data": draft.data if draft.update is None else draft.update,
        "idempotency_key": draft.idempotency_key,
    }
    if draft.tags:  # the server reads what has none faster
        found["tags"] = draft.tags
    return found


def _result(reply: dict[str, Any]) -> dict[str, Any]:
    if "error" in reply:
        raise ReplyError(_error(reply["error"]))
    result: dict[str, Any] = reply["publish"]
    return result


def _published(draft: Draft, result: dict[str, Any]) -> Published:
    return Published(draft.channel, "", result.get("epoch") or None, result.get("offset", 0))


def _error(error: Any) -> Failure:
    """Return the meaning of the `error` in an answer with status 200."""
    fields = error if isinstance(error, dict) else {}
    unknown = fields.get("code") == _INTERNAL
    return Failure(str(fields.get("message", error)), passes=unknown, may_be_done=unknown)


def _refusal(status: int, answer: dict[str, Any]) -> Failure:
    error = answer.get("error")
    text = f"HTTP status {status}"
    if isinstance(error, dict) and "message" in error:
        text = f"{text}: {error['message']}"
    passes = status in _PASSING_STATUS
    return Failure(text, passes, passes and status not in _NOT_DONE_STATUS)


class _Base:
    failures: tuple[type[Exception], ...] = (httpx.HTTPError, ReplyError, PartlyDone)

    def __init__(self, url: str, api_key: str) -> None:
        parts = _split(url)
        self.server = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        self._options: dict[str, Any] = {
            "base_url": f"{url.rstrip('/')}/api/",
            "headers": {"X-API-Key": api_key, "Content-Type": "application/json"},
            "timeout": httpx.Timeout(TIMEOUT_S, pool=None),
            "limits": httpx.Limits(max_connections=MAX_CONNECTIONS),
            # A proxy of the environment is no help on the way to this machine itself.
            "trust_env": not is_loopback_host(parts.hostname or ""),
        }

    @staticmethod
    def failure(error: Exception) -> Failure:
        """Return what one of the `failures` means."""
        if isinstance(error, PartlyDone):
            return replace(_Base.failure(error.error), may_be_done=True)
        if isinstance(error, ReplyError):
            return error.failure
        text = str(error) or type(error).__name__
        passes = isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)
        return Failure(text, passes, passes and not isinstance(error, _NOT_SENT))


class HttpTransport(_Base):
    """For plain functions, in any number of threads."""

    def __init__(self, url: str, api_key: str) -> None:
        super().__init__(url, api_key)
        self._client = httpx.Client(**self._options)

    def renew_in_child(self) -> None:
        """See `heliograph.client.forks`."""
        leave_alone(self._client)
        self._client = httpx.Client(**self._options)

    def close(self) -> None:
        """Close the connections. May be called twice."""
        self._client.close()

    def send(self, drafts: Sequence[Draft], *, kept: bool) -> list[Published]:
        """Publish them in order."""
        found: list[Published] = []
        for request in requests_of(drafts):
            with after(found, self.failures):
                response = self._client.post(request.method, content=request.body)
                found += read_response(request, response.status_code, response.content)
        return found


class AsyncHttpTransport(_Base):
    """For coroutines of one event loop."""

    def __init__(self, url: str, api_key: str) -> None:
        super().__init__(url, api_key)
        self._client = httpx.AsyncClient(**self._options)

    def renew_in_child(self) -> None:
        """See `heliograph.client.forks`."""
        leave_alone(self._client)
        self._client = httpx.AsyncClient(**self._options)

    async def close(self) -> None:
        """Close the connections. May be called twice."""
        await self._client.aclose()

    async def send(self, drafts: Sequence[Draft], *, kept: bool) -> list[Published]:
        """See `HttpTransport.send`."""
        found: list[Published] = []
        for request in requests_of(drafts):
            with after(found, self.failures):
                response = await self._client.post(request.method, content=request.body)
                found += read_response(request, response.status_code, response.content)
        return found


def _split(url: str) -> Any:
    """Return the parts of the URL. Raises BadSetting, without repeating a password."""
    try:
        parts = urlsplit(url)
        _ = parts.port
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL) as error:
        raise BadSetting(f"the URL of the cluster cannot be used: {error}") from None
    if not parts.hostname or parts.query or parts.fragment:
        raise BadSetting("the URL of the cluster is http(s)://host[:port][/prefix], with no query")
    return parts
