"""A network that misbehaves: stands between a client and a server on loopback."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self


class TcpProxy:
    """`async with TcpProxy(target_port) as proxy:` connect to `proxy.port` instead."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._links: list[_Link] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.refuse_after = -1  # so many more connections are let through, the rest is closed at once (-1: all are)
        self.delay_s = 0.0  # how much later the client hears what the server sends
        self.cut_after = -1  # so many more bytes from the server, then the connection ends (-1: never)

    @property
    def url(self) -> str:
        """As a Redis URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def let_through(self, data: bytes) -> bytes:
        """What of this, coming from the server, still reaches the client."""
        if self.cut_after < 0:
            return data
        passed = data[: self.cut_after]
        self.cut_after -= len(passed)
        return passed

    def deafen(self, said: bytes = b"") -> int:
        """The clients that are connected now and have sent `said` hear nothing from the server any more.

        Their connections stay open in both directions; what the server sends is thrown away. Returns how many.
        """
        deaf = [link for link in self._links if said in link.said]
        for link in deaf:
            link.deaf = True
        return len(deaf)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse_after == 0 or not self._server.is_serving():  # accepted while the proxy was closing
            writer.close()
            return
        self.refuse_after -= self.refuse_after > 0
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        link = _Link(self)
        self._links.append(link)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            try:
                await asyncio.gather(link.up(reader, far_writer), link.down(far_reader, writer))
            finally:
                far_writer.close()
        except OSError:
            pass  # the server is gone, and so is this connection
        finally:
            writer.close()
            self._links.remove(link)
            self._tasks.discard(task)


class _Link:
    """One connection through the proxy."""

    def __init__(self, proxy: TcpProxy) -> None:
        self._proxy = proxy
        self.said = b""  # the beginning of what the client has sent
        self.deaf = False

    async def up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                self.said = (self.said + data)[:4096]
                writer.write(data)
                await writer.drain()
        writer.close()

    async def down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.deaf:
                    continue
                if self._proxy.delay_s:
                    await asyncio.sleep(self._proxy.delay_s)
                writer.write(self._proxy.let_through(data))
                await writer.drain()
                if self._proxy.cut_after == 0:
                    break
        if not self.deaf:
            writer.close()
