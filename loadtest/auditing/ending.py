"""The end of an audit: what stands in the logs, and whether everybody has got there."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import httpx

from heliograph.protocol.position import Position
from loadtest.auditing.clients import Subscriber
from loadtest.auditing.history import History, Kept, Top
from loadtest.auditing.scene import true_within

API_KEY: Final = "the key of the audit's cluster"
SETTLE_S: Final = 20.0
ATTEMPTS: Final = 20


class Logs:
    """Reads the logs through a replica's server API. `url`: of the replica."""

    def __init__(self, url: str) -> None:
        self._http = httpx.AsyncClient(base_url=url, headers={"X-API-Key": API_KEY}, timeout=10)

    async def top(self, channel: str) -> Position:
        """Where the channel stands: in a new epoch, if Redis was replaced and nobody has looked since."""
        result = await self._history(channel)
        return Position(result["epoch"], result["offset"])

    async def note(self, history: History, channel: str) -> None:
        """Note all that is in the log of the channel, and where it stands."""
        since = None
        while True:
            result = await self._history(channel, limit=-1, **({"since": since} if since else {}))
            for each in result["publications"]:
                sender, number = each["data"]
                place = {"channel": channel, "epoch": result["epoch"], "offset": each["offset"]}
                history.note(Kept, **place, sender=sender, number=number)
                since = {"epoch": result["epoch"], "offset": each["offset"]}
            if not result["publications"]:
                break
        history.note(Top, channel=channel, epoch=result["epoch"], offset=result["offset"])

    async def _history(self, channel: str, **options: object) -> dict[str, Any]:
        """Ask until there is an answer: a cluster that has just been broken may need a moment."""
        for _ in range(ATTEMPTS):
            answer = (await self._http.post("/api/history", json={"channel": channel, **options})).json()
            if "result" in answer:
                return dict(answer["result"])
            await asyncio.sleep(0.5)
        raise RuntimeError(f"the log of {channel} cannot be read: {answer['error']}")

    async def aclose(self) -> None:
        await self._http.aclose()


async def settle(readers: Sequence[Subscriber], tops: dict[str, Position]) -> None:
    """Wait until every reader stands where the logs do; the verdict names those that do not get there."""
    await true_within(
        lambda: all(
            position == tops[channel]
            for reader in readers
            for channel, position in reader.positions.items()
            if channel in tops
        ),
        SETTLE_S,
    )
