"""Messages to users that nobody has taken in time, in Redis: who has taken what, and the events about the rest.

The script that keeps a message notes that nobody may have taken it (`lua/_untaken.lua`). Here that is corrected, and
when a user's first untaken message is due, one script tells of it and forgets it.
"""

from collections import defaultdict, deque
from collections.abc import Sequence
from itertools import chain
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

from heliograph.backends.redis.call_batch import NOTHING, Call
from heliograph.backends.redis.client import as_bus_unavailable
from heliograph.backends.redis.lifecycle import LifecycleEvents
from heliograph.backends.redis.receipts import field_of
from heliograph.backends.redis.server import RedisServer
from heliograph.ports import Written
from heliograph.protocol.identity import personal_channel, user_of
from heliograph.protocol.lifecycle import Kind

if TYPE_CHECKING:
    from heliograph.backends.redis.scripts import Argument

SLACK_S: Final = 3.0  # replicas say what was written, and clients what they have received, a second or two late
REMEMBERED_S: Final = 5.0  # longer than what a Redis that restarts may lose
_USERS: Final = 200  # in one round trip
_EVENTS: Final = 100  # of one user in one call: short enough not to delay Redis

_Noted = tuple[float, Sequence[Written]]  # when (monotonic)


class RedisUndelivered:
    """`Undelivered` in Redis. `after_s`: the time in which somebody must take a message."""

    def __init__(
        self, server: RedisServer, events: LifecycleEvents, *, after_s: float, slack_s: float = SLACK_S
    ) -> None:
        self._scripts = server.scripts
        self._keys = server.keys
        self._events = events
        self._after_ms = int(after_s * 1000)
        self._slack_ms = int(slack_s * 1000)
        self._fence = b""  # of the server, as it has answered last
        self._recent: deque[_Noted] = deque()

    async def note(self, written: Sequence[Written]) -> None:
        with as_bus_unavailable():
            fence = await self._take(written)
            await self._repeat_after_restart(fence, written)
        now = monotonic()
        self._recent.append((now, written))
        while self._recent[0][0] < now - REMEMBERED_S:  # not earlier: a Redis that was away may have lost it
            self._recent.popleft()

    async def tell(self) -> int:
        total = 0
        is_more = True
        while is_more:
            with as_bus_unavailable():
                fence, *metas = await self._scripts.run("untaken_due", [self._keys.untaken], [self._slack_ms, _USERS])
                await self._repeat_after_restart(fence)
                answers = await self._scripts.run_many("undelivered", [self._tell_call(meta) for meta in metas])
            total += sum(told for told, _ in answers)
            is_more = len(metas) == _USERS or any(more for _, more in answers)
        return total

    async def _take(self, written: Sequence[Written]) -> bytes:
        """Note what was written. Return the fence."""
        by_user: dict[str, list[Written]] = defaultdict(list)
        for each in written:
            by_user[each.user].append(each)
        calls = [self._take_call(user, of_user) for user, of_user in by_user.items()]
        fence = self._fence
        for start in range(0, len(calls), _USERS):
            *_, fence = await self._scripts.run_many("take", calls[start : start + _USERS])
        return fence

    async def _repeat_after_restart(self, fence: bytes, just_noted: Sequence[Written] = ()) -> None:
        """Note again what the server may have lost, if it is not the one that has answered last.

        `just_noted`: not remembered yet, and noted in several round trips, the first ones perhaps before the restart.
        """
        if self._fence and self._fence != fence:
            recent = [written for _, written in self._recent]
            await self._take(list(chain.from_iterable([*recent, just_noted])))
        self._fence = fence

    def _take_call(self, user: str, written: Sequence[Written]) -> Call:
        channel, keys = personal_channel(user), self._keys
        arguments: list[Argument] = []
        for each in written:
            arguments += [field_of(each.device, channel), each.epoch, each.after, each.up_to]
        return [keys.meta(channel), keys.receipts(user), keys.untaken], arguments, NOTHING

    def _tell_call(self, meta: bytes) -> Call:
        keys, channel = self._keys, self._keys.channel_of_meta(meta.decode())
        user = cast("str", user_of(channel))
        names = [
            keys.meta(channel),
            keys.stream(channel),
            keys.client_stream(channel),
            keys.receipts(user),
            keys.untaken,
            *self._events.keys,
        ]
        arguments: list[Argument] = [user, channel, self._after_ms, self._slack_ms, _EVENTS]
        arguments.append(self._events.told(Kind.MESSAGE_UNDELIVERED))
        return names, [*arguments, *self._events.arguments(Kind.USER_ONLINE, Kind.USER_OFFLINE)], NOTHING
