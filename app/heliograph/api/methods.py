"""The methods of the server API: parameters in, a result out, or an `ApiError`."""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeVar, assert_never

import msgspec
from pydantic import ValidationError

from heliograph.api import models, operator_models
from heliograph.api.backend_calls import BackendCalls
from heliograph.api.broadcast import OnPosition, publish_each
from heliograph.api.channel_reads import ChannelReads
from heliograph.api.delivery_reads import DeliveryReads
from heliograph.api.errors import (
    BAD_REQUEST,
    INTERNAL,
    LIMIT_EXCEEDED,
    UNEXPECTED,
    UNKNOWN_METHOD,
    ApiError,
    NotNow,
    api_error,
)
from heliograph.api.operator_reads import OperatorReads
from heliograph.api.publishing import Outage
from heliograph.api.user_methods import UserMethods
from heliograph.callbacks import await_callback
from heliograph.clock import Clock
from heliograph.cluster.connection_manager import ConnectionManager
from heliograph.cluster.replicas import Replicas
from heliograph.errors import BadData, HeliographError
from heliograph.protocol.publication import check_data, json_of_base64

logger = logging.getLogger(__name__)

JSON_FIELDS: Final = ("data", "info", "params")  # any JSON, which may be given in base64 too: `b64data`
MOST_QUESTIONS = 16  # reads of batches under way at the same time, so that publications need not wait behind them
# Fields of that API which narrow a command down, or change what is published. Where a method does not know one of
# them, it is refused unless it is empty: without it the command would do something else than its author meant.
CHANGE_THE_MEANING: Final = (
    "b64data",
    "client",
    "session",
    "skip_history",
    "tags",
    "version",
    "version_epoch",
    "whitelist",
)

_Result = TypeVar("_Result", bound=msgspec.Struct)


AnyParams = models.AnyParams | operator_models.OperatorParams


class Method(NamedTuple):
    """A method's summary, parameters and result."""

    summary: str
    params: type[AnyParams]
    result: type[msgspec.Struct]


METHODS: Final = {
    "publish": Method("Publish on a channel, or to a user", models.PublishParams, models.PositionResult),
    "broadcast": Method("Publish the same on several channels", models.BroadcastParams, models.BroadcastResult),
    "presence": Method("List who is on a channel", models.PresenceParams, models.PresenceResult),
    "presence_stats": Method("Count who is on a channel", models.PresenceStatsParams, models.PresenceStatsResult),
    "history": Method("Read a channel's history and position", models.HistoryParams, models.HistoryResult),
    "channels": Method("List the channels with subscribers", models.ChannelsParams, models.ChannelsResult),
    "users": Method("List the users who are online", models.UsersParams, models.UsersResult),
    "kept_channels": Method(
        "List the channels of which something is kept",
        operator_models.KeptChannelsParams,
        operator_models.KeptChannelsResult,
    ),
    "connections": Method(
        "List connections of users", operator_models.ConnectionsParams, operator_models.ConnectionsResult
    ),
    "blocked": Method(
        "List the users that are kept out", operator_models.BlockedParams, operator_models.BlockedResult
    ),
    "info": Method("List the replicas", models.InfoParams, models.InfoResult),
    "history_remove": Method("Forget what is kept of a channel", models.HistoryRemoveParams, models.EmptyResult),
    "disconnect": Method("Close a user's connections", models.DisconnectParams, models.EmptyResult),
    "subscribe": Method("Subscribe a user to a channel", models.SubscribeParams, models.EmptyResult),
    "unsubscribe": Method("Take a user off a channel", models.UnsubscribeParams, models.EmptyResult),
    "refresh": Method("Change when a user's connections expire", models.RefreshParams, models.EmptyResult),
    "rpc": Method("Call the user's backend", models.RpcParams, models.RpcResult),
    "receipts": Method("Read what a user's devices have received", models.ReceiptsParams, models.ReceiptsResult),
    "trace": Method("Say what became of a message, or of those to come", models.TraceParams, models.TraceResult),
    "batch": Method("Carry out several commands in one request", models.BatchParams, models.BatchResult),
}

# Methods that change nothing. What operators do with the others is logged.
READS: Final = frozenset(METHODS) - {
    "publish",
    "broadcast",
    "history_remove",
    "disconnect",
    "subscribe",
    "unsubscribe",
    "refresh",
    "rpc",
    "batch",
}


class Publishes(Protocol):
    """The methods of `Publishing` that are used here."""

    @property
    def max_depth(self) -> int: ...

    @property
    def most_commands(self) -> int: ...

    def read_usual(self, body: bytes | msgspec.Raw) -> models.UsualPublishParams | None: ...

    def publish(
        self,
        channel: str,
        data: msgspec.Raw,
        idempotency_key: str | None,
        done: OnPosition,
        *,
        ephemeral: bool = False,
        tags: dict[str, str] | None = None,
    ) -> None: ...


