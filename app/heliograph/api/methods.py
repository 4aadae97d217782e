"""The methods of the server API: parameters in, a result out, or an `ApiError`."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar, assert_never

import msgspec
from pydantic import ValidationError

from heliograph.api import models
from heliograph.callbacks import await_callback
from heliograph.clock import Clock
from heliograph.cluster.channel_counts import ChannelCounts
from heliograph.cluster.directory import Directory
from heliograph.cluster.presence import Roster
from heliograph.cluster.publish_result import PublishResult
from heliograph.cluster.user_commands import UserCommands
from heliograph.errors import BusUnavailable, HeliographError
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.identity import check_channel
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication, check_data
from heliograph.transports.driver import Parts

logger = logging.getLogger(__name__)

INTERNAL = 100  # also: Redis cannot be reached
UNAUTHORIZED = 101
UNKNOWN_METHOD = 104
LIMIT_EXCEEDED = 106
BAD_REQUEST = 107
NOT_AVAILABLE = 108  # the channel's namespace has no such thing
UNRECOVERABLE = 112

UNEXPECTED: Final = "a server API method failed with an unexpected error"

MOST_PUBLICATIONS = 1000  # in one answer
ANSWER_BYTES = 1_048_576  # data of publications in one answer, or one publication; the rest needs another request
MOST_QUESTIONS = 16  # reads of batches under way at the same time, so that publications need not wait behind them
NOT_SUPPORTED: Final = (
    "b64data",
    "client",
    "session",
    "skip_history",
    "tags",
    "version",
    "version_epoch",
    "whitelist",
)  # refused, unless they are empty

OnPosition = Callable[["models.PositionResult | ApiError"], object]

_USUAL_PUBLISH: Final = msgspec.json.Decoder(models.UsualPublishParams)
_Result = TypeVar("_Result", bound=msgspec.Struct)


class ApiError(Exception):
    """The answer instead of a result."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def body(self) -> models.ErrorInfo:
        return models.ErrorInfo(self.code, str(self))


class NotNow(ApiError):
    """Redis cannot be reached. The call may be retried."""

    def __init__(self, message: str) -> None:
        super().__init__(INTERNAL, message)


@dataclass
class Outage:
    """Once Redis cannot be reached, the rest of a batch is not tried: each command would wait in vain.

    In a sequential batch, nothing is published after a publication that failed.
    """

    reason: str | None = None

    def check(self) -> None:
        if self.reason is not None:
            raise NotNow(f"not tried, as one before it failed: {self.reason}")


class Method(NamedTuple):
    """A method's summary, parameters and result."""

    summary: str
    params: type[models.AnyParams]
    result: type[msgspec.Struct]


METHODS: Final = {
    "publish": Method("Publish on a channel, or to a user", models.PublishParams, models.PositionResult),
    "broadcast": Method("Publish the same on several channels", models.BroadcastParams, models.BroadcastResult),
    "presence": Method("List who is on a channel", models.PresenceParams, models.PresenceResult),
    "presence_stats": Method("Count who is on a channel", models.PresenceStatsParams, models.PresenceStatsResult),
    "history": Method("Read a channel's history and position", models.HistoryParams, models.HistoryResult),
    "channels": Method("List the channels with subscribers", models.ChannelsParams, models.ChannelsResult),
    "info": Method("List the replicas", models.InfoParams, models.InfoResult),
    "disconnect": Method("Close every connection of a user", models.DisconnectParams, models.EmptyResult),
    "unsubscribe": Method("Take a user off a channel", models.UnsubscribeParams, models.EmptyResult),
    "batch": Method("Carry out several commands in one request", models.BatchParams, models.BatchResult),
}


