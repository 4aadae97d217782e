"""The channels of a cluster, listed for whoever asks with whatever pattern."""

import asyncio

from heliograph.backends.memory.channel_counts import MemoryChannelCounts
from heliograph.cluster.channel_counts import BATCH, ChannelList
from heliograph.tasks import end


class TestPatterns:
    async def test_others_have_their_turn_while_a_hard_pattern_is_compared(self) -> None:
        """Fails if whoever lists many channels holds up everything else on the replica meanwhile."""
        backend = MemoryChannelCounts()
        names = [f"{'a' * 500}{number}" for number in range(2000)]
        await backend.enter("lease", dict.fromkeys(names, 1))
        await backend.enter("other", {names[7]: 2})
        channels = ChannelList([backend])
        turns = 0

        async def somebody_else() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(somebody_else())
        try:
            assert await channels.channels("*" + "a" * 255 + "b*" + "a" * 200) == {}
        finally:
            await end([other])
        assert turns >= len(names) // BATCH
        assert await channels.channels("*a7") == {names[7]: 3}
        assert set(await channels.channels()) == set(names)
