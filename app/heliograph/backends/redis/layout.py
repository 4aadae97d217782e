"""The layout fence: a Redis keeps which shard of its cluster it is, and no program takes it for another one.

Two programs with different lists of shards would each write a channel where the other does not look. So the first
replica that takes a lease writes the layout down, and every program compares it when it loads its scripts. A shard is
named by its number and by how many there are, because its address may change. A cluster with one Redis writes none.
Virtual shards of a Redis Cluster are shards in this sense; the first is in the same slot for any number of them.
"""

from typing import TYPE_CHECKING, Final

from heliograph.backends.redis.link_errors import OtherLayout

if TYPE_CHECKING:
    from collections.abc import Sequence

ONE: Final = "one Redis"  # the layout of a cluster without shards
FIELD: Final = "layout"  # of the hash `Keys.server`
_PLACEMENT: Final = 1  # raise it if channels are ever spread in another way: see `ShardMap`


class Layout:
    """What a program takes one Redis for. `siblings`: those of all shards in its settings, itself among them."""

    def __init__(self, text: str = ONE) -> None:
        self.text = text
        self.siblings: Sequence[Layout] = (self,)
        self.was_asked = False
        self.is_settled = text == ONE  # it is written down, or never is
        self.other = ""  # the other layout that this Redis keeps, as far as it was asked

    @property
    def may_be_written(self) -> bool:
        """True if a Redis that keeps no layout may get this one: every shard was asked, and none keeps another."""
        return self.text != ONE and all(each.was_asked and not each.other for each in self.siblings)

    def compare(self, kept: str | None, *, is_used: bool = False) -> None:
        """Take what the Redis keeps; None: nothing. `is_used`: it has live replicas, so nothing means ONE.

        Raises:
            OtherLayout: it keeps another layout, or another shard does: then the whole list is wrong.
        """
        self.is_settled = self.is_settled or kept is not None
        if kept is None:
            kept = ONE if is_used else self.text
        self.was_asked = True
        self.other = "" if kept == self.text else kept
        self.check()

    def check(self) -> None:
        """Make sure that no shard that was asked so far keeps another layout.

        Raises:
            OtherLayout: one does: then the whole list is wrong.
        """
        for each in (self, *self.siblings):
            if each.other:
                raise OtherLayout(
                    f"a Redis that is {each.text!r} by the settings here keeps that it is {each.other!r}: all"
                    " programs of a cluster need the same HELIOGRAPH_REDIS__SHARDS in the same order, or the same"
                    " virtual_shards in the URL; to change them, see `heliograph shards --help`"
                )


def layouts_among(count: int) -> list[Layout]:
    """Return the layout of each of so many shards, in order."""
    if count == 1:
        return [Layout()]
    found = [Layout(f"shard {number} of {count} (v{_PLACEMENT})") for number in range(1, count + 1)]
    for each in found:
        each.siblings = found
    return found