class Methods:
    """Carry out methods on this replica, for the whole cluster."""

    def __init__(
        self,
        parts: Parts,
        user_commands: UserCommands,
        directory: Directory,
        channel_counts: ChannelCounts,
        clock: Clock,
    ) -> None:
        self._manager = parts.manager
        self._reading = parts.reading
        self._user_commands = user_commands
        self._namespaces = parts.namespaces
        self._max_depth = parts.settings.limits.depth
        self._most = parts.settings.api.batch
        self._traffic = parts.telemetry.traffic["api"]
        self._clock = clock
        self._directory = directory
        self._channel_counts = channel_counts
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
        if len(lines) > self._most:
            error = ApiError(LIMIT_EXCEEDED, f"a request has at most {self._most} commands; nothing was done")
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
            outage.reason = outage.reason or str(error)
            return {"error": error.body}
        except ApiError as error:
            return {"error": error.body}

    async def _carried_out(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        try:
            return await work
        except ApiError:
            raise
        except HeliographError as error:
            raise _api_error(error) from None
        except Exception:
            logger.exception(UNEXPECTED)
            raise ApiError(INTERNAL, "internal error") from None

    # -- the methods

    async def _call(self, params: models.AnyParams | models.UsualPublishParams) -> msgspec.Struct:
        match params:
            case models.PublishParams() | models.UsualPublishParams():
                return await await_callback(
                    partial(self.publish, params.channel, params.data, params.idempotency_key)
                )
            case models.BroadcastParams():
                return await self._broadcast(params)
            case models.PresenceParams():
                return await self._presence(params)
            case models.PresenceStatsParams():
                return await self._presence_stats(params)
            case models.HistoryParams():
                return await self._history(params)
            case models.ChannelsParams():
                return await self._channels(params)
            case models.InfoParams():
                return await self._info()
            case models.DisconnectParams():
                return await self._disconnect(params)
            case models.UnsubscribeParams():
                return await self._unsubscribe(params)
            case models.BatchParams():
                return await self._batch(params)
            case _:
                assert_never(params)

    def read_usual_publish(self, body: bytes | msgspec.Raw) -> models.UsualPublishParams | None:
        """Return the parameters of a publish in the usual form, checked; None if `call` has to read them."""
        try:
            params = _USUAL_PUBLISH.decode(body)
            check_data(params.data, self._max_depth)
        except (msgspec.MsgspecError, HeliographError, RecursionError, UnicodeDecodeError):
            return None
        return params

    def publish(self, channel: str, data: msgspec.Raw, idempotency_key: str | None, done: OnPosition) -> None:
        """Publish, and have `done` called with the position or the error, once, now or later. Raises nothing."""
        self._traffic.messages_in += 1
        try:
            self._manager.submit(
                channel, data, partial(_answer_publish, done), idempotency_key=idempotency_key or None
            )
        except HeliographError as error:
            done(_api_error(error))
        except Exception:
            logger.exception(UNEXPECTED)
            done(ApiError(INTERNAL, "internal error"))

    async def _broadcast(self, params: models.BroadcastParams) -> models.BroadcastResult:
        if len(params.channels) > self._most:
            raise ApiError(
                LIMIT_EXCEEDED, f"a broadcast goes to at most {self._most} channels; nothing was published"
            )
        return models.BroadcastResult(await await_callback(partial(self._publish_each, params)))

    def _publish_each(
        self, params: models.BroadcastParams, done: Callable[[list[models.BroadcastResponse]], object]
    ) -> None:
        """Publish on every channel; `done` gets the responses, in the order of the channels, when all are there."""
        responses: list[models.BroadcastResponse] = [models.BroadcastResponse()] * len(params.channels)
        missing = len(responses)

        def respond(number: int, outcome: models.PositionResult | ApiError) -> None:
            nonlocal missing
            if isinstance(outcome, ApiError):
                responses[number] = models.BroadcastResponse(error=outcome.body)
            else:
                responses[number] = models.BroadcastResponse(result=outcome)
            missing -= 1
            if not missing:
                done(responses)

        for number, channel in enumerate(params.channels):
            self.publish(channel, params.data, params.idempotency_key, partial(respond, number))

    async def _presence(self, params: models.PresenceParams) -> models.PresenceResult:
        return models.PresenceResult(
            {
                f"{user}/{number}": models.ClientInfo(f"{user}/{number}", user)
                for user, connections in (await self._present(params.channel)).users.items()
                for number in range(1, connections + 1)
            }
        )

    async def _presence_stats(self, params: models.PresenceStatsParams) -> models.PresenceStatsResult:
        roster = await self._present(params.channel)
        return models.PresenceStatsResult(num_clients=roster.connections, num_users=len(roster.users))

    async def _history(self, params: models.HistoryParams) -> models.HistoryResult:
        if self._namespaces.of(check_channel(params.channel)).ephemeral:
            raise ApiError(NOT_AVAILABLE, f"nothing is kept of {params.channel!r}: its namespace is ephemeral")
        limit = MOST_PUBLICATIONS if params.limit < 0 else params.limit
        since = None if params.since is None else Position(params.since.epoch, params.since.offset)
        if params.reverse or not limit:
            top = (await self._reading.history(params.channel, None, 1)).position
            if since is not None and (since.epoch != top.epoch or since.offset > top.offset):
                raise _unrecoverable(params.channel)
            found = await self._before(params.channel, top, since, limit) if limit else []
        else:
            top, found = await self._after(params.channel, since, limit)
        return models.HistoryResult([_listed(each) for each in found], top.offset, top.epoch)

    async def _channels(self, params: models.ChannelsParams) -> models.ChannelsResult:
        counts = await self._channel_counts.channels(params.pattern)
        return models.ChannelsResult({channel: models.ChannelInfo(count) for channel, count in counts.items()})

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
                for each in await self._directory.replicas()
            ]
        )

    async def _disconnect(self, params: models.DisconnectParams) -> models.EmptyResult:
        code = params.disconnect.code or CloseCode.FORCED
        if code not in models.CLOSE_CODES:
            raise ApiError(BAD_REQUEST, f"'disconnect.code' is one of {', '.join(map(str, models.CLOSE_CODES))}")
        reason = params.disconnect.reason or "disconnected by the server"
        await self._user_commands.disconnect_user(
            params.user, code=CloseCode(code), reason=reason, block_s=params.block_s
        )
        return models.EmptyResult()

    async def _unsubscribe(self, params: models.UnsubscribeParams) -> models.EmptyResult:
        await self._user_commands.unsubscribe_user(params.user, params.channel)
        return models.EmptyResult()

    async def _batch(self, params: models.BatchParams) -> models.BatchResult:
        if len(params.commands) > self._most:
            raise ApiError(LIMIT_EXCEEDED, f"a batch has at most {self._most} commands; nothing was done")
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
            outage.reason = outage.reason or str(error)
            return {"error": error.body}
        except ApiError as error:
            return {"error": error.body}

    async def _present(self, channel: str) -> Roster:
        if not self._namespaces.of(check_channel(channel)).presence:
            raise ApiError(NOT_AVAILABLE, f"who is on {channel!r} is not kept: its namespace has no presence")
        return await self._reading.presence(channel)

    async def _before(self, channel: str, top: Position, since: Position | None, limit: int) -> list[Publication]:
        """Return the last publications (before `since`), newest first."""
        last = top.offset if since is None else since.offset - 1
        found, complete = await self._up_to(channel, Position(top.epoch, max(0, last - limit)), last, limit)
        if not complete:  # there are gaps, or the publications are gone: look further back
            found, _ = await self._up_to(channel, None, last, limit)
        return found[::-1]

    async def _up_to(
        self, channel: str, after: Position | None, last: int, limit: int
    ) -> tuple[list[Publication], bool]:
        """Return the last kept publications after `after` (or from the start) up to the offset `last`.

        At most `limit`, and at most ANSWER_BYTES. The second value is False if some in between are missing.
        """
        found: deque[Publication] = deque()
        size, complete = 0, True
        while True:
            opened = await self._reading.history(channel, after, MOST_PUBLICATIONS)
            complete = complete and opened.complete
            for each in opened.publications:
                if each.position is None or each.position.offset > last:
                    return list(found), complete
                after = each.position
                found.append(each)
                size += len(each.data)
                while len(found) > limit or (size > ANSWER_BYTES and len(found) > 1):
                    size -= len(found.popleft().data)
            if not opened.publications or after is None or after.offset >= opened.position.offset:
                return list(found), complete

    async def _after(self, channel: str, since: Position | None, limit: int) -> tuple[Position, list[Publication]]:
        """Return the channel's position, and the first publications after `since`, at most ANSWER_BYTES.

        Raises:
            ApiError: some in between are missing.
        """
        found: list[Publication] = []
        size = 0
        while True:
            opened = await self._reading.history(channel, since, limit - len(found))
            if not opened.complete:
                if found:  # trimmed meanwhile: a request for what follows gets the error
                    return opened.position, found
                raise _unrecoverable(channel)
            for each in opened.publications:
                size += len(each.data)
                if found and size > ANSWER_BYTES:
                    return opened.position, found
                found.append(each)
            since = found[-1].position if found else None
            if since is None or len(found) >= limit or since.offset >= opened.position.offset:
                return opened.position, found

    def _read(self, name: str, body: bytes | msgspec.Raw) -> models.AnyParams | models.UsualPublishParams:
        """Return the checked parameters.

        Raises:
            ApiError: says what is wrong with them.
        """
        if name == "publish" and (usual := self.read_usual_publish(body)) is not None:
            return usual
        model = METHODS[name].params
        try:
            fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
            if unsupported := [each for each in NOT_SUPPORTED if msgspec.json.decode(fields.get(each, b"null"))]:
                raise ApiError(BAD_REQUEST, f"not supported, so nothing was done: {', '.join(unsupported)}")
            values = {field: _value(field, text) for field, text in fields.items() if field in model.model_fields}
            if isinstance(data := values.get("data"), msgspec.Raw):
                check_data(data, self._max_depth)
            return model.model_validate({field: value for field, value in values.items() if value is not None})
        except HeliographError as error:
            raise ApiError(BAD_REQUEST, str(error)) from None
        except ValidationError as error:
            raise ApiError(BAD_REQUEST, _explain(error)) from None
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise ApiError(BAD_REQUEST, f"the parameters cannot be read: {error}") from None


