"""Slots of a cluster, and the tags that put each virtual shard into one. Pure."""

from binascii import crc_hqx
from functools import cache
from itertools import count
from typing import Final

SLOTS: Final = 16_384
_FIRST: Final = 32  # the slot of the first virtual shard, whatever their number
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


def slot_of(key: str) -> int:
    """Return the slot of a key or bus channel: if it has a tag, `{…}`, only that counts."""
    _, brace, rest = key.partition("{")
    tag, end, _ = rest.partition("}")
    hashed = tag if brace and end and tag else key
    return crc_hqx(hashed.encode("utf-8", "surrogatepass"), 0) % SLOTS


@cache
def balanced_tags(shards: int) -> tuple[str, ...]:
    """Return a tag for each of the virtual shards, so that their slots lie as far apart as they can.

    Servers own ranges of slots: N servers that share the slots evenly have numbers of virtual shards that differ by
    at most 1. The first tag is the same for any number, so that programs with another number meet the layout there
    (`layout.py`). The tags are names in Redis, so they must never change.
    """
    wanted = {_FIRST + shard * SLOTS // shards: shard for shard in range(shards)}
    found: dict[int, str] = {}
    for number in count():
        tag = _in_base_36(number)
        shard = wanted.get(slot_of(tag))
        if shard is not None and shard not in found:
            found[shard] = tag
            if len(found) == shards:
                break
    return tuple(found[shard] for shard in range(shards))


def _in_base_36(number: int) -> str:
    text = ""
    while number or not text:
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
    return text
