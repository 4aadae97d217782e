"""TCP ports of loopback for what tests start: no two test processes on one machine are given the same."""

import socket

FIRST, LAST = 10_000, 20_000  # below those that the kernel gives to outgoing connections
BLOCK = 400


def can_listen(port: int) -> bool:
    """True if nobody listens on this port, and no connection that has just ended keeps it."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class PortBlock:
    """A block of ports that belongs to this process until it ends: who listens on its first port has it."""

    def __init__(self) -> None:
        for self._first in range(FIRST, LAST, BLOCK):
            self._claim = socket.socket()
            try:
                self._claim.bind(("127.0.0.1", self._first))
                self._claim.listen(1)
            except OSError:
                self._claim.close()
                continue
            self._next = 1
            return
        raise RuntimeError(f"every block of ports from {FIRST} to {LAST} is taken by other test processes")

    def take(self, size: int) -> int:
        """The first of `size` free ports in a row. A port comes again only when the whole block has been given."""
        for _ in range(BLOCK):
            if self._next + size > BLOCK:
                self._next = 1
            first = self._first + self._next
            self._next += size
            if all(can_listen(port) for port in range(first, first + size)):
                return first
        raise RuntimeError(f"there are no {size} free ports from {self._first} to {self._first + BLOCK}")


_blocks: list[PortBlock] = []


def free_port() -> int:
    """A port that nobody listens on, and that nobody else is given."""
    return free_port_block(1)


def free_port_block(size: int) -> int:
    """The first of `size` such ports in a row."""
    if not _blocks:
        _blocks.append(PortBlock())
    return _blocks[0].take(size)
