"""The options of namespaces. A channel's namespace is the part of its name before the first `:`."""

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

    `overrides`: each option that they set replaces the built-in option of that name.
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
        """Return every namespace with its options. `#`: personal channels; the empty name: all others."""
        return self._by_name.items()

    def of(self, channel: str) -> Namespace:
        if channel.startswith("#"):
            return self.personal
        name, colon, _ = channel.partition(":")
        return self._by_name.get(name if colon else "", self._by_name[""])
