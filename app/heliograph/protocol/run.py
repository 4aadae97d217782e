"""A run: a job with a state and progress."""

from typing import Annotated

import msgspec

END_STATES = ("END", "FAILED")
TAIL_SIZE = 1000  # messages kept beside the state
_PREFIX = "run:"

Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]  # checked where an update is read


def channel_of_run(run_id: str) -> str:
    """Return the channel of the run."""
    return f"{_PREFIX}{run_id}"


def run_of(channel: str) -> str:
    """Return the id of the run whose channel this is: what follows the namespace."""
    return channel.partition(":")[2]


class RunUpdate(msgspec.Struct, frozen=True):
    """An update from a job; fields that it leaves out keep their values. `progress` is in percent."""

    state: str | None = None
    progress: Percent | None = None
    message: str | None = None


class RunProgress(msgspec.Struct, frozen=True):
    """The data of a run's publication: its state and progress after the update, and the update's message."""

    state: str | None
    progress: float
    message: str | None


class RunState(msgspec.Struct, frozen=True):
    """The latest state of a run, which a new viewer gets first."""

    state: str | None
    progress: float
    logs: list[str]
