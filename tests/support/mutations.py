"""Frames that a broken or hostile client might send: valid ones, changed at random, the same in each run."""

from collections.abc import Iterator, Sequence
from random import Random
from typing import Final

MOST_CHANGES: Final = 4
INTERESTING: Final = (0, 1, 0x0A, 0x22, 0x5C, 0x7B, 0x7D, 0x7F, 0x80, 0xFF)


def mutated(frames: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """Yield changed frames without end."""
    random = Random(seed)
    while True:
        frame = bytearray(random.choice(frames))
        for _ in range(random.randint(1, MOST_CHANGES)):
            _change(frame, frames, random)
        yield bytes(frame)


def _change(frame: bytearray, frames: Sequence[bytes], random: Random) -> None:
    at = random.randrange(len(frame) + 1)
    match random.randrange(7):
        case 0 if at < len(frame):
            frame[at] = random.choice(INTERESTING)
        case 1 if at < len(frame):
            frame[at] ^= 1 << random.randrange(8)
        case 2:
            del frame[at : at + random.randint(1, 8)]
        case 3:
            frame[at:at] = bytes([random.choice(INTERESTING)]) * random.choice((1, 1, 2, 9))
        case 4:
            del frame[at:]
        case 5:  # a part of another frame
            other = random.choice(frames)
            begin = random.randrange(len(other) + 1)
            frame[at:at] = other[begin : begin + random.randint(1, 30)]
        case _:  # a part once more
            frame[at:at] = frame[at : at + random.randint(1, 30)]
