"""A WebSocket client that does only what it is told: no pongs, no reading, no manners."""

import asyncio
import base64
import json
import os
import socket
import struct
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
CONTINUATION = 0x0


class RawSocket:
    """`async with RawSocket(base_url, "/ws?user=alice") as raw:`; the answer to the handshake is in `status`.

    Nothing is read from the socket but by `read` and `frame`. `receive_buffer`: SO_RCVBUF, in bytes.
    """

    def __init__(
        self,
        base_url: str,
        target: str | bytes = "/ws",
        *,
        headers: dict[str, str] | None = None,
        receive_buffer: int | None = None,
    ) -> None:
        parts = urlsplit(base_url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._address = (parts.hostname, parts.port)
        self._target = target if isinstance(target, bytes) else target.encode()
        self._headers = headers or {}
        self._buffer = bytearray()
        self.status = 0
        self.head = ""
        self.socket = socket.socket()
        self.socket.setblocking(False)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self.socket, self._address)
        fields = {
            "Host": f"{self._address[0]}:{self._address[1]}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            "Sec-WebSocket-Version": "13",
            **self._headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        await loop.sock_sendall(self.socket, b"GET " + self._target + b" HTTP/1.1\r\n" + f"{lines}\r\n".encode())
        async with asyncio.timeout(5):
            while (end := self._buffer.find(b"\r\n\r\n")) < 0:
                assert await self._fill(), "the server closed during the handshake"
        self.head = bytes(self._buffer[:end]).decode("latin-1")
        self.status = int(self.head.split(" ")[1])
        del self._buffer[: end + 4]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    async def say(self, value: Any) -> None:
        """One text frame; what is no bytes is written as JSON."""
        await self.send(TEXT, value if isinstance(value, bytes) else json.dumps(value).encode())

    async def send(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        """One masked frame (RFC 6455 section 5.2)."""
        size = len(payload)
        head = bytearray([(0x80 if fin else 0) | opcode])
        if size < 126:
            head.append(0x80 | size)
        elif size < 1 << 16:
            head += bytes([0x80 | 126]) + struct.pack("!H", size)
        else:
            head += bytes([0x80 | 127]) + struct.pack("!Q", size)
        head += bytes(4)  # a mask of zeroes changes nothing
        await asyncio.get_running_loop().sock_sendall(self.socket, bytes(head) + payload)

    async def frame(self, within_s: float = 5.0) -> tuple[int, bytes]:
        """The next frame: opcode and payload."""
        async with asyncio.timeout(within_s):
            head = await self._take(2)
            size = head[1] & 0x7F
            assert not head[1] & 0x80, "a server must not mask"
            if size == 126:
                (size,) = struct.unpack("!H", await self._take(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self._take(8))
            return head[0] & 0x0F, await self._take(size)

    async def next(self, kind: str, within_s: float = 5.0) -> dict[str, Any]:
        """The next text frame whose `type` is `kind`."""
        async with asyncio.timeout(within_s):
            while True:
                opcode, payload = await self.frame(within_s)
                assert opcode != CLOSE, f"closed: {payload!r}"
                if opcode == TEXT and (frame := json.loads(payload))["type"] == kind:
                    return dict(frame)

    async def closed(self, within_s: float = 5.0) -> tuple[int, str]:
        """Read on until the close frame: its code and reason."""
        async with asyncio.timeout(within_s):
            while True:
                opcode, payload = await self.frame(within_s)
                if opcode == CLOSE:
                    return int.from_bytes(payload[:2]), payload[2:].decode()

    async def body(self, within_s: float = 5.0) -> bytes:
        """What the server sent until it closed the TCP connection."""
        async with asyncio.timeout(within_s):
            while await self._fill():
                pass
        return bytes(self._buffer)

    def abort(self) -> None:
        """Vanish: a TCP reset, no close frame."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    async def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not await self._fill():
                raise EOFError("the server has gone")
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def _fill(self) -> bool:
        data = await asyncio.get_running_loop().sock_recv(self.socket, 65536)
        self._buffer += data
        return bool(data)
