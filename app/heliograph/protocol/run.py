"""A run: a job with a state and progress. Its channel is `run:<run id>`."""

import msgspec

from heliograph.errors import BadData

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


def check_update(data: msgspec.Raw) -> RunUpdate:
    """Read an update for a run's channel.

    Raises:
        BadData: it is not an object with `state`, `progress` or `message`.
    """
    try:
        return msgspec.json.decode(data, type=RunUpdate)
    except msgspec.MsgspecError as error:
        raise BadData(f"a run's update is an object with state, progress or message: {error}") from None