def _value(field: str, text: msgspec.Raw) -> object:
    """Return a parameter. `data` stays as its author wrote it."""
    if field == "data":
        return text
    if field == "commands":
        return msgspec.json.decode(text, type=list[dict[str, msgspec.Raw]])
    return msgspec.json.decode(text)


def _explain(error: ValidationError) -> str:
    return "; ".join(
        f"'{'.'.join(map(str, problem['loc']))}': {problem['msg'].lower()}"
        for problem in error.errors(include_url=False, include_input=False, include_context=False)
    )


def _answer_publish(done: OnPosition, result: PublishResult | HeliographError) -> None:
    if isinstance(result, HeliographError):
        done(_api_error(result))
    elif result.position is None:
        done(models.PositionResult())
    else:
        done(models.PositionResult(result.position.offset, result.position.epoch))


def _api_error(error: HeliographError) -> ApiError:
    """Return what the caller is told of an error."""
    return NotNow(_not_done(error)) if isinstance(error, BusUnavailable) else ApiError(BAD_REQUEST, str(error))


def _listed(publication: Publication) -> models.PublicationInfo:
    sender = publication.sender
    return models.PublicationInfo(
        offset=publication.position.offset if publication.position is not None else 0,
        data=publication.data,
        info=None if sender is None else models.ClientInfo(sender, sender),
    )


def _unrecoverable(channel: str) -> ApiError:
    return ApiError(UNRECOVERABLE, f"what followed that position on {channel!r} is not kept any more")


def _not_done(error: BusUnavailable) -> str:
    """Return the text for the caller, which says whether a retry may do it twice."""
    if error.is_unsure:
        return f"perhaps done, perhaps not; try again, a publication with the same idempotency_key: {error}"
    return f"not now, try again: {error}"
