"""The options of namespaces. A channel's namespace is the part of its name before the first `:`."""

from collections.abc import Iterable
from dataclasses import replace

from heliograph.errors import UnknownNamespace
from heliograph.protocol.channel_options import Namespace
from heliograph.protocol.identity import check_channel

BUILT_IN = {
    "#": Namespace(history_size=100, history_ttl_s=300),
    "run": Namespace(history_size=1000, history_ttl_s=86_400, client_publish=False, run=True, presence=True),
    "logs": Namespace(history_size=10_000, history_ttl_s=86_400, client_publish=False, replay=True, presence=True),
    "chat": Namespace(presence=True, join_leave=True),
    "": Namespace(),
}


class Namespaces:
    """The options of every channel: those of its namespace, or those of the namespace without a name.

    `overrides`: each option that they set replaces the built-in option of that name. `is_strict`: a namespace without
    options is unknown, and has no channels.
    """

    def __init__(self, overrides: dict[str, Namespace] | None = None, *, is_strict: bool = False) -> None:
        self._is_strict = is_strict
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

    def check(self, channel: str) -> str:
        """Return `channel` unchanged if it can be one.

        Raises:
            BadChannel: its name is not valid.
            UnknownNamespace: it has a namespace that nobody has set up.
        """
        check_channel(channel)
        if self._is_strict and not channel.startswith("#"):
            name, colon, _ = channel.partition(":")
            if colon and name not in self._by_name:
                raise UnknownNamespace(f"there is no namespace {name[:64]!r} (HELIOGRAPH_NAMESPACES)")
        return channel

    def of(self, channel: str) -> Namespace:
        if channel.startswith("#"):
            return self.personal
        name, colon, _ = channel.partition(":")
        return self._by_name.get(name if colon else "", self._by_name[""])
