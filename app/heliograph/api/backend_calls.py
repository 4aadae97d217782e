"""The method `rpc` of the server API: a program calls the user's backend, as clients do."""

from typing import Final

import msgspec

from heliograph.api import models
from heliograph.api.errors import BAD_REQUEST, DENIED, INTERNAL, NOT_AVAILABLE, UNKNOWN_METHOD, ApiError
from heliograph.errors import ErrorCode
from heliograph.hooks.user_backend import UserBackend
from heliograph.protocol.decision import Deny, Hook
from heliograph.protocol.operations import Rpc
from heliograph.protocol.peer import Caller, Peer

# Who calls: no client, and no user.
PROGRAM: Final = Caller(Peer("", "http_api"), "")
CODES: Final = {
    ErrorCode.NOT_ALLOWED: DENIED,
    ErrorCode.NOT_AVAILABLE: NOT_AVAILABLE,
    ErrorCode.NOT_FOUND: UNKNOWN_METHOD,
    ErrorCode.UNAVAILABLE: INTERNAL,
}


class BackendCalls:
    """Call methods of the user's backend."""

    def __init__(self, backend: UserBackend) -> None:
        self._backend = backend

    async def rpc(self, params: models.RpcParams) -> models.RpcResult:
        """Return what the backend returns.

        Raises:
            ApiError: there is no backend, or it does not do it; with its code, if it says one.
        """
        if not self._backend.has(Hook.RPC):
            text = f"nobody answers {params.method[:64]!r}: no backend is set (HELIOGRAPH_HOOKS__RPC)"
            raise ApiError(UNKNOWN_METHOD, text)
        data = msgspec.Raw(b"null") if params.params is None else params.params
        answer = await self._backend.call(PROGRAM, Rpc(params.method, data))
        if isinstance(answer, Deny):
            raise ApiError(answer.number or CODES.get(answer.code, BAD_REQUEST), answer.reason)
        return models.RpcResult(answer)
