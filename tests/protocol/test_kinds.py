"""The kinds of channels: what each accepts, keeps and tells."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.errors import BadData
from heliograph.protocol.channel_options import Namespace
from heliograph.protocol.events import InitialState, Progress, positions_after
from heliograph.protocol.kinds.registry import PLAIN, RUN, kind_of
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication
from heliograph.protocol.run import TAIL_SIZE, RunProgress, RunState, RunUpdate

AT = Position("0a0b0c0d", 7)
UPDATES = st.builds(
    RunUpdate,
    state=st.none() | st.sampled_from(["RUNNING", "END", "FAILED"]),
    progress=st.none() | st.floats(0, 100),
    message=st.none() | st.text(max_size=5),
)


def publication(data: bytes) -> Publication:
    return Publication("run:42", msgspec.Raw(data), "m", "t", position=AT)


def test_the_option_says_which() -> None:
    """Fails if a namespace's channels are taken for another kind."""
    assert kind_of(Namespace(run=True)) is RUN
    assert kind_of(Namespace()) is PLAIN


class TestPlain:
    def test_it_is_told_as_it_was_published(self) -> None:
        """Fails if plain data is looked into, or made into something else."""
        assert PLAIN.check(msgspec.Raw(b'{"state":7}')) is None
        told = publication(b'{"state":7}')
        assert PLAIN.render(told) is told
        assert not PLAIN.keeps_state
        assert not PLAIN.has_ended(RunState("END", 100, []))


class TestRun:
    @pytest.mark.parametrize(
        "data",
        [
            *(b"1", b"[]", b'{"state":1}', b'{"progress":"half"}', b'{"message":[]}'),
            *(b'{"progress":400}', b'{"progress":-0.5}', b'{"progress":1e308}'),
        ],
    )
    def test_what_is_no_update_is_refused(self, data: bytes) -> None:
        """Fails if a run's viewers could be told something that is no progress."""
        with pytest.raises(BadData, match="a run's update"):
            RUN.check(msgspec.Raw(data))

    @pytest.mark.parametrize("progress", [0, 0.0, 33.3, 100])
    def test_a_progress_is_in_percent(self, progress: float) -> None:
        """Fails if the first or the last step of a run is refused."""
        assert RUN.check(msgspec.Raw(b'{"progress":%a}' % progress)) == RunUpdate(progress=progress)

    @given(st.lists(UPDATES, max_size=20))
    def test_what_it_tells_adds_up_to_its_state(self, updates: list[RunUpdate]) -> None:
        """Fails if a viewer from the start would see another run than one who comes at the end."""
        state: RunState | None = None
        seen, lines = RunProgress(None, 0, None), []
        for update in updates:
            state, data = RUN.reduce(state, update)
            told = RUN.render(publication(data))
            assert isinstance(told, Progress)
            seen = RunProgress(told.state, told.progress, None)
            lines += [] if told.message is None else [told.message]
        shown = RUN.open("run:42", AT, state)
        assert shown == InitialState("run:42", AT, seen.state, seen.progress, lines)
        assert RUN.has_ended(state) == (seen.state in ("END", "FAILED"))

    def test_it_keeps_the_last_lines(self) -> None:
        """Fails if a run that prints without end takes memory without end."""
        state = RunState("RUNNING", 1, [str(number) for number in range(TAIL_SIZE)])
        after, _ = RUN.reduce(state, RunUpdate(message="new"))
        assert (len(after.logs), after.logs[0], after.logs[-1]) == (TAIL_SIZE, "1", "new")
        assert len(state.logs) == TAIL_SIZE, "what was read before stays as it was"
        assert state.logs[-1] != "new"

    def test_a_viewer_stands_where_the_state_stands(self) -> None:
        """Fails if a stream that ends in between would begin anew, or leave an update out."""
        assert positions_after(RUN.open("run:42", AT, None)) == {"run:42": AT}
        told = RUN.render(publication(b'{"state":"RUNNING","progress":4,"message":null}'))
        assert positions_after(told) == {"run:42": AT}
