"""What holds for the channels of a namespace: what stands before the first `:` of a channel's name."""

from app.settings import Namespace

BUILT_IN = {
    "#": Namespace(history_size=100, history_ttl_s=300, client_publish=False),
    "run": Namespace(history_size=1000, history_ttl_s=86_400, client_publish=False, run=True, presence=True),
    "logs": Namespace(history_size=10_000, history_ttl_s=86_400, client_publish=False, replay=True, presence=True),
    "chat": Namespace(presence=True, join_leave=True),
    "": Namespace(),
}


class Namespaces:
    """The options of every channel: those of its namespace, or those of the namespace without a name."""

    def __init__(self, overrides: dict[str, Namespace] | None = None) -> None:
        self._by_name = {**BUILT_IN, **(overrides or {})}

    def of(self, channel: str) -> Namespace:
        if channel.startswith("#"):
            return self._by_name["#"]
        name, colon, _ = channel.partition(":")
        return self._by_name.get(name if colon else "", self._by_name[""])
