"""What follows from a decision of the policy, or from the verdict of the user's backend."""

from collections.abc import Callable
from functools import partial
from typing import assert_never

import msgspec

from heliograph.errors import ErrorCode
from heliograph.protocol.actions import Action, AskHook, CountMembers, FetchHistory, FetchPresence, Reject
from heliograph.protocol.decision import Allow, Ask, Decision, Deny, Grant, Rewrite, Verdict
from heliograph.protocol.operations import Publish, RequestId, Send


def denied(denial: Deny, request_id: RequestId | None) -> Reject:
    """Return the refusal that tells a client why an operation is denied."""
    return Reject(denial.code, denial.reason, request_id, denial.close, denial.number)


def message_unless_denied(decision: Decision, message: Send | Publish) -> Action:
    """Return a message that is allowed, a refusal, or a question to the backend that decides between them."""
    match decision:
        case Allow():
            return message
        case Deny():
            return denied(decision, message.request_id)
        case Ask():
            return AskHook(message, partial(_message_allowed, message))
        case _:
            assert_never(decision)


def _message_allowed(message: Send | Publish, verdict: Verdict) -> Action:
    match verdict:
        case Allow() | Grant():
            return message
        case Rewrite(data, ephemeral):
            kept = message.data if data is None else data
            return msgspec.structs.replace(message, data=kept, ephemeral=ephemeral or message.ephemeral)
        case Deny():
            return denied(verdict, message.request_id)
        case _:
            assert_never(verdict)


def read_allowed(
    action: FetchHistory | FetchPresence | CountMembers, request_id: RequestId | None, verdict: Verdict
) -> FetchHistory | FetchPresence | CountMembers | Reject:
    """Return the read if the backend allows it, else the refusal."""
    return denied(verdict, request_id) if isinstance(verdict, Deny) else action


def unless_rejected(answered: Callable[[Verdict], Action | None], verdict: Verdict) -> Action | None:
    """Return what follows from the verdict, without telling the client of a refusal of this channel for good."""
    action = answered(verdict)
    is_told = not isinstance(action, Reject) or action.close is not None or action.code is ErrorCode.UNAVAILABLE
    return action if is_told else None
