"""Reads of the log that are asked for at one moment."""

import asyncio
from collections.abc import Sequence

import pytest

from heliograph.cluster.read_batcher import ReadBatcher
from heliograph.ports import ReadRequest, ReadResult
from heliograph.protocol.position import Position

POSITION = Position("e", 1)


class Log:
    """Notes how many channels are read in each round trip."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    async def read(self, requests: Sequence[ReadRequest]) -> list[ReadResult]:
        self.batches.append(len(requests))
        return [ReadResult(POSITION, complete=True, publications=[], state=None) for _ in requests]


@pytest.mark.parametrize(("after", "batches"), [(None, [200, 50]), (POSITION, [32] * 7 + [26])])
async def test_a_storm_of_connects_costs_few_round_trips(after: Position | None, batches: list[int]) -> None:
    """Fails if positions are read a few at a time, or if very many pages are asked for at once."""
    log = Log()
    reads = ReadBatcher(log)  # type: ignore[arg-type] # all that it asks of a log
    reads.start()
    await asyncio.gather(*(reads.read(ReadRequest(f"c:{number}", after=after)) for number in range(250)))
    await reads.stop()
    assert log.batches == batches
