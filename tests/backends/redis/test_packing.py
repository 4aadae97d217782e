"""Commands as they are sent to Redis."""

import pytest
from hiredis import pack_command

from heliograph.backends.redis.packing import packed


@pytest.mark.parametrize(
    "command",
    [
        ("PING",),
        ("SET", "a key", b"\x00\xff\r\n$3\r\n"),
        ("SET", "", b""),
        ("EVALSHA", "a" * 40, 0, 1, -1, 2**63, "Grüße \N{SNOWMAN}"),
        ("SET", "x" * 255, "y" * 256, b"z" * 100_000),
        ("DEL", *map(str, range(300))),
    ],
)
def test_a_command_is_packed_as_the_library_packs_it(command: tuple[str | bytes | int, ...]) -> None:
    """Fails if Redis would read another command than the library sends."""
    assert packed(command) == pack_command(command)  # type: ignore[arg-type] # its stub has one word


def test_what_is_no_text_is_not_sent() -> None:
    """Fails if a lone surrogate gets into a key."""
    with pytest.raises(UnicodeEncodeError):
        packed(("GET", "\ud800"))
