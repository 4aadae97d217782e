"""The drain of a replica before it stops: its clients reconnect elsewhere, spread over time."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping

from heliograph.hub.connection import Connection
from heliograph.hub.hub import Hub
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.events import Reconnect
from heliograph.protocol.position import Position
from heliograph.settings import DrainSettings

logger = logging.getLogger(__name__)

SLICE_S = 0.05  # clients are told and closed in slices of this length


class Drain:
    """The drain of one replica. `positions_of`: a connection's positions, from which it resumes elsewhere."""

    def __init__(
        self, hub: Hub, positions_of: Callable[[Connection], Mapping[str, Position]], settings: DrainSettings
    ) -> None:
        self._hub = hub
        self._positions_of = positions_of
        self._settings = settings

    async def send_off(self, first: Callable[[], Awaitable[None]]) -> None:
        """Tell all clients to reconnect, spread over the drain window. First await `first`, which tells the replicas.

        Each client gets its time, and is closed (3001) if it has not left some time after that. Return when no client
        is left, or at the deadline.
        """
        try:
            async with asyncio.timeout(self._settings.deadline_s):
                await first()
                await self._send_off(list(self._hub))
        except TimeoutError:
            logger.warning(
                "drain deadline (HELIOGRAPH_DRAIN__DEADLINE_S) passed with %d connections left; they are cut",
                self._hub.connections,
            )

    async def _send_off(self, connections: list[Connection]) -> None:
        if not connections:
            return
        settings = self._settings
        window_s = min(settings.window_s, len(connections) / settings.per_second)
        logger.info("draining %d connections over %.1f s", len(connections), window_s)
        random.shuffle(connections)  # neighbours in the registry are often one office behind one address
        slices = max(1, round(window_s / SLICE_S))
        for i, connection in enumerate(connections):
            in_ms = round(1000 * window_s * i / len(connections))
            self._hub.send(connection, Reconnect(in_ms, self._positions_of(connection)))
            if i % 1000 == 999:
                await asyncio.sleep(0)  # let pongs and acks go on
        await asyncio.sleep(settings.grace_s)
        for i in range(slices):
            for connection in _part(connections, i, slices):
                connection.close(CloseCode.SHUTDOWN, "this replica is shutting down")
            await asyncio.sleep(SLICE_S)
        while self._hub.connections:  # noqa: ASYNC110 - the hub has no events, and the deadline bounds this
            await asyncio.sleep(SLICE_S)


def _part(connections: list[Connection], i: int, parts: int) -> list[Connection]:
    """Return the i-th of `parts` parts of the list, in order."""
    return connections[len(connections) * i // parts : len(connections) * (i + 1) // parts]
