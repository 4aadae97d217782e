"""A proxy of the kind that offices have: it lets some requests through and answers others itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tests.support.waiting import eventually

FORBIDDEN = (
    b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\nContent-Type: text/html\r\nConnection: close\r\n\r\nForbidden"
)


class Gate:
    """`target`: the port behind it; 0 refuses. A request whose head holds one of `forbidden` is answered with 403."""

    def __init__(self, target: int, *forbidden: bytes) -> None:
        self.target = target
        self.forbidden = set(forbidden)
        self.port = 0
        self.seen: list[str] = []  # the first line of each connection
        self._open: set[asyncio.StreamWriter] = set()
        self.connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Every connection ends at once."""
        for writer in self._open:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        task = asyncio.current_task()
        assert task is not None
        self.connections.add(task)
        try:
            await self._serve(reader, writer)
        finally:
            writer.close()
            self.connections.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if not self.target:
                return
            head = await reader.readuntil(b"\r\n\r\n")
            self.seen.append(head.partition(b"\r\n")[0].decode())
            if any(word in head for word in self.forbidden):
                writer.write(FORBIDDEN)
                await writer.drain()
                return
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
            far_writer.write(head)
            self._open |= {writer, far_writer}
            try:
                await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
            finally:
                self._open -= {writer, far_writer}


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def gate_to(url: str, *forbidden: bytes) -> AsyncIterator[Gate]:
    """A gate before a replica at `url`, until the end of the block."""
    gate = Gate(int(url.rpartition(":")[2]), *forbidden)
    server = await asyncio.start_server(gate.serve, "127.0.0.1", 0)
    gate.port = server.sockets[0].getsockname()[1]
    try:
        yield gate
    finally:
        server.close()
        gate.cut()
        await eventually(lambda: not gate.connections)
