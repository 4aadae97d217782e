"""What may be a user id, and the personal channel that belongs to it."""

import re

from app.errors import BadUserId

MAX_USER_ID_BYTES = 255

# Not str.isprintable(): that also refuses the joiners and direction marks which real names and emoji need.
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check_user_id(user_id: str) -> str:
    """Return `user_id` unchanged if it is 1-255 bytes of UTF-8 without control characters.

    Any script is welcome (Korean, emoji, right-to-left). Control characters are not: ids stand in logs, in Redis
    keys and on people's screens.

    Raises:
        BadUserId: with a text that says what is wrong.
    """
    if not user_id:
        raise BadUserId("a user id must not be empty")
    try:
        size = len(user_id.encode())
    except UnicodeEncodeError:
        raise BadUserId("a user id must be valid Unicode; this one has half of a surrogate pair") from None
    if size > MAX_USER_ID_BYTES:
        raise BadUserId(f"a user id has at most {MAX_USER_ID_BYTES} bytes of UTF-8; this one has {size}")
    if found := _CONTROL_CHARACTER.search(user_id):
        raise BadUserId(f"a user id must not hold control characters; this one has {found.group()!r}")
    return user_id


def user_of(channel: str) -> str | None:
    """Whose personal channel this is; None for any other channel."""
    return channel[1:] if channel.startswith("#") else None


def personal_channel(user_id: str) -> str:
    """The channel on which everything addressed to a user travels: `#bob`."""
    return f"#{user_id}"
