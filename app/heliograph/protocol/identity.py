"""Valid user ids and channel names, and the personal channel of a user."""

import re

from heliograph.errors import BadChannel, BadDevice, BadUserId, HeliographError

MAX_USER_ID_BYTES = 255
MAX_CHANNEL_BYTES = 512
MAX_DEVICE_BYTES = 64

# Not str.isprintable(): that also refuses joiners and direction marks, which real names and emoji need.
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check_user_id(user_id: str) -> str:
    """Return `user_id` unchanged if it is 1-255 bytes of UTF-8 without control characters.

    Any script is allowed (Korean, emoji, right-to-left). Control characters are not: ids appear in logs, Redis keys
    and on screens.

    Raises:
        BadUserId: the text says what is wrong.
    """
    return _check(user_id, "a user id", MAX_USER_ID_BYTES, BadUserId)


def check_channel(channel: str) -> str:
    """Return `channel` unchanged if it is a valid name: 1-512 bytes of UTF-8 without control characters.

    Raises:
        BadChannel: the text says what is wrong.
    """
    if channel == "#":
        raise BadChannel("a channel's name must not be empty")
    return _check(channel, "a channel's name", MAX_CHANNEL_BYTES, BadChannel)


def check_device(device: str) -> str:
    """Return `device` unchanged if it is 1-64 bytes of UTF-8 without control characters.

    Raises:
        BadDevice: the text says what is wrong.
    """
    return _check(device, "a device's name", MAX_DEVICE_BYTES, BadDevice)


def _check(name: str, what: str, most_bytes: int, error: type[HeliographError]) -> str:
    if name.isascii() and name.isprintable() and 0 < len(name) <= most_bytes:
        return name  # almost all names are ASCII
    if not name:
        raise error(f"{what} must not be empty")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise error(f"{what} must be valid Unicode; this one has half of a surrogate pair") from None
    if size > most_bytes:
        raise error(f"{what} has at most {most_bytes} bytes of UTF-8; this one has {size}")
    if found := _CONTROL_CHARACTER.search(name):
        raise error(f"{what} must not hold control characters; this one has {found.group()!r}")
    return name


def user_of(channel: str) -> str | None:
    """Return the user whose personal channel this is; None for any other channel."""
    return channel[1:] if channel.startswith("#") else None


def personal_channel(user_id: str) -> str:
    """Return the channel that carries all messages to a user: `#bob`."""
    return f"#{user_id}"
