"""One call of the server API, for commands that ask something."""

from typing import Any, Final

import httpx
import msgspec

from heliograph.client.connection.addresses import Addresses
from heliograph.client.environment import api_settings
from heliograph.errors import NotAnswered, RequestRefused
from heliograph.loopback import is_loopback_host

TIMEOUT_S: Final = 10.0


class ServerApi:
    """The server API of the cluster at `url`, with the key of the environment."""

    def __init__(self, url: str) -> None:
        """Nothing is asked yet.

        Raises:
            BadSetting: the URL cannot be used, or there is no key.
        """
        addresses = Addresses.of(url)
        self._base = f"{addresses.http}/api"
        self._http = httpx.Client(
            headers={"X-API-Key": api_settings().key, "Content-Type": "application/json"},
            timeout=TIMEOUT_S,
            trust_env=not is_loopback_host(addresses.host),
        )

    def close(self) -> None:
        self._http.close()

    def call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Return the result of a method.

        Raises:
            RequestRefused: the server says why not.
            NotAnswered: the cluster cannot be reached, or what answers is not its API.
        """
        url = f"{self._base}/{method}"
        try:
            response = self._http.post(url, content=msgspec.json.encode(params))
        except httpx.HTTPError as error:
            raise NotAnswered(f"{url} cannot be reached: {str(error) or type(error).__name__}") from None
        try:
            body = msgspec.json.decode(response.content)
            if "result" in body:
                result: dict[str, Any] = body["result"]
                return result
            raise RequestRefused(str(body["error"]["code"]), str(body["error"]["message"]))
        except (msgspec.MsgspecError, TypeError, KeyError):
            text = (
                f"{url} answers with HTTP status {response.status_code}, and not as the server API: is the URL right?"
            )
            raise NotAnswered(text) from None
