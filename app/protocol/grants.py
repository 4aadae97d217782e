"""What a token gives its bearer beyond what a channel's namespace gives to everybody. It gives, and never takes."""

from dataclasses import dataclass
from enum import StrEnum

from app.errors import BadChannel, InvalidToken
from app.protocol.identity import check_channel, user_of


class Right(StrEnum):
    """What may be done on a channel."""

    SUBSCRIBE = "subscribe"  # listen, read the history, ask who is there
    PUBLISH = "publish"


_READ = frozenset({Right.SUBSCRIBE})


@dataclass(frozen=True, slots=True)
class Grants:
    """Rights on channels. `at_once`: what is subscribed to without asking. A rule that ends in `*` is a beginning."""

    at_once: tuple[str, ...] = ()
    rules: tuple[tuple[str, frozenset[Right]], ...] = ()

    def allow(self, right: Right, channel: str) -> bool:
        """Whether the token gives this right. A personal channel is its user's, and no token's to give."""
        if user_of(channel) is not None:
            return False
        return any(right in rights and _matches(pattern, channel) for pattern, rights in self.rules)


def _matches(pattern: str, channel: str) -> bool:
    return channel.startswith(pattern[:-1]) if pattern.endswith("*") else channel == pattern


NO_GRANTS = Grants()


def read_grants(claim: object) -> Grants:
    """The `channels` of a token.

    A list (`["news", "run:*"]`) gives the right to subscribe, and subscribes to the names in it at once. An object
    (`{"chat:*": ["subscribe", "publish"]}`) gives the rights that it says, and subscribes to nothing. What ends in
    `*` stands for every channel that begins so.

    Raises:
        InvalidToken: it is neither of the two.
    """
    if isinstance(claim, list):
        names = tuple(dict.fromkeys(map(_pattern, claim)))
        at_once = tuple(name for name in names if not name.endswith("*"))
        return Grants(at_once, tuple((name, _READ) for name in names))
    if isinstance(claim, dict):
        return Grants(rules=tuple((_pattern(name), _rights(name, rights)) for name, rights in claim.items()))
    raise InvalidToken("the token's 'channels' is a list of channels, or an object of channels and rights")


def _pattern(name: object) -> str:
    if not isinstance(name, str):
        raise InvalidToken("the token's 'channels': a channel is a string")
    if name.startswith("#"):
        raise InvalidToken("the token's 'channels': a personal channel is its user's, and cannot be given")
    if "*" in name[:-1]:
        raise InvalidToken("the token's 'channels': '*' stands only at the end")
    try:
        return check_channel(name)
    except BadChannel as error:
        raise InvalidToken(f"the token's 'channels': {error}") from None


def _rights(name: str, rights: object) -> frozenset[Right]:
    try:
        if isinstance(rights, list):
            return frozenset(map(Right, rights))
    except (ValueError, TypeError):
        pass
    raise InvalidToken(f"the token's 'channels': the rights on {name!r} are a list of 'subscribe' and 'publish'")
