"""Where a client proves who it is: its credentials are checked, and failed attempts are counted."""

from collections.abc import Awaitable, Callable
from typing import NoReturn

from heliograph.auth.authenticator import Authenticator, Credentials, Identity
from heliograph.errors import (
    BadUserId,
    BusUnavailable,
    ErrorCode,
    HeliographError,
    HookRefused,
    HookUnavailable,
    InvalidToken,
    KeysUnavailable,
    TokenNotCurrent,
    UserBlocked,
)
from heliograph.protocol.actions import Authenticate, Reject
from heliograph.protocol.codes import CloseCode, ErrorNumber
from heliograph.transports.client_hooks import ClientHooks
from heliograph.transports.failed_attempts import TOO_MANY
from heliograph.transports.remote_client import RemoteClient

OTHER_USER = "the token is for another user than the URL"


class Authentication:
    """Identify one client.

    `only_user`: the user in the URL; a client with another identity is turned away. `on_failed`: called after a
    failed attempt, before the answer; False: answer with 'come back later'.
    """

    def __init__(
        self,
        client: RemoteClient,
        hooks: ClientHooks,
        authenticator: Authenticator,
        only_user: str | None,
        on_failed: Callable[[], Awaitable[bool]] | None,
    ) -> None:
        self._client = client
        self._hooks = hooks
        self._authenticator = authenticator
        self._only_user = only_user
        self._on_failed = on_failed

    @property
    def counts_failures(self) -> bool:
        """True until the client is identified, if its endpoint counts failed attempts."""
        return self._on_failed is not None

    def identify_now(self, action: Authenticate) -> Identity | None:
        """Return who the client is, if nothing has to be awaited for that; None: ask `identify`."""
        self._hooks.introduce(self._client.session.connect)
        try:
            return self._authenticator.identify_now(Credentials(action.token, action.user, action.ticket))
        except HeliographError:
            return None  # `identify` fails too, and says why

    async def identify(self, action: Authenticate) -> Identity:  # noqa: RET503 - `reject` does not return
        """Return who the client is.

        Raises:
            Disconnected: the credentials are wrong, or cannot be checked now.
        """
        client = self._client
        bad: InvalidToken | HookRefused
        try:
            credentials = Credentials(action.token, action.user, action.ticket)
            connect = client.session.connect
            return await self._authenticator.identify(credentials, self._hooks.introduce(connect), connect)
        except (InvalidToken, HookRefused) as error:
            bad = error
        except UserBlocked as error:
            client.reject(error, CloseCode.FORCED)
        except (BusUnavailable, KeysUnavailable, HookUnavailable) as error:
            client.reject(error, CloseCode.TRY_AGAIN_LATER)
        except BadUserId as error:
            client.reject(error, CloseCode.BAD_REQUEST)
        await self._count_failure()
        if isinstance(bad, HookRefused):
            self._refuse_for_backend(bad)
        if not isinstance(bad, TokenNotCurrent):
            client.reject(bad, CloseCode.INVALID_TOKEN)
        request_id = client.session.connect.request_id if client.session.has_reply else None
        client.reject(bad, CloseCode.EXPIRED, request_id, ErrorNumber.TOKEN_EXPIRED)

    def accept(self, identity: Identity) -> None:
        """Accept the identity: nothing that the client does now is a failed attempt any more.

        Raises:
            Disconnected: the URL is another user's.
        """
        self._on_failed = None
        if self._only_user not in (None, identity.user):
            self._client.turn_away(CloseCode.NOT_ALLOWED, ErrorCode.NOT_ALLOWED, OTHER_USER)

    async def refuse_unknown(self, refusal: Reject) -> None:
        """Refuse a client whose first frame is wrong: late, if its address sends such frames again and again."""
        await self._count_failure()
        self._client.refuse(refusal)

    def _refuse_for_backend(self, error: HookRefused) -> NoReturn:
        """Refuse a client as the user's backend said: by a reply, if its format has one and no close was named."""
        close = CloseCode.TRY_AGAIN_LATER if error.code is ErrorCode.UNAVAILABLE else CloseCode.NOT_ALLOWED
        session = self._client.session
        request_id = session.connect.request_id if session.has_reply and error.close is None else None
        self._client.reject(error, error.close or close, request_id, error.number)

    async def _count_failure(self) -> None:
        """Count a failed attempt to connect. Return when it may be answered.

        Raises:
            Disconnected: there are too many of this address.
        """
        if self._on_failed is not None and not await self._on_failed():
            self._client.turn_away(CloseCode.TRY_AGAIN_LATER, ErrorCode.RATE_LIMITED, TOO_MANY)
