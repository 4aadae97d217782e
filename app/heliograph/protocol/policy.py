"""Who may do what: one object that every endpoint asks, whatever the client came in by.

In open mode clients may do all that a namespace does not forbid. In jwt mode they may do nothing but read their own
channel, until a namespace (for everybody) or a token (for its bearer) opens more. Rights are given, never taken.
"""

from collections.abc import Sequence

from heliograph.protocol.grants import Grants, Right, matches
from heliograph.protocol.identity import personal_channel, user_of
from heliograph.protocol.namespace import Namespaces


class Policy:
    """Decides by the namespaces' options, the mode, and what the client's token gives. No I/O."""

    def __init__(self, namespaces: Namespaces, *, open_mode: bool, events: Sequence[str] = ()) -> None:
        self._namespaces = namespaces
        self._events = tuple(events)  # that clients may emit, in either mode; one that ends in `*` is a beginning
        self.open_mode = open_mode
        self.anybody_sends = self._is_open(namespaces.personal.client_send)  # to any user, whatever their token gives

    def may_read(self, user: str | None, grants: Grants, channel: str) -> bool:
        """Whether this user may subscribe to the channel and read its history. A personal channel is its user's."""
        owner = user_of(channel)
        if owner is not None:
            return owner == user
        if self._is_open(self._namespaces.of(channel).client_subscribe):
            return True
        return grants.allow(Right.SUBSCRIBE, channel)

    def may_see_presence(self, user: str | None, grants: Grants, channel: str) -> bool:
        """Whether this user may ask who is on the channel."""
        return self._namespaces.of(channel).presence and self.may_read(user, grants, channel)

    def may_publish(self, grants: Grants, channel: str) -> bool:
        """Whether a client may publish on the channel; on a personal one nobody may, it is sent to."""
        if user_of(channel) is not None:
            return False
        if self._is_open(self._namespaces.of(channel).client_publish):
            return True
        return grants.allow(Right.PUBLISH, channel)

    def may_send(self, grants: Grants, user: str) -> bool:
        """Whether a client may send to this user."""
        return self.anybody_sends or grants.allow(Right.SEND, personal_channel(user))

    def may_emit(self, event: str) -> bool:
        """Whether a client may say this to the workers."""
        return any(matches(pattern, event) for pattern in self._events)

    def summary(self) -> str:
        """What is open to every client, in one line for the log."""
        if self.open_mode:
            return "open mode: anyone who can connect may be any user, and read and write what no namespace closes"
        read, write = [], []
        for name, options in self._namespaces.items():
            if name == "#":
                continue
            shown = f"{name}:*" if name else "all other channels"
            if options.client_subscribe:
                read.append(shown)
            if options.client_publish:
                write.append(shown)
        opened = [f"{verb} {', '.join(names)}" for verb, names in (("read", read), ("publish on", write)) if names]
        if self.anybody_sends:
            opened.append("send to any user")
        if opened:
            opened[-1] += " (HELIOGRAPH_NAMESPACES)"
        if self._events:
            opened.append(f"emit {', '.join(self._events)} (HELIOGRAPH_EMIT__EVENTS)")
        if not opened:
            return "jwt mode: clients read their own channel; only their tokens open more (docs: Rights in jwt mode)"
        return f"jwt mode: whatever its token says, every client may {'; '.join(opened)}"

    def _is_open(self, option: bool | None) -> bool:
        return self.open_mode if option is None else option
