"""A cursor of many channels in few bytes, because it is repeated with each event of a stream.

Names take most of a cursor, so this one leaves them out. It holds a hash of each name; the reader knows the names of
the channels. Hashes are short; the writer picks a salt with which no two of its channels have the same. For a hundred
channels the cursor has about 1 KiB, however long their names are.

`~`, then base64 without padding of: hash bits, salt, number of channels, the sorted hashes as differences, then in
that order epoch (4 bytes) and offset of each channel. Numbers are varints. Epoch 0 with offset 0: unknown.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from heliograph.codecs.varint import read_varint, varint

MARK: Final = "~"
UNKNOWN: Final = bytes(5)
FEW: Final = 64  # up to this number of channels, a hash of 16 bits is enough
MOST_BITS: Final = 64
BITS_OF_ONE: Final = 48  # of a cursor whose reader may look other channels up in it
_GOLDEN: Final = 0x9E3779B97F4A7C15  # an odd number whose multiples are spread evenly over 64 bits
_MASK: Final = (1 << 64) - 1


class ShortCursor:
    """A decoded cursor: the position of each channel by the hash of its name."""

    __slots__ = ("_bits", "_positions", "_salt")

    def __init__(self, text: str, most: int | None = None) -> None:
        """Decode one. `most`: how many channels it may hold, which limits the cost.

        Raises:
            ValueError: it is not such a cursor.
        """
        coded = text.removeprefix(MARK)
        data = urlsafe_b64decode(coded + "=" * (-len(coded) % 4))
        if urlsafe_b64encode(data).rstrip(b"=").decode() != coded:
            raise ValueError(text)
        self._bits, at = read_varint(data, 0, len(data))
        self._salt, at = read_varint(data, at, len(data))
        count, at = read_varint(data, at, len(data))
        if not 0 < self._bits <= MOST_BITS or self._salt > _MASK or count > (len(data) if most is None else most):
            raise ValueError(text)
        hashes, last = [], -1
        for _ in range(count):
            gap, at = read_varint(data, at, len(data))
            last += gap + 1
            hashes.append(last)
        self._positions: dict[int, tuple[str, int]] = {}
        for each in hashes:
            epoch = data[at : at + 4]
            offset, at = read_varint(data, at + 4, len(data))
            if offset or any(epoch):
                self._positions[each] = epoch.hex(), offset
        if at != len(data):
            raise ValueError(text)

    def __len__(self) -> int:
        return len(self._positions)

    def find(self, channel: str) -> tuple[str, int] | None:
        """Return epoch and offset of a channel; None if it is not in the cursor."""
        return self._positions.get(_hash(_digest(channel), self._salt, self._bits))


class ShortCursorWriter:
    """Write the cursor of a fixed set of channels, again and again."""

    __slots__ = ("_head", "_indexes", "_records", "_text")

    def __init__(self, channels: Sequence[str]) -> None:
        digests = {channel: _digest(channel) for channel in channels}
        bits, salt = 16 if len(digests) < FEW else 2 * len(digests).bit_length() - 1, 0
        while len({_hash(digest, salt, bits) for digest in digests.values()}) < len(digests):
            salt += 1
            bits += salt % 32 == 0  # hardly ever needed
        hashes = sorted((_hash(digest, salt, bits), channel) for channel, digest in digests.items())
        gaps = [each - before - 1 for (before, _), (each, _) in zip([(-1, ""), *hashes], hashes, strict=False)]
        self._head = b"".join(map(varint, (bits, salt, len(gaps), *gaps)))
        self._indexes = {channel: index for index, (_, channel) in enumerate(hashes)}
        self._records = [UNKNOWN] * len(hashes)
        self._text: str | None = None

    def move(self, channel: str, epoch: str, offset: int) -> bool:
        """Move the channel there. Return False if it cannot be written: unknown channel, or odd epoch."""
        index, record = self._indexes.get(channel), _record(epoch, offset)
        if index is None or record is None:
            return False
        self._records[index] = record
        self._text = None
        return True

    def __str__(self) -> str:
        if self._text is None:
            self._text = _coded(self._head + b"".join(self._records))
        return self._text


def cursor_of_one(channel: str, epoch: str, offset: int) -> str | None:
    """Return the cursor of one channel without its name; None if it cannot be written: an odd epoch."""
    record = _record(epoch, offset)
    return None if record is None else _coded(_head_of_one(channel) + record)


@lru_cache(maxsize=10_000)
def _head_of_one(channel: str) -> bytes:
    return b"".join(map(varint, (BITS_OF_ONE, 0, 1, _hash(_digest(channel), 0, BITS_OF_ONE))))


def _coded(data: bytes) -> str:
    return MARK + urlsafe_b64encode(data).rstrip(b"=").decode()


def _record(epoch: str, offset: int) -> bytes | None:
    """Encode a position; None if its epoch is not the usual 8 digits."""
    if len(epoch) != 8:
        return None
    try:
        packed = bytes.fromhex(epoch)
    except ValueError:
        return None
    return packed + varint(offset) if packed.hex() == epoch else None


def _digest(channel: str) -> int:
    return int.from_bytes(blake2b(channel.encode(errors="surrogatepass"), digest_size=8).digest())


def _hash(digest: int, salt: int, bits: int) -> int:
    return (digest * (2 * salt + 1) * _GOLDEN & _MASK) >> (64 - bits)
