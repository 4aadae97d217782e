"""Differences between two texts, in the delta format of the Fossil version control system.

A delta is the size of the new text and a line end; then, in order, copies from the old text (`size@offset,`) and
inserted bytes (`size:bytes`); then the new text's checksum and `;`. Numbers are written to the base 64.

Inserted bytes never begin or end within a character of UTF-8, so that a delta of two texts is a text.
"""

import struct
from typing import Final

BLOCK: Final = 16  # bytes; what the two texts share is found where the old one has a block of this size
LEAST_COPY: Final = 8  # bytes; a shorter copy takes as much room as the text itself
# A publisher must not keep the replica busy. Beyond these limits there is no delta, or a longer one.
MOST_BYTES: Final = 262_144  # of a text
MOST_SEARCHED: Final = 65_536  # bytes of a text in which equal blocks are looked for
MOST_MISSED: Final = 4096  # bytes without an equal block, after which the rest is inserted
MOST_COPIES: Final = 1000  # likewise

_DIGITS: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"


def difference(old: bytes, new: bytes) -> bytes | None:
    """Return the delta that makes `new` out of `old`; None if it would not be shorter than `new`. Both are UTF-8."""
    if len(old) > MOST_BYTES or len(new) > MOST_BYTES:
        return None
    parts = [_number(len(new)), b"\n"]
    at = 0
    for begin, end, offset in _copies(old, new):
        if begin > at:
            parts += (_number(begin - at), b":", new[at:begin])
        parts += (_number(end - begin), b"@", _number(offset), b",")
        at = end
    if at < len(new):
        parts += (_number(len(new) - at), b":", new[at:])
    parts += (_number(_checksum(new)), b";")
    delta = b"".join(parts)
    return delta if len(delta) < len(new) else None


def _copies(old: bytes, new: bytes) -> list[tuple[int, int, int]]:
    """Return what can be copied: begin and end in `new`, and the offset in `old`; in order, without overlaps."""
    shorter = min(len(old), len(new))
    head = _same_ahead(old, 0, new, 0, shorter)
    tail = _same_behind(old, len(old), new, len(new), shorter - head)
    copies = [(0, head, 0), *_between(old, new, head, len(new) - tail)]
    copies.append((len(new) - tail, len(new), len(old) - tail))
    whole = [_whole_characters(new, *copy) for copy in copies]
    return [(begin, end, offset) for begin, end, offset in whole if end - begin >= LEAST_COPY]


def _between(old: bytes, new: bytes, begin: int, end: int) -> list[tuple[int, int, int]]:
    """Return what can be copied of `new` from `begin` to `end`, from anywhere in `old`."""
    copies: list[tuple[int, int, int]] = []
    if end - begin < BLOCK or len(old) > MOST_SEARCHED or end - begin > MOST_SEARCHED:
        return copies
    places: dict[bytes, int] = {}
    for place in range(0, len(old) - BLOCK + 1, BLOCK):
        places.setdefault(old[place : place + BLOCK], place)
    at, free, missed = begin, begin, 0
    while at + BLOCK <= end and missed < MOST_MISSED and len(copies) < MOST_COPIES:
        found = places.get(new[at : at + BLOCK])
        if found is None:
            at += 1
            missed += 1
            continue
        back = _same_behind(old, found, new, at, min(found, at - free, BLOCK))
        ahead = _same_ahead(old, found, new, at, min(len(old) - found, end - at))
        copies.append((at - back, at + ahead, found - back))
        at = free = at + ahead
    return copies


def _whole_characters(new: bytes, begin: int, end: int, offset: int) -> tuple[int, int, int]:
    """Return the copy without parts of characters at its ends."""
    while begin < end and new[begin] & 0xC0 == 0x80:
        begin += 1
        offset += 1
    while end > begin and end < len(new) and new[end] & 0xC0 == 0x80:
        end -= 1
    return begin, end, offset


def _same_ahead(old: bytes, i: int, new: bytes, j: int, most: int) -> int:
    """Return how many bytes from `i` and `j` on are the same, at most `most`."""
    same, step = 0, BLOCK
    while same < most:  # ever larger steps, so that a short match costs little
        unlike = min(same + step, most)
        if old[i + same : i + unlike] != new[j + same : j + unlike]:
            break
        same, step = unlike, 2 * step
    else:
        return same
    while same < unlike - 1:
        middle = (same + unlike) // 2
        if old[i + same : i + middle] == new[j + same : j + middle]:
            same = middle
        else:
            unlike = middle
    return same


def _same_behind(old: bytes, i: int, new: bytes, j: int, most: int) -> int:
    """Return how many bytes before `i` and `j` are the same, at most `most`."""
    same, step = 0, BLOCK
    while same < most:
        unlike = min(same + step, most)
        if old[i - unlike : i - same] != new[j - unlike : j - same]:
            break
        same, step = unlike, 2 * step
    else:
        return same
    while same < unlike - 1:
        middle = (same + unlike) // 2
        if old[i - middle : i - same] == new[j - middle : j - same]:
            same = middle
        else:
            unlike = middle
    return same


def _number(value: int) -> bytes:
    digits = bytearray()
    while True:
        digits.append(_DIGITS[value & 63])
        value >>= 6
        if not value:
            digits.reverse()
            return bytes(digits)


def _checksum(text: bytes) -> int:
    """Return the sum of the text's 32-bit words, the last one filled up with zeros."""
    words = -(-len(text) // 4)
    total: int = sum(struct.unpack(f">{words}I", text.ljust(words * 4, b"\0")))
    return total & 0xFFFFFFFF
