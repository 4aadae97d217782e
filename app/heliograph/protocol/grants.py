"""The rights that a token gives its bearer beyond those of a channel's namespace. It never takes any away."""

from collections.abc import Iterable, Mapping
from enum import StrEnum

import msgspec

from heliograph.errors import BadChannel, InvalidToken
from heliograph.protocol.identity import check_channel, user_of


class Right(StrEnum):
    """A right on a channel."""

    SUBSCRIBE = "subscribe"  # subscribe, read the history and presence
    PUBLISH = "publish"
    SEND = "send"  # to the user whose personal channel it is


_READ = frozenset({Right.SUBSCRIBE})


class Permit(msgspec.Struct, frozen=True):
    """The right to one channel that a subscription token gives a user.

    `info`: what presence says of the client there, JSON. `expires_at`: seconds since the epoch; None: never.
    """

    user: str
    channel: str
    info: bytes | None = None
    expires_at: float | None = None


class Grants(msgspec.Struct, frozen=True):
    """Rights on channels. `at_once`: channels that are subscribed without a request. A rule may end in `*`.

    `infos`: what presence says of the client on some of them, JSON. `permitted`: channels for which the client has
    shown a subscription token.
    """

    at_once: tuple[str, ...] = ()
    rules: tuple[tuple[str, frozenset[Right]], ...] = ()
    infos: tuple[tuple[str, bytes], ...] = ()
    permitted: frozenset[str] = frozenset()

    def allow(self, right: Right, channel: str) -> bool:
        """Return whether the token gives this right. On a personal channel only the right to send exists."""
        if user_of(channel) is not None and right is not Right.SEND:
            return False
        return any(right in rights and matches(pattern, channel) for pattern, rights in self.rules)

    def info_on(self, channel: str) -> bytes | None:
        """Return what presence says of the client on this channel, JSON; None: nothing."""
        return dict(self.infos).get(channel)

    def joined_with(self, other: "Grants") -> "Grants":
        """Return the rights of both."""
        at_once = tuple(dict.fromkeys((*self.at_once, *other.at_once)))
        return Grants(at_once, self.rules + other.rules, self.infos + other.infos)

    def permitting(self, channels: Iterable[str]) -> "Grants":
        """Return these rights, with permits for these channels."""
        return msgspec.structs.replace(self, permitted=frozenset(channels))


def matches(pattern: str, channel: str) -> bool:
    """Return whether the name is the pattern, or begins with a pattern that ends in `*`."""
    return channel.startswith(pattern[:-1]) if pattern.endswith("*") else channel == pattern


NO_GRANTS = Grants()


def read_grants(claim: object) -> Grants:
    """Read the `channels` claim of a token.

    A list (`["news", "run:*"]`) gives the right to subscribe, and subscribes to the names in it at once. An object
    (`{"chat:*": ["subscribe", "publish"], "#*": ["send"]}`) gives the listed rights, and subscribes to nothing. A
    pattern that ends in `*` matches every channel with that prefix. A personal channel allows only `send`.

    Raises:
        InvalidToken: the claim is neither of the two.
    """
    if isinstance(claim, list):
        names = tuple(dict.fromkeys(map(_listed, claim)))
        at_once = tuple(name for name in names if not name.endswith("*"))
        return Grants(at_once, tuple((name, _READ) for name in names))
    if isinstance(claim, dict):
        return Grants(rules=tuple((_pattern(name), _rights(name, rights)) for name, rights in claim.items()))
    raise InvalidToken("the token's 'channels' is a list of channels, or an object of channels and rights")


def grants_at_once(infos: Mapping[str, bytes | None]) -> Grants:
    """Return grants that subscribe to these channels at once. The values are what presence says of the client there.

    Raises:
        InvalidToken: a name is not valid for a channel.
    """
    for name in infos:
        if _listed(name).endswith("*"):
            raise InvalidToken(f"the token's 'subs': {name!r} must be a channel, not a pattern")
    said = tuple((name, info) for name, info in infos.items() if info is not None)
    return Grants(tuple(infos), tuple((name, _READ) for name in infos), said)


def _listed(name: object) -> str:
    if isinstance(name, str) and name.startswith("#"):
        raise InvalidToken("the token's 'channels': a personal channel is its user's, and cannot be given")
    return _pattern(name)


def _pattern(name: object) -> str:
    if not isinstance(name, str):
        raise InvalidToken("the token's 'channels': a channel is a string")
    if "*" in name[:-1]:
        raise InvalidToken("the token's 'channels': '*' stands only at the end")
    try:
        return check_channel(name)
    except BadChannel as error:
        raise InvalidToken(f"the token's 'channels': {error}") from None


def _rights(name: str, rights: object) -> frozenset[Right]:
    try:
        given = frozenset(map(Right, rights)) if isinstance(rights, list) else None
    except (ValueError, TypeError):
        given = None
    if given is None:
        known = "'send'" if name.startswith("#") else "'subscribe' and 'publish'"
        raise InvalidToken(f"the token's 'channels': the rights on {name!r} are a list of {known}")
    if name.startswith("#") and given != {Right.SEND}:
        raise InvalidToken(
            f"the token's 'channels': {name!r} is personal, its user's alone; nothing but 'send' can be given on it"
        )
    if Right.SEND in given and not name.startswith("#"):
        raise InvalidToken(f"the token's 'channels': 'send' is for users, such as '#bob' or '#*', not for {name!r}")
    return given
