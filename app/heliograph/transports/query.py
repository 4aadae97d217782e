"""The query of a URL, for every endpoint."""

from urllib.parse import unquote_plus, unquote_to_bytes

from starlette.types import Scope

from heliograph.errors import ErrorCode, HeliographError


class BadQuery(HeliographError):
    """A URL whose query contradicts itself."""

    code = ErrorCode.BAD_REQUEST


class Query(dict[str, str]):
    """The parameters by name. `channels`: those of every `?channel=a` and `?channels=b,c`, in order, each once.

    An empty name stays in it, and is refused where names are checked.
    """

    def __init__(self, scope: Scope) -> None:
        """Read it. Bytes that are not UTF-8 become lone surrogates, which no name may hold.

        Raises:
            BadQuery: a parameter for one value has several.
        """
        super().__init__()
        text = scope["query_string"].decode("ascii", errors="surrogateescape")
        channels: list[str] = []
        for part in text.split("&"):
            name, _, value = part.partition("=")
            if not part:
                continue  # nothing between two `&`
            name, value = _decoded(name), _decoded(value)
            if name == "channel":
                channels.append(value)
            elif name == "channels":
                channels += value.split(",") if value else ()
            elif name in self:
                raise BadQuery(f"the URL gives {name[:64]!r} more than once; give it once")
            else:
                self[name] = value
        self.channels = tuple(dict.fromkeys(channels))


def _decoded(text: str) -> str:
    if "%" not in text:
        return text.replace("+", " ")
    if not text.isascii():
        return unquote_plus(text, errors="surrogateescape")
    return unquote_to_bytes(text.replace("+", " ")).decode(errors="surrogateescape")  # the same, but half the time
