"""Numbers of up to 64 bits in as few bytes as they need: in the cursors of the plain protocol, and in Protobuf."""

from typing import Final

MOST: Final = 2**64 - 1
_SMALL: Final = [bytes((number,)) for number in range(0x80)]


def varint(number: int) -> bytes:
    """Return a number that is not negative: seven bits each byte, the lowest first; the last has no highest bit."""
    if number < 0x80:
        return _SMALL[number]
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return the number at `at`, and where it ends.

    Raises:
        ValueError: there is none before `end`, or it has more than 64 bits.
    """
    number = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if number > MOST:
                break
            return number, at
        shift += 7
    raise ValueError("a number does not end, or has more than 64 bits")
