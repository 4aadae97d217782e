"""The methods of the server API for a user's connections, on every replica."""

from heliograph.api import models
from heliograph.api.errors import BAD_REQUEST, ApiError
from heliograph.cluster.user_commands import UserCommands
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.command import ALL_CONNECTIONS
from heliograph.protocol.namespace import Namespaces
from heliograph.protocol.position import Position


class UserMethods:
    """Give commands for users. Each method raises ApiError, or another HeliographError."""

    def __init__(self, commands: UserCommands, namespaces: Namespaces) -> None:
        self._commands = commands
        self._namespaces = namespaces

    async def disconnect(self, params: models.DisconnectParams) -> models.EmptyResult:
        code = params.disconnect.code or CloseCode.FORCED
        if not 3000 <= code <= 4999:
            raise ApiError(BAD_REQUEST, f"'disconnect.code' is from 3000 to 4999 (3503 by default), not {code}")
        reason = params.disconnect.reason or "disconnected by the server"
        among = params.selection()
        if params.block_s is not None and among != ALL_CONNECTIONS:
            text = "'block_s' keeps the whole user out: it does not go with 'client', 'session' or 'whitelist'"
            raise ApiError(BAD_REQUEST, text)
        await self._commands.disconnect_user(
            params.user, code=code, reason=reason, block_s=params.block_s, among=among
        )
        return models.EmptyResult()

    async def subscribe(self, params: models.SubscribeParams) -> models.EmptyResult:
        since = params.recover_since
        await self._commands.subscribe_user(
            params.user,
            self._namespaces.check(params.channel),
            since=None if since is None else Position(since.epoch, since.offset),
            info=params.info,
            data=params.data,
            expire_at=params.expire_at or None,
            among=params.selection(),
        )
        return models.EmptyResult()

    async def unsubscribe(self, params: models.UnsubscribeParams) -> models.EmptyResult:
        await self._commands.unsubscribe_user(
            params.user, self._namespaces.check(params.channel), among=params.selection()
        )
        return models.EmptyResult()

    async def refresh(self, params: models.RefreshParams) -> models.EmptyResult:
        commands, among = self._commands, params.selection()
        if params.expired:
            await commands.disconnect_user(params.user, code=CloseCode.EXPIRED, reason="expired", among=among)
        else:
            await commands.refresh_user(params.user, expire_at=params.expire_at or None, among=among)
        return models.EmptyResult()
