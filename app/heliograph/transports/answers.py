"""What clients are answered: reads and emissions carried out for them, and the results of their messages.

Each function returns the event, or the refusal with its reason.
"""

from heliograph.auth.authenticator import Authenticator
from heliograph.cluster.emitter import Emitter
from heliograph.cluster.publish_result import PublishResult
from heliograph.cluster.reading import Reading
from heliograph.errors import (
    BusUnavailable,
    ErrorCode,
    HeliographError,
    InvalidToken,
    KeysUnavailable,
    OverBudget,
    TokenNotCurrent,
    Unrecoverable,
)
from heliograph.hooks.user_backend import UserBackend
from heliograph.hub.connection import Connection
from heliograph.protocol.actions import CheckPermit, CountMembers, FetchHistory, FetchPresence, Reject
from heliograph.protocol.codes import ErrorNumber
from heliograph.protocol.decision import Deny
from heliograph.protocol.events import (
    Ack,
    ClientPresence,
    Emitted,
    History,
    Presence,
    PresenceStats,
    Published,
    RpcResult,
)
from heliograph.protocol.grants import Permit
from heliograph.protocol.operations import Emit, Publish, Rpc, Send
from heliograph.protocol.peer import Caller
from heliograph.protocol.publication import PUBLICATION_BYTES

MEMBER_BYTES = 24  # bytes that a user counts in an answer about presence
CLIENT_BYTES = 120  # bytes that a client counts beside its infos, likewise
MOST_PRESENCE_BYTES = 524_288  # of an answer: infos are long where somebody wants that, and an outbox has a limit


def answer_message(operation: Send | Publish, result: PublishResult | HeliographError) -> Ack | Published | Reject:
    """Return what the sender is told of the router's result."""
    if isinstance(result, HeliographError):
        text = _not_done(operation, result) if isinstance(result, BusUnavailable | OverBudget) else str(result)
        return Reject(result.code, text, operation.request_id)
    if isinstance(operation, Send):
        return Ack(result.message_id, result.delivery, operation.request_id)
    return Published(operation.channel, result.message_id, result.position, operation.request_id)


async def answer_history(reading: Reading, connection: Connection, action: FetchHistory) -> History | Reject:
    """Read what is kept of a channel. What is read counts for the connection."""
    read = action.operation
    try:
        if read.is_whole:
            limit = None if read.limit < 0 else read.limit
            result = await reading.whole_history(read.channel, action.since, limit, reverse=read.reverse)
        else:
            result = await reading.history(read.channel, action.since, read.limit)
    except Unrecoverable as error:
        return Reject(error.code, str(error), read.request_id, number=ErrorNumber.UNRECOVERABLE_POSITION)
    except BusUnavailable as error:
        return Reject(error.code, f"the history cannot be read, try again: {error}", read.request_id)
    last = (result.publications[-1].position if result.publications else None) or result.position
    connection.read_bytes += sum(len(each.data) + PUBLICATION_BYTES for each in result.publications)
    return History(
        channel=read.channel,
        publications=result.publications,
        position=last,
        top=result.position,
        has_more=last.offset < result.position.offset,
        request_id=read.request_id,
    )


async def answer_presence(
    reading: Reading, connection: Connection, action: FetchPresence
) -> Presence | ClientPresence | Reject:
    """Read who is on a channel. What is read counts for the connection."""
    try:
        if action.by_client:
            found = await reading.clients(action.channel)
            clients, size = found.clients, CLIENT_BYTES * len(found.clients) + found.info_bytes
            if size > MOST_PRESENCE_BYTES:
                text = f"the {len(clients)} clients on {action.channel!r} are too many to list: ask for their number"
                return Reject(ErrorCode.NOT_AVAILABLE, text, action.request_id)
            connection.read_bytes += size
            return ClientPresence(action.channel, clients, action.request_id)
        roster = await reading.presence(action.channel)
    except BusUnavailable as error:
        return Reject(error.code, _not_read(action, error), action.request_id)
    connection.read_bytes += MEMBER_BYTES * len(roster.users)
    return Presence(action.channel, roster.users, action.request_id)


async def answer_count(reading: Reading, action: CountMembers) -> PresenceStats | Reject:
    """Count the clients on a channel, and their users."""
    try:
        found = await reading.clients(action.channel)
    except BusUnavailable as error:
        return Reject(error.code, _not_read(action, error), action.request_id)
    return PresenceStats(action.channel, len(found.clients), found.users, action.request_id)


async def check_permit(authenticator: Authenticator, connection: Connection, action: CheckPermit) -> Permit | Reject:
    """Read a subscription token."""
    try:
        return await authenticator.permit(action.token, user=connection.user, channel=action.channel)
    except TokenNotCurrent as error:
        text, number = f"no subscription to {action.channel!r}: {error}", ErrorNumber.TOKEN_EXPIRED
        return Reject(ErrorCode.TOKEN_EXPIRED, text, action.request_id, number=number)
    except InvalidToken as error:
        return Reject(ErrorCode.NOT_ALLOWED, f"no subscription to {action.channel!r}: {error}", action.request_id)
    except KeysUnavailable as error:
        return Reject(error.code, f"no subscription to {action.channel!r}, try again: {error}", action.request_id)


async def answer_emit(emitter: Emitter, connection: Connection, emit: Emit) -> Emitted | Reject:
    """Keep an emission for the workers."""
    try:
        await emitter.emit(emit.event, emit.data, user_id=connection.user, session=connection.id)
    except (BusUnavailable, OverBudget) as error:
        return Reject(error.code, f"{_not_stored(error)}: {error}", emit.request_id)
    return Emitted(emit.request_id)


async def answer_rpc(user_backend: UserBackend, caller: Caller, rpc: Rpc) -> RpcResult | Reject:
    """Have the user's backend answer a call."""
    result = await user_backend.call(caller, rpc)
    if isinstance(result, Deny):
        return Reject(result.code, result.reason, rpc.request_id, result.close, result.number)
    return RpcResult(result, rpc.request_id)


def _not_read(action: FetchPresence | CountMembers, error: BusUnavailable) -> str:
    return f"who is on {action.channel!r} cannot be read, try again: {error}"


def _not_stored(error: BusUnavailable | OverBudget) -> str:
    if isinstance(error, OverBudget):
        return "not stored"
    return "perhaps stored, perhaps not" if error.is_unsure else "not stored, try again"


def _not_done(operation: Send | Publish, error: BusUnavailable | OverBudget) -> str:
    """Return the text for the sender, which says whether sending again may deliver the message twice."""
    done = "delivered" if isinstance(operation, Send) else "published"
    if isinstance(error, OverBudget):
        return f"not {done}: {error}"
    if not error.is_unsure:
        return f"not {done}, try again: {error}"
    if operation.idempotency_key is None:
        return f"perhaps {done}, perhaps not ({error}); sent again it may come twice, as it has no idempotency_key"
    return f"perhaps {done}, perhaps not ({error}); send it again with the same idempotency_key"
