"""Who may do what: one object for every endpoint.

In open mode clients may do everything that a namespace does not forbid. In the other modes they may only read their
own channel, until a namespace (for everybody), a token (for its bearer) or the user's backend gives more rights. A
namespace may keep its history, its presence, and channels that list their users, from all others even so.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from heliograph.errors import ErrorCode
from heliograph.protocol.channel_options import Namespace
from heliograph.protocol.decision import ALLOW, ASK, Allow, Ask, Decision, Deny, Hook
from heliograph.protocol.grants import Grants, Right, matches
from heliograph.protocol.identity import personal_channel, user_of
from heliograph.protocol.namespace import Namespaces

LIMIT: Final = "#"  # in the name of a channel for some users: their ids follow
BETWEEN_USERS: Final = ","


class Policy:
    """Decide by the options of namespaces, the mode, and the token's rights. No I/O.

    `hooks`: what the user's backend is asked instead, unless a namespace says otherwise. It cannot open everything:
    another user's personal channel, and presence that is not kept, are denied before.
    """

    def __init__(
        self,
        namespaces: Namespaces,
        *,
        open_mode: bool,
        events: Sequence[str] = (),
        hooks: Iterable[Hook] = (),
    ) -> None:
        self._namespaces = namespaces
        self._events = tuple(events)  # that clients may emit, in either mode; a name that ends in `*` is a prefix
        self.open_mode = open_mode
        self._hooks = frozenset(hooks)
        self._asks_to_read = Hook.SUBSCRIBE in self._hooks
        self._asks_to_publish = Hook.PUBLISH in self._hooks
        # Messages to users are asked about only where a setting says so.
        self._asks_to_send = self._asks_to_publish and namespaces.personal.publish_hook is True
        self._anybody_sends = self._is_open(namespaces.personal.client_send)  # whatever their token says

    @property
    def is_sending_free(self) -> bool:
        """True if every client may send to any user, so that there is nothing to decide."""
        return self._anybody_sends and not self._asks_to_send

    def check_channel(self, channel: str) -> str:
        """Return `channel` unchanged if there is such a channel. Raises BadChannel, UnknownNamespace."""
        return self._namespaces.check(channel)

    def decide_subscribe(self, user: str | None, grants: Grants, channel: str) -> Decision:
        """Decide whether this user may subscribe to the channel. A personal channel is only its user's."""
        decision = self._decide_read(user, grants, channel)
        return decision or Deny(f"{channel!r} is not yours to subscribe to")

    def decide_history(self, user: str | None, grants: Grants, channel: str, is_subscribed: bool = False) -> Decision:
        """Decide whether this user may read what is kept of the channel, and the latest state of a run."""
        options = self._namespaces.of(channel)
        decision: Allow | Ask | None = ALLOW
        if not (options.allow_history_for_subscriber and is_subscribed):
            decision = self._decide_read(user, grants, channel, options.allow_history_for_client)
        return decision or Deny(f"{channel!r} is not yours to read")

    def decide_presence(
        self, user: str | None, grants: Grants, channel: str, is_subscribed: bool = False
    ) -> Decision:
        """Decide whether this user may read who is on the channel."""
        options = self._namespaces.of(channel)
        decision: Allow | Ask | None = ALLOW
        if not options.presence:
            decision = None
        elif not (options.allow_presence_for_subscriber and is_subscribed):
            decision = self._decide_read(user, grants, channel, options.allow_presence_for_client)
        return decision or Deny(f"who is on {channel!r} is not told")

    def decide_publish(self, user: str | None, grants: Grants, channel: str, is_subscribed: bool = False) -> Decision:
        """Decide whether a client may publish on the channel; never on a personal one, to which clients `send`."""
        options = self._namespaces.of(channel)
        if user_of(channel) is None and is_for(user, channel, options):
            if self._asks_to_publish and asks(options.publish_hook, options.client_publish):
                return ASK
            if (
                self._is_open(options.client_publish)
                or (options.allow_publish_for_subscriber and is_subscribed)
                or grants.allow(Right.PUBLISH, channel)
            ):
                return ALLOW
        return Deny(f"clients may not publish on {channel!r}")

    def decide_send(self, user: str | None, grants: Grants, to: str) -> Decision:
        """Decide whether a client may send to the user `to`."""
        if self._asks_to_send:
            return ASK
        if self._anybody_sends or grants.allow(Right.SEND, personal_channel(to)):
            return ALLOW
        return Deny(f"you may not send to {to!r}")

    def forces_join_leave(self, channel: str) -> bool:
        """Return whether clients that are told of clients need not ask for it on this channel."""
        return self._namespaces.of(channel).force_push_join_leave

    def decide_emit(self, event: str) -> Decision:
        """Decide whether a client may emit this event. Events that no setting names are denied."""
        if not any(matches(pattern, event) for pattern in self._events):
            return Deny(f"clients may not emit {event!r} (HELIOGRAPH_EMIT__EVENTS)")
        return ALLOW

    def decide_rpc(self) -> Decision:
        """Decide whether a client may call the user's backend."""
        if Hook.RPC in self._hooks:
            return ALLOW
        return Deny("no backend answers calls here (HELIOGRAPH_HOOKS__RPC)", ErrorCode.NOT_AVAILABLE)

    def decide_refresh(self) -> Decision:
        """Decide whether a client may refresh its token."""
        return Deny("there is nothing to refresh in open mode", ErrorCode.BAD_REQUEST) if self.open_mode else ALLOW

    def _decide_read(
        self, user: str | None, grants: Grants, channel: str, for_clients: bool | None = None
    ) -> Allow | Ask | None:
        """Decide whether the channel may be read; None: it may not.

        `for_clients`: what the namespace says of this way to read; None: a client that may subscribe may read.
        """
        owner = user_of(channel)
        if owner is not None:
            return ALLOW if owner == user else None
        options = self._namespaces.of(channel)
        if for_clients is False:
            return None
        if channel in grants.permitted or channel in grants.at_once:
            return ALLOW
        if options.allow_user_limited_channels and LIMIT in channel:
            return ALLOW if is_for(user, channel, options) else None
        if for_clients:
            return ALLOW
        if self._asks_to_read and asks(options.subscribe_hook, options.client_subscribe):
            return ASK
        if self._is_open(options.client_subscribe) or grants.allow(Right.SUBSCRIBE, channel):
            return ALLOW
        return None

    def summary(self) -> str:
        """Return what is open to every client, in one line for the log."""
        if self.open_mode:
            return "open mode: anyone who can connect may be any user, and read and write what no namespace closes"
        opened: dict[str, list[str]] = {}
        for name, options in self._namespaces.items():
            if name == "#":
                continue
            shown = f"{name}:*" if name else "all other channels"
            for verb, is_open in (
                ("read", options.client_subscribe),
                ("read the history of", options.allow_history_for_client),
                ("see who is on", options.presence and options.allow_presence_for_client),
                ("read what names its user in", options.allow_user_limited_channels),
                ("publish on", options.client_publish),
                ("publish, once subscribed, on", options.allow_publish_for_subscriber),
            ):
                if is_open:
                    opened.setdefault(verb, []).append(shown)
        rights = [f"{verb} {', '.join(names)}" for verb, names in opened.items()]
        if self._anybody_sends:
            rights.append("send to any user")
        if rights:
            rights[-1] += " (HELIOGRAPH_NAMESPACES)"
        if self._events:
            rights.append(f"emit {', '.join(self._events)} (HELIOGRAPH_EMIT__EVENTS)")
        if self._hooks:
            rights.append(f"do what the backend says ({', '.join(sorted(self._hooks))}; HELIOGRAPH_HOOKS)")
        if not rights:
            return "clients read their own channel; only their tokens open more (docs: Rights in jwt mode)"
        return f"whatever its token says, every client may {'; '.join(rights)}"

    def _is_open(self, option: bool | None) -> bool:
        return self.open_mode if option is None else option


def asks(hook: bool | None, is_open: bool | None) -> bool:
    """Return whether the backend is asked: as the namespace says, or unless it closes the channel by itself."""
    return is_open is not False if hook is None else hook


def is_for(user: str | None, channel: str, options: Namespace) -> bool:
    """Return False if the name of the channel lists the users that it is for, and this user is not among them."""
    if not options.allow_user_limited_channels or LIMIT not in channel:
        return True
    return user in channel.rpartition(LIMIT)[2].split(BETWEEN_USERS)