class Methods:
    """Carry out methods on this replica, for the whole cluster."""

    def __init__(
        self,
        publishing: Publishes,
        manager: ConnectionManager,
        channel_reads: ChannelReads,
        operator_reads: OperatorReads,
        user_methods: UserMethods,
        backend_calls: BackendCalls,
        delivery_reads: DeliveryReads,
        replicas: Replicas,
        clock: Clock,
    ) -> None:
        self._publishing = publishing
        self._manager = manager
        self._channel_reads = channel_reads
        self._operator_reads = operator_reads
        self._user_methods = user_methods
        self._backend_calls = backend_calls
        self._delivery_reads = delivery_reads
        self._replicas = replicas
        self._clock = clock
        self._questions = asyncio.Semaphore(MOST_QUESTIONS)

    async def call(self, name: str, body: bytes | msgspec.Raw) -> msgspec.Struct:
        """Carry out a method with its parameters (JSON).

        Raises:
            ApiError: says why not. With code 100 it may have been carried out in part.
        """
        if name not in METHODS:
            raise ApiError(UNKNOWN_METHOD, f"there is no method {name[:64]!r}; there are {', '.join(METHODS)}")
        return await self._carried_out(self._call(self._read(name, body)))

    async def call_each(self, lines: Sequence[bytes]) -> list[dict[str, object]]:
        """Carry out commands, each the JSON of `{"method":…,"params":…}`, in order. Return a reply for each."""
        most = self._publishing.most_commands
        if len(lines) > most:
            error = ApiError(LIMIT_EXCEEDED, f"a request has at most {most} commands; nothing was done")
            return [{"error": error.body}] * len(lines)
        outage = Outage()
        return [await self._reply_to(line, outage) for line in lines]

    async def _reply_to(self, line: bytes, outage: Outage) -> dict[str, object]:
        try:
            outage.check()
            try:
                command = msgspec.json.decode(line, type=models.MethodCall)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
                text = f'a command is one line of JSON, {{"method":…,"params":…}}: {error}'
                raise ApiError(BAD_REQUEST, text) from None
            return {"result": await self.call(command.method, command.params)}
        except NotNow as error:
            outage.begin(error)
            return {"error": error.body}
        except ApiError as error:
            return {"error": error.body}

    async def _carried_out(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        try:
            return await work
        except ApiError:
            raise
        except HeliographError as error:
            raise api_error(error) from None
        except Exception:
            logger.exception(UNEXPECTED)
            raise ApiError(INTERNAL, "internal error") from None

    # -- the methods

    async def _call(self, params: AnyParams | models.UsualPublishParams) -> msgspec.Struct:
        match params:
            case models.UsualPublishParams():
                return await await_callback(
                    partial(self._publishing.publish, params.channel, params.data, params.idempotency_key)
                )
            case models.PublishParams():
                return await await_callback(partial(self._publish_as, params, params.channel))
            case models.BroadcastParams():
                return await self._broadcast(params)
            case models.PresenceParams():
                return await self._channel_reads.presence(params)
            case models.PresenceStatsParams():
                return await self._channel_reads.presence_stats(params)
            case models.HistoryParams():
                return await self._channel_reads.history(params)
            case models.ChannelsParams():
                return await self._operator_reads.channels(params)
            case operator_models.KeptChannelsParams():
                return await self._operator_reads.kept_channels(params)
            case operator_models.ConnectionsParams():
                return await self._operator_reads.connections(params)
            case operator_models.BlockedParams():
                return await self._operator_reads.blocked(params)
            case models.InfoParams():
                return await self._info()
            case models.UsersParams():
                return models.UsersResult(sorted(await self._replicas.users()))
            case models.DisconnectParams():
                return await self._user_methods.disconnect(params)
            case models.SubscribeParams():
                return await self._user_methods.subscribe(params)
            case models.UnsubscribeParams():
                return await self._user_methods.unsubscribe(params)
            case models.RefreshParams():
                return await self._user_methods.refresh(params)
            case models.RpcParams():
                return await self._backend_calls.rpc(params)
            case models.ReceiptsParams():
                return await self._delivery_reads.receipts(params)
            case models.TraceParams():
                return await self._delivery_reads.trace(params)
            case models.HistoryRemoveParams():
                return await self._remove_history(params)
            case models.BatchParams():
                return await self._batch(params)
            case _:
                assert_never(params)

    def _publish_as(
        self, params: models.PublishParams | models.BroadcastParams, channel: str, done: OnPosition
    ) -> None:
        """Publish on the channel as the parameters say; otherwise like `Publishing.publish`."""
        self._publishing.publish(
            channel,
            params.data,
            params.idempotency_key,
            done,
            ephemeral=params.skip_history,
            tags=params.tags or None,
        )

    async def _broadcast(self, params: models.BroadcastParams) -> models.BroadcastResult:
        most = self._publishing.most_commands
        if len(params.channels) > most:
            raise ApiError(
                LIMIT_EXCEEDED,
                f"a broadcast goes to at most {most} channels; nothing was published",
            )
        return models.BroadcastResult(
            await await_callback(partial(publish_each, params.channels, partial(self._publish_as, params)))
        )

    async def _info(self) -> models.InfoResult:
        now = self._clock.now()
        return models.InfoResult(
            [
                models.NodeInfo(
                    uid=each.node_id,
                    name=each.name,
                    version=each.version,
                    num_clients=each.connections,
                    num_users=each.users,
                    num_channels=each.channels,
                    num_subs=each.subscriptions,
                    uptime=max(0, round(now - datetime.fromisoformat(each.started_at).timestamp())),
                )
                for each in await self._replicas.all()
            ]
        )

    async def _remove_history(self, params: models.HistoryRemoveParams) -> models.EmptyResult:
        self._channel_reads.check_kept(params.channel)
        await self._manager.remove_history(params.channel)
        return models.EmptyResult()

    async def _batch(self, params: models.BatchParams) -> models.BatchResult:
        most = self._publishing.most_commands
        if len(params.commands) > most:
            raise ApiError(LIMIT_EXCEEDED, f"a batch has at most {most} commands; nothing was done")
        outage = Outage()
        replies = (self._reply(command, outage) for command in params.commands)
        if params.parallel:
            return models.BatchResult(await asyncio.gather(*replies))
        return models.BatchResult([await reply for reply in replies])

    # -- shared parts

    async def _reply(self, command: dict[str, msgspec.Raw], outage: Outage) -> dict[str, object]:
        try:
            if len(command) != 1:
                raise ApiError(BAD_REQUEST, "a command is an object with one field: the method, with its parameters")
            [(name, body)] = command.items()
            if name == "batch":
                raise ApiError(UNKNOWN_METHOD, "there is no batch in a batch")
            outage.check()
            if name in ("publish", "broadcast"):
                return {name: await self.call(name, body)}
            async with self._questions:
                outage.check()
                return {name: await self.call(name, body)}
        except NotNow as error:
            outage.begin(error)
            return {"error": error.body}
        except ApiError as error:
            return {"error": error.body}

    def _read(self, name: str, body: bytes | msgspec.Raw) -> AnyParams | models.UsualPublishParams:
        """Return the checked parameters.

        Raises:
            ApiError: says what is wrong with them.
        """
        if name == "publish" and (usual := self._publishing.read_usual(body)) is not None:
            return usual
        model = METHODS[name].params
        try:
            fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
            unsupported = [
                each
                for each in CHANGE_THE_MEANING
                if each not in model.model_fields and msgspec.json.decode(fields.get(each, b"null"))
            ]
            if unsupported:
                raise ApiError(BAD_REQUEST, f"not supported, so nothing was done: {', '.join(unsupported)}")
            values = {field: _value(field, text) for field, text in fields.items() if field in model.model_fields}
            for name in JSON_FIELDS:
                if (encoded := values.pop(f"b64{name}", None)) not in (None, ""):
                    values[name] = _decoded(name, encoded, self._publishing.max_depth)
                elif isinstance(json := values.get(name), msgspec.Raw):
                    check_data(json, self._publishing.max_depth)
            return model.model_validate({field: value for field, value in values.items() if value is not None})
        except HeliographError as error:
            raise ApiError(BAD_REQUEST, str(error)) from None
        except ValidationError as error:
            raise ApiError(BAD_REQUEST, _explain(error)) from None
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise ApiError(BAD_REQUEST, f"the parameters cannot be read: {error}") from None


def _value(field: str, text: msgspec.Raw) -> object:
    """Return a parameter. JSON of any kind stays as its author wrote it."""
    if field in JSON_FIELDS:
        return text
    if field == "commands":
        return msgspec.json.decode(text, type=list[dict[str, msgspec.Raw]])
    return msgspec.json.decode(text)


def _decoded(name: str, encoded: object, max_depth: int) -> msgspec.Raw:
    """Return the JSON of a field in base64, checked.

    Raises:
        BadData: it is not JSON in base64.
    """
    try:
        return json_of_base64(encoded, max_depth)
    except BadData as error:
        raise BadData(f"'b64{name}' must be JSON in base64: {error}") from None


def _explain(error: ValidationError) -> str:
    return "; ".join(
        f"'{'.'.join(map(str, problem['loc']))}': {problem['msg'].lower()}"
        for problem in error.errors(include_url=False, include_input=False, include_context=False)
    )
