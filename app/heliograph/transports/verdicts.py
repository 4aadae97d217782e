"""Awaits the hook that a policy names."""

from heliograph.errors import HeliographError
from heliograph.protocol.decision import Ask, Decision, Deny, Verdict


async def verdict_of(decision: Decision) -> Verdict:
    """Return the policy's decision, or the verdict of the hook that it names.

    If the hook fails, nothing is allowed.
    """
    if not isinstance(decision, Ask):
        return decision
    try:
        return await decision.hook()
    except HeliographError as error:
        return Deny(f"nobody can say whether that is allowed: {error}", error.code)
