"""The common part of the methods that the server answers without the application, as soon as Redis has answered."""

from typing import Final

from heliograph.api.publishing import Publishing
from heliograph.settings import ApiSettings
from heliograph.transports.api_key import is_key
from heliograph.transports.direct import Headers

_MOST_BYTES: Final = 262_144  # a larger body is the application's, which reads it with back-pressure


class DirectMethod:
    """The admission of a `DirectEndpoint`. A request that is wrong goes to `ApiEndpoint`, which says why."""

    def __init__(self, publishing: Publishing, settings: ApiSettings) -> None:
        self._publishing = publishing
        self._key = settings.secret()
        self._most_bytes = min(_MOST_BYTES, settings.body_bytes)

    def admits(self, headers: Headers) -> bool:
        key, size = None, self._most_bytes + 1
        for name, value in headers:
            if name == b"content-length":
                size = int(value)
            elif name == b"x-api-key" and key is None:
                key = value
        return size <= self._most_bytes and key is not None and is_key(key, self._key)
