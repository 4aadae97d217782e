"""The verdict on a message: what became of it for one user, in one sentence. Pure."""

from collections.abc import Iterator
from typing import Final

from heliograph.clock import iso8601
from heliograph.cluster.receipts import covers
from heliograph.cluster.tracer import Story
from heliograph.hub.trace import ACCEPTED, DELIVERED, NAMES, REFUSED, RELAYED, REPEATED
from heliograph.ports import Receipt
from heliograph.protocol.trace import ConnectionAccount, Outcome, ReplicaAccount

REMOTE: Final = "remote"  # of an accepted message: another replica held the user
_TOOK: Final = (Outcome.WRITTEN, Outcome.HAD_IT)
_OPEN: Final = (Outcome.UNKNOWN, Outcome.NOT_HEARD, Outcome.WAITS)
# What is said first: who has it, who may get it, who has not.
_ORDER: Final = (
    Outcome.WRITTEN,
    Outcome.HAD_IT,
    Outcome.WAITS,
    Outcome.NOT_HEARD,
    Outcome.NOT_WRITTEN,
    Outcome.CAME_LATER,
    Outcome.GONE,
    Outcome.UNKNOWN,
)


def reached(story: Story) -> bool | None:
    """Return whether some connection of the user got the message; None if that is not known."""
    outcomes = [account.outcome for _, _, account in _connections(story)]
    if any(_covers(story, each) for each in story.receipts) or any(each in _TOOK for each in outcomes):
        return True
    if any(isinstance(each, str) for _, each in story.accounts) or any(each in _OPEN for each in outcomes):
        return None
    if any(True for _ in _of_the_gone(story)):
        return None
    sent_at = story.facts.sent_at
    since = max((each.since for _, each in story.accounts if not isinstance(each, str)), default=0.0)
    return None if sent_at is None or sent_at < since else False


def verdict_of(story: Story) -> str:
    """Return the verdict in one sentence."""
    parts = [*_beginning(story), *_of_connections(story), *_of_devices(story)]
    if not any(True for _ in _connections(story)) and not any(_covers(story, each) for each in story.receipts):
        parts.append(_of_nobody(story))
    silent = [f"nothing is known from {name}: {each}" for name, each in story.accounts if isinstance(each, str)]
    if not silent and reached(story) is None:
        parts += _of_the_gone(story)
    parts += silent
    return "; ".join(parts) + "."


def _beginning(story: Story) -> Iterator[str]:
    """Say that the message was a repetition, or was not accepted."""
    seen = {sighting.what for _, sighting in story.facts.sightings}
    for replica, sighting in story.facts.sightings:
        if sighting.what == NAMES[REPEATED]:
            yield f"it is the repetition of {sighting.text}, which {replica} accepted before: ask about that one"
        elif sighting.what == NAMES[REFUSED] and seen.isdisjoint(NAMES[each] for each in (ACCEPTED, DELIVERED)):
            who = f" from {sighting.sender}" if sighting.sender else ""
            yield f"{replica} did not accept it{who} at {_clock(sighting.at)}: {sighting.text}"


def _of_connections(story: Story) -> Iterator[str]:
    accounts = sorted(_connections(story), key=lambda each: _ORDER.index(each[2].outcome))
    for replica, on_replica, account in accounts:
        yield _sentence(story, replica, on_replica, account)


def _sentence(story: Story, replica: str, on_replica: ReplicaAccount, account: ConnectionAccount) -> str:
    name = _name(story.user, account)
    at = "" if account.at is None else f" at {_clock(account.at)}"
    match account.outcome:
        case Outcome.WRITTEN:
            from_log = ", from the log" if account.caught_up or on_replica.repaired else ""
            return f"{name} was written it{at} on {replica}{from_log}{_after_that(story, account)}"
        case Outcome.HAD_IT:
            return f"{name} came{at} on {replica} with a later position: it has it"
        case Outcome.WAITS:
            return f"{name} does not read, so that it waits in the outbox on {replica}"
        case Outcome.NOT_HEARD:
            return f"{name} is subscribed on {replica}, which has not heard it"
        case Outcome.NOT_WRITTEN:
            return f"{name} ended{at} on {replica} before it was written"
        case Outcome.CAME_LATER:
            return f"{name} came{at} on {replica}, later, and did not ask for what was before"
        case Outcome.GONE:
            return f"{name} had left {replica}{at}"
        case Outcome.UNKNOWN:
            since = _clock(on_replica.since)
            return f"whether {name} was written it is not known any more: the notes of {replica} go back to {since}"


def _after_that(story: Story, account: ConnectionAccount) -> str:
    """Say what followed the writing: a receipt, or an end."""
    receipt = next((each for each in story.receipts if each.device == account.device and _covers(story, each)), None)
    if receipt is not None:
        return f", and it was received (as the device said at {_clock(receipt.at)})"
    if account.ended_at is not None:
        return f", and ended at {_clock(account.ended_at)}: whether it arrived is not known"
    return ""


def _of_devices(story: Story) -> Iterator[str]:
    """Speak of devices that are known by their receipts, and have no connection that was told of."""
    told = {account.device for _, _, account in _connections(story)}
    for receipt in story.receipts:
        if receipt.device in told:
            continue
        name = f"{story.user}'s {receipt.device}" if receipt.device else story.user
        if _covers(story, receipt):
            yield f"{name} has received it, as it said at {_clock(receipt.at)}"
        elif receipt.device:
            yield f"{name} was not connected"


def _of_nobody(story: Story) -> str:
    facts, user = story.facts, story.user
    channel = facts.channel
    seen = {sighting.what for _, sighting in facts.sightings}
    if seen and seen <= {NAMES[REFUSED], NAMES[REPEATED]}:
        return f"so {user} did not get it"
    if reached(story) is None:
        return f"whether {user} was connected then is not known any more"
    if facts.is_kept and facts.position is not None:
        return f"{user} was not connected to {channel!r}; it is kept there, at offset {facts.position.offset}"
    if facts.position is not None:
        return f"{user} was not connected to {channel!r}, and it is not kept there any more"
    how = " and was not to be kept" if NAMES[RELAYED] in seen or NAMES[DELIVERED] in seen else ""
    return f"{user} was not connected to {channel!r} when it came{how}"


def _of_the_gone(story: Story) -> Iterator[str]:
    """Say which replica had a part in it and does not tell of it: it took its notes with it."""
    facts = story.facts
    accepted = [each for each in facts.sightings if each[1].what == NAMES[ACCEPTED]]
    if facts.origin and not accepted:
        yield f"{facts.origin}, which accepted it, is gone or has forgotten it"
    telling = {replica for replica, _, _ in _connections(story)}
    for replica, sighting in accepted:
        if sighting.text == REMOTE and telling <= {replica}:
            yield f"{replica} published it for a connection on another replica, which is gone"


def _connections(story: Story) -> Iterator[tuple[str, ReplicaAccount, ConnectionAccount]]:
    for replica, on_replica in story.accounts:
        if not isinstance(on_replica, str):
            for account in on_replica.connections:
                yield replica, on_replica, account


def _covers(story: Story, receipt: Receipt) -> bool:
    position = story.facts.position
    return position is not None and covers(receipt, story.facts.channel, position)


def _name(user: str, account: ConnectionAccount) -> str:
    if account.device:
        return f"{user}'s {account.device} (connection {account.connection})"
    return f"{user}'s connection {account.connection}"


def _clock(at: float) -> str:
    """Return the time of day, in UTC."""
    return iso8601(at)[11:23]
