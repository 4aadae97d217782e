"""What the query of a URL says, whichever endpoint it is for."""

from urllib.parse import parse_qsl

from starlette.types import Scope

from heliograph.errors import ErrorCode, HeliographError


class BadQuery(HeliographError):
    """A URL whose query says two things at once."""

    code = ErrorCode.BAD_REQUEST


class Query(dict[str, str]):
    """The parameters by name. `channels`: those of every `?channel=a` and `?channels=b,c`, in order, each once.

    An empty name among them stays: it is refused where names are checked, not passed over.
    """

    def __init__(self, scope: Scope) -> None:
        """Read it. Bytes that are no UTF-8 become lone surrogates, which no name may hold.

        Raises:
            BadQuery: a parameter that can only have one value has several.
        """
        super().__init__()
        text = scope["query_string"].decode("ascii", errors="surrogateescape")
        channels: list[str] = []
        for name, value in parse_qsl(text, keep_blank_values=True, errors="surrogateescape"):
            if name == "channel":
                channels.append(value)
            elif name == "channels":
                channels += value.split(",") if value else ()
            elif name in self:
                raise BadQuery(f"the URL gives {name[:64]!r} more than once; give it once")
            else:
                self[name] = value
        self.channels = tuple(dict.fromkeys(channels))
