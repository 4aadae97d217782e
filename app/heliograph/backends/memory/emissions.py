"""What clients emit to workers, on a replica without Redis."""

from heliograph.errors import BusUnavailable
from heliograph.ports import Emission


class NoEmissions:
    """`Emissions` for a replica on its own: workers are other processes, and there is nothing they could read."""

    async def append(self, emission: Emission) -> None:
        raise BusUnavailable("'emit' needs Redis (HELIOGRAPH_REDIS__URL): the workers read it there")
