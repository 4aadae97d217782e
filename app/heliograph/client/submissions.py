"""What each verb of a publisher sends, and how long it is retried: the same for plain functions and coroutines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from heliograph.client.drafts import Drafting
from heliograph.errors import BadSetting
from heliograph.ports import IDEMPOTENCY_TTL_S, Draft
from heliograph.protocol.traceparent import TRACEPARENT, is_sampled

LONGEST_DEADLINE_S: Final = IDEMPOTENCY_TTL_S - 60  # repetitions are recognised for somewhat longer


@dataclass(frozen=True, slots=True)
class Submission:
    """What one call sends. `deadline_s`: how long it is retried; 0 means once.

    `idempotency_key`: by which a repetition is recognised; None if nothing is kept.
    """

    drafts: Sequence[Draft]
    kept: bool
    deadline_s: float
    idempotency_key: str | None


class Submissions:
    """Make submissions; each method raises the errors of the verb that uses it. `deadline_s`: for calls without one.

    Raises:
        BadSetting: a deadline is out of its range.
    """

    def __init__(self, drafting: Drafting, deadline_s: float) -> None:
        self._drafting = drafting
        self._deadline_s = _checked(deadline_s)

    def publication(
        self, channel: str, data: object, idempotency_key: str | None, traceparent: str | None
    ) -> Submission:
        return self._submission([self._drafting.publication(channel, data, idempotency_key, _tags(traceparent))])

    def for_user(
        self, user_id: str, data: object, idempotency_key: str | None, traceparent: str | None
    ) -> Submission:
        return self._submission([self._drafting.for_user(user_id, data, idempotency_key, _tags(traceparent))])

    def progress(
        self,
        run_id: str,
        state: str | None,
        progress: float | None,
        log: str | None,
        idempotency_key: str | None,
        deadline_s: float | None,
        traceparent: str | None,
    ) -> Submission:
        draft = self._drafting.progress(run_id, state, progress, log, idempotency_key, _tags(traceparent))
        return self._submission([draft], deadline_s)

    def lines(
        self, project_id: str | int, lines: Sequence[tuple[str, str]], deadline_s: float | None = None
    ) -> Submission:
        """Make the submission of lines, each with its stream."""
        return self._submission(self._drafting.lines(project_id, lines), deadline_s)

    def _submission(self, drafts: list[Draft], deadline_s: float | None = None) -> Submission:
        deadline_s = self._deadline_s if deadline_s is None else _checked(deadline_s)
        if drafts and self._drafting.is_kept(drafts[0]):
            return Submission(drafts, True, deadline_s, drafts[0].idempotency_key)
        return Submission(drafts, False, 0, None)


def _tags(traceparent: str | None) -> dict[str, str] | None:
    """Return the tags of a message in this trace; none if the trace is not recorded, or there is no such trace."""
    return {TRACEPARENT: traceparent} if traceparent is not None and is_sampled(traceparent) else None


def _checked(deadline_s: float) -> float:
    if not 0 <= deadline_s <= LONGEST_DEADLINE_S:
        text = f"deadline_s is 0 to {LONGEST_DEADLINE_S} s, not {deadline_s!r}: so long are repetitions recognised"
        raise BadSetting(text)
    return deadline_s
