"""Commands as Redis reads them (RESP): the number of parts, then the length and the bytes of each.

hiredis does the same, and takes twice as long once this is compiled: it formats each length anew.
"""

from typing import Final

_LENGTHS: Final = [b"\r\n$%d\r\n" % size for size in range(256)]


def packed(command: tuple[str | bytes | int, ...]) -> bytes:
    """Return the bytes to send. Texts are UTF-8.

    Raises:
        UnicodeEncodeError: a text holds a lone surrogate.
    """
    parts: list[bytes] = [b"*%d" % len(command)]
    for each in command:
        if isinstance(each, str):
            part = each.encode()
        elif isinstance(each, bytes):
            part = each
        else:
            part = b"%d" % each
        size = len(part)
        parts.append(_LENGTHS[size] if size < len(_LENGTHS) else b"\r\n$%d\r\n" % size)
        parts.append(part)
    parts.append(b"\r\n")
    return b"".join(parts)
