"""The same publication on several channels."""

from collections.abc import Callable, Sequence
from functools import partial

from heliograph.api import models
from heliograph.api.errors import ApiError

Outcome = models.PositionResult | ApiError
OnPosition = Callable[[Outcome], object]


def publish_each(
    channels: Sequence[str],
    publish: Callable[[str, OnPosition], None],
    done: Callable[[list[models.BroadcastResponse]], object],
) -> None:
    """Publish on every channel; `done` gets the responses, in the order of the channels, when all are there."""
    responses: list[models.BroadcastResponse] = [models.BroadcastResponse()] * len(channels)
    missing = len(responses)

    def respond(number: int, outcome: Outcome) -> None:
        nonlocal missing
        if isinstance(outcome, ApiError):
            responses[number] = models.BroadcastResponse(error=outcome.body)
        else:
            responses[number] = models.BroadcastResponse(result=outcome)
        missing -= 1
        if not missing:
            done(responses)

    for number, channel in enumerate(channels):
        publish(channel, partial(respond, number))
