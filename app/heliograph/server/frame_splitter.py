"""Split the bytes of a client into whole WebSocket frames. Pure.

Nearly all client frames are short text in one frame; this module unmasks and decodes them. It passes every other
frame on unchanged and whole to a parser that knows all of RFC 6455. That parser is always between two frames.
"""

from collections.abc import Callable

from websockets.speedups import apply_mask

_TEXT = 0x81  # final, no extension, opcode 1
_FINAL = 0x80
_MASKED = 0x80  # highest bit of the second byte; the rest is the length, or 126 or 127 if more bytes hold it
_FIRST_CONTROL_OPCODE = 8


class FrameSplitter:
    """Call `on_text` with each text and `on_frame` with each other frame, in order.

    The splitter does not wait for the rest of a frame without a mask, or with more than `max_bytes` of payload: the
    part that has arrived goes to `on_frame`, whose parser refuses it. The rest is skipped, so that the next frame is
    understood.
    """

    __slots__ = ("_fragmented", "_max_bytes", "_on_frame", "_rest", "_wanted", "on_text", "to_skip")

    def __init__(self, on_text: Callable[[str], object], on_frame: Callable[[bytes], object], max_bytes: int) -> None:
        self.on_text = on_text
        self._on_frame = on_frame
        self._max_bytes = max_bytes
        self._rest: bytearray | None = None  # the beginning of a frame
        self._wanted = 0  # how many bytes `_rest` needs before it is looked at again
        self._fragmented = False  # a message has begun whose last fragment has not come
        self.to_skip = 0  # missing bytes of a refused frame; `_rest` is empty meanwhile, not None

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._rest is not None:
            if self.to_skip:
                skipped = min(self.to_skip, len(data))
                self.to_skip -= skipped
                if self.to_skip:
                    return
                data = data[skipped:]
            self._rest += data
            if len(self._rest) < self._wanted:
                return
            data, self._rest = bytes(self._rest), None
        at, size = 0, len(data)
        while at < size:
            if size - at < 2:
                self._keep(data[at:], 2)
                return
            first, length = data[at], data[at + 1] - _MASKED
            if length < 0:
                at = self._pass_by(data, at, mask_bytes=0)
                continue
            start = at + (6 if length < 126 else 8 if length == 126 else 14)
            if start > size:
                self._keep(data[at:], start - at)
                return
            if length > 125:
                length = int.from_bytes(data[at + 2 : start - 4])
            if length > self._max_bytes:
                at = self._pass_by(data, at, mask_bytes=4)
                continue
            end = start + length
            if end > size:
                self._keep(data[at:], end - at)
                return
            if first == _TEXT and not self._fragmented:
                payload = apply_mask(data[start:end], data[start - 4 : start])
                try:
                    text = payload.decode()
                except UnicodeDecodeError:
                    self._on_frame(data[at:end])
                else:
                    self.on_text(text)
            else:
                if first & 0x0F < _FIRST_CONTROL_OPCODE:
                    self._fragmented = not first & _FINAL
                self._on_frame(data[at:end])
            at = end

    def _pass_by(self, data: bytes, at: int, mask_bytes: int) -> int:
        """Pass on the present part of a refused frame. Return where the next frame, or the end of the data, is."""
        size, length = len(data), data[at + 1] & 0x7F
        start = at + 2 + (0 if length < 126 else 2 if length == 126 else 8)
        if start > size:
            self._keep(data[at:], start - at)
            return size
        if length > 125:
            length = int.from_bytes(data[at + 2 : start])
        end = start + mask_bytes + length
        self._on_frame(data[at : min(end, size)])
        if end <= size:
            return end
        self._rest, self._wanted, self.to_skip = bytearray(), 2, end - size
        return size

    def _keep(self, rest: bytes, wanted: int) -> None:
        self._rest = bytearray(rest)
        self._wanted = wanted
