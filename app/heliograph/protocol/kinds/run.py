"""The run: a job with a state, progress and last log lines, which are kept beside its updates."""

import msgspec

from heliograph.errors import BadData
from heliograph.protocol.events import Event, InitialState, Progress
from heliograph.protocol.kinds.kind import ChannelKind, ChannelState, ChannelUpdate
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication
from heliograph.protocol.run import END_STATES, TAIL_SIZE, RunProgress, RunState, RunUpdate


class RunKind(ChannelKind):
    """Publications are updates of a run. Subscribers get the latest state, then each update."""

    keeps_state = True

    def check(self, data: msgspec.Raw) -> ChannelUpdate | None:
        try:
            return msgspec.json.decode(data, type=RunUpdate)
        except msgspec.MsgspecError as error:
            raise BadData(f"a run's update is an object with state, progress or message: {error}") from None

    def reduce(self, state: ChannelState | None, update: ChannelUpdate) -> tuple[ChannelState, msgspec.Raw]:
        before = RunState(None, 0, []) if state is None else state
        after = RunState(
            before.state if update.state is None else update.state,
            before.progress if update.progress is None else update.progress,
            before.logs if update.message is None else [*before.logs, update.message][-TAIL_SIZE:],
        )
        progress = RunProgress(after.state, after.progress, update.message)
        return after, msgspec.Raw(msgspec.json.encode(progress))

    def has_ended(self, state: ChannelState | None) -> bool:
        return state is not None and state.state in END_STATES

    def render(self, publication: Publication) -> Event:
        update = msgspec.json.decode(publication.data, type=RunProgress)
        return Progress(publication, update.state, update.progress, update.message)

    def open(self, channel: str, position: Position, state: ChannelState | None) -> Event:
        """Return the state; an unknown run has not begun."""
        run = RunState(None, 0, []) if state is None else state
        return InitialState(channel, position, run.state, run.progress, run.logs)
