"""What may be a user id."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.errors import BadUserId, ErrorCode
from heliograph.protocol.identity import MAX_USER_ID_BYTES, check_user_id, personal_channel


@pytest.mark.parametrize(
    "user",
    [
        "a",
        "x" * 255,
        "안" * 85,
        "🚀" * 63,
        "👩‍👩‍👧‍👦",
        "مرحبا",
        "שלום",
        "\u200fabc",
        "a b",
        " ",
        "#bob",
        "{x}",
        "a/b",
        "null",
    ],
)
def test_any_script_is_welcome(user: str) -> None:
    """Fails if a name that people have is refused (joiners and direction marks are part of some), or changed."""
    assert check_user_id(user) is user


@pytest.mark.parametrize(
    ("user", "says"),
    [
        ("", "must not be empty"),
        ("x" * 256, "at most 255 bytes of UTF-8; this one has 256"),
        ("x" * 300, "this one has 300"),
        ("안" * 86, "this one has 258"),
        ("🚀" * 64, "this one has 256"),
        ("a\x00b", "control characters; this one has '\\x00'"),
        ("a\nb", "control characters; this one has '\\n'"),
        ("\x1b[31m", "'\\x1b'"),
        ("\x7f", "'\\x7f'"),
        ("a\x85", "'\\x85'"),
        ("\ud800", "half of a surrogate pair"),
        ("a\udfffb", "half of a surrogate pair"),
    ],
)
def test_what_cannot_be_one(user: str, says: str) -> None:
    """Fails if an id that breaks logs, Redis keys or screens is accepted, or is refused without a reason."""
    with pytest.raises(BadUserId) as raised:
        check_user_id(user)
    assert says in str(raised.value)
    assert raised.value.code is ErrorCode.BAD_REQUEST


@settings(deadline=None)
@given(st.text(alphabet=st.characters(codec=None), max_size=300))
def test_whatever_passes_can_be_written_everywhere(user: str) -> None:
    """Fails if an id passes that cannot be encoded, is too long or holds a control character."""
    try:
        check_user_id(user)
    except BadUserId:
        return
    assert 1 <= len(user.encode()) <= MAX_USER_ID_BYTES
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in user)


def test_the_personal_channel() -> None:
    """Fails if `#bob` is not where everything addressed to bob travels."""
    assert personal_channel("밥") == "#밥"
