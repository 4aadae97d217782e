"""A run: a job with a state and progress. Its channel is `run:<run id>`."""

import msgspec

END_STATES = ("END", "FAILED")
TAIL_SIZE = 1000  # messages kept beside the state


class RunUpdate(msgspec.Struct, frozen=True):
    """An update from a job; fields that it leaves out keep their values. `progress` is in percent."""

    state: str | None = None
    progress: float | None = None
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
