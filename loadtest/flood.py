"""One user who sends as much as possible beside normal users: who is slowed down, and who is refused?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadtest.figures import Histogram

if TYPE_CHECKING:
    from loadtest.figures import Figures

LARGE = 60_000  # bytes of data, in a frame of 64 KiB at the most
GHOSTS = 50  # made-up recipients
AT_ONCE = 500  # small frames
TIMES = 2.0  # a flood may multiply the p99 of the others by this ...
NOISE_MS = 5.0  # ... or add this much, the noise of a shared machine


@dataclass
class Flood:
    """The attacker's doings. `begins_at`: seconds since the start of the run; the first part is without a flood."""

    begins_at: float
    writes: int = 0
    megabytes: float = 0.0
    refused: int = 0  # error frames that came back
    closed: int = 0  # connections that ended, or were refused


def frames(kind: int) -> list[bytes]:
    """Return the bytes that one socket sends again and again. Small frames are written many at once.

    A real attacker has its own machine; here it shares the cluster's, and must not take its processor.
    """
    large = "x" * LARGE
    if kind == 0:  # fills Redis, by way of users who do not exist
        texts = [f'{{"type":"send","to":"ghost-{n}","data":"{large}"}}' for n in range(GHOSTS)]
    elif kind == 1:  # fills the workers' streams
        texts = [f'{{"type":"emit","event":"payment.confirmed","data":"{large}"}}']
    elif kind == 2:  # goes to every replica
        texts = [f'{{"type":"send","to":"ghost","ephemeral":true,"data":"{large}"}}']
    elif kind == 3:  # many logs, each of which takes kilobytes
        texts = [f'{{"type":"send","to":"small-ghost-{n}","data":{n}}}' for n in range(5000)]
    else:  # one mailbox, and one channel
        texts = [f'{{"type":"send","to":"ghost","data":{n}}}' for n in range(100)]
        texts += [f'{{"type":"publish","channel":"flooded","data":"{large}"}}']
    wire = [_frame(text.encode()) for text in texts]
    if len(wire[0]) > LARGE:
        return wire
    return [b"".join(wire[i : i + AT_ONCE]) for i in range(0, len(wire), AT_ONCE)]


def _frame(payload: bytes) -> bytes:
    """Return a text frame as bytes, masked with zeros."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + size.to_bytes(2, "big")
    return b"\x81" + length + bytes(4) + payload


def compare(figures: Figures, begins_at: float) -> dict[str, tuple[float, float]]:
    """Return, by scenario, the p99 in ms of the seconds before the flood, and of those during it."""
    parts: tuple[dict[str, Histogram], dict[str, Histogram]] = {}, {}
    for number, second in figures.seconds.items():
        # Skip the second in which it begins, the first ones, as users connect, and the last, as they leave.
        if number < 2 or second.ending or int(begins_at) == number:
            continue
        for scenario, histogram in second.delivered.items():
            parts[number > begins_at].setdefault(scenario, Histogram()).merge(histogram)
    before, during = parts
    return {
        scenario: (1000 * (before[scenario].percentile(99) or 0), 1000 * (during[scenario].percentile(99) or 0))
        for scenario in sorted(before.keys() & during.keys())
    }


def slowed_down(p99_ms: dict[str, tuple[float, float]]) -> list[str]:
    """Return the scenarios that the flood has slowed down too much."""
    return [
        f"{scenario}: p99 {before:.1f} ms without the flood, {during:.1f} ms with it"
        for scenario, (before, during) in p99_ms.items()
        if during > max(TIMES * before, before + NOISE_MS)
    ]
