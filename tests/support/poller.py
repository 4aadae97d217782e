"""A client that can only poll: keeps the cursor from answer to answer."""

from types import TracebackType
from typing import Any, Self

import httpx

from tests.support.http import http_client


class Poller:
    """`async with Poller(url, user="bob", channels="news") as poller:`; `params` are those of each poll's URL."""

    def __init__(
        self,
        base_url: str,
        *,
        cursor: str = "",
        headers: dict[str, str] | None = None,
        source: str | None = None,
        **params: str,
    ) -> None:
        self.cursor = cursor
        self._params = params
        self.http = http_client(
            base_url,
            timeout=70,
            headers=headers,
            source=source,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.aclose()

    async def ask(self, wait: float | str = 5, **params: str) -> httpx.Response:
        """One poll, as it is answered."""
        query = {**self._params, "wait": str(wait), **params}
        if self.cursor:
            query["cursor"] = self.cursor
        return await self.http.get("/api/poll", params=query)

    async def poll(self, wait: float = 5, **params: str) -> list[dict[str, Any]]:
        """The events of one poll that goes well."""
        answer = await self.ask(wait, **params)
        assert answer.status_code == 200, answer.text
        self.cursor = answer.json()["cursor"]
        return list(answer.json()["events"])
