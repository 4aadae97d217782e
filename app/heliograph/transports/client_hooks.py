"""What the user's backend is asked about one client, and what it has attached to the client."""

from collections.abc import Iterable

from heliograph.hooks.user_backend import Renewal, UserBackend
from heliograph.protocol.actions import Action, AskHook, JoinChannel, Reject
from heliograph.protocol.decision import Deny, Hook
from heliograph.protocol.events import RpcResult
from heliograph.protocol.operations import Connect, Rpc
from heliograph.protocol.peer import Caller, Peer
from heliograph.protocol.session import Session
from heliograph.transports.answers import answer_rpc


class ClientHooks:
    """Ask the user's backend about a client. `peer`: what is known of it before it is identified."""

    def __init__(self, user_backend: UserBackend, session: Session, peer: Peer) -> None:
        self.meta: bytes | None = None  # that the backend has attached to the client
        self.peer = peer
        self._user_backend = user_backend
        self._session = session

    @property
    def caller(self) -> Caller:
        """What the backend is told of the identified client."""
        return Caller(self.peer, self._session.user or "", self.meta)

    @property
    def renew_subscriptions(self) -> bool:
        """True if the backend says whether a client that it has let on a channel may stay there."""
        return self._user_backend.has(Hook.SUB_REFRESH)

    def introduce(self, connect: Connect) -> Peer:
        """Add to the peer what its `connect` says. Return it."""
        self.peer = self._user_backend.peer_of(self.peer, connect)
        return self.peer

    def renewed(self, renewal: Renewal) -> None:
        """Note what the backend attaches to the client from now on."""
        self.meta = renewal.meta

    async def ask(self, action: AskHook) -> Action | None:
        """Ask about an operation. Return what follows; later operations of the client wait until then."""
        return action.answered(await self._user_backend.decide(self.caller, action.operation))

    async def settled(self, actions: Iterable[JoinChannel | Reject | AskHook]) -> list[JoinChannel | Reject]:
        """Return the actions for channels, after all hooks that must be asked have answered."""
        settled: list[JoinChannel | Reject] = []
        for action in actions:
            following = await self.ask(action) if isinstance(action, AskHook) else action
            if isinstance(following, JoinChannel | Reject):
                settled.append(following)
        return settled

    async def refresh_subscription(self, channel: str) -> Renewal | Deny:
        """Ask whether the client may stay on a channel.

        Raises:
            HookUnavailable: the backend does not say.
        """
        return await self._user_backend.refresh_subscription(self.caller, channel)

    async def call(self, rpc: Rpc) -> RpcResult | Reject:
        """Have the backend answer a call."""
        return await answer_rpc(self._user_backend, self.caller, rpc)
