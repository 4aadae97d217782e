"""What holds for the channels of a namespace: what stands before the first `:` of a channel's name."""

from collections.abc import Iterable
from dataclasses import replace

from heliograph.protocol.channel_options import Namespace

BUILT_IN = {
    "#": Namespace(history_size=100, history_ttl_s=300),
    "run": Namespace(history_size=1000, history_ttl_s=86_400, client_publish=False, run=True, presence=True),
    "logs": Namespace(history_size=10_000, history_ttl_s=86_400, client_publish=False, replay=True, presence=True),
    "chat": Namespace(presence=True, join_leave=True),
    "": Namespace(),
}


class Namespaces:
    """The options of every channel: those of its namespace, or those of the namespace without a name.

    `overrides`: what they set takes the place of the built-in options of that name, one by one.
    """

    def __init__(self, overrides: dict[str, Namespace] | None = None) -> None:
        self._by_name = dict(BUILT_IN)
        for name, options in (overrides or {}).items():
            built_in = BUILT_IN.get(name)
            if built_in is not None:
                options = replace(built_in, **options.given())
            self._by_name[name] = options
        self.personal = self._by_name["#"]

    def items(self) -> Iterable[tuple[str, Namespace]]:
        """Every namespace with its options. `#`: users' own channels; the empty name: all that have no other."""
        return self._by_name.items()

    def of(self, channel: str) -> Namespace:
        if channel.startswith("#"):
            return self.personal
        name, colon, _ = channel.partition(":")
        return self._by_name.get(name if colon else "", self._by_name[""])
