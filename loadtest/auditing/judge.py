"""The verdict on a history."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, assert_never

from loadtest.auditing.channel import Channel
from loadtest.auditing.history import (
    Acknowledged,
    AnyEvent,
    Closed,
    Connected,
    Continues,
    Counted,
    Error,
    Failed,
    Fault,
    Kept,
    Mended,
    NotKept,
    Publish,
    Readiness,
    Received,
    Run,
    Took,
    Top,
    Unexpected,
    WrongVerdict,
)
from loadtest.auditing.outages import Window, percentiles

EXAMPLES: Final = 5  # of a kind of fault, in a table
PERCENT: Final = 99


@dataclass
class Verdict:
    """`wrong`: what must not be, in words, by kind. `facts`: what happened."""

    run: Run
    wrong: dict[str, list[str]]
    facts: dict[str, int | float | str]

    @property
    def passed(self) -> bool:
        return not any(self.wrong.values())

    def heading(self) -> str:
        """Return what was run, in a line."""
        run = self.run
        name = f"{run.experiment}: " if run.experiment else ""
        return f"{name}{run.topology}, {run.server}, ack {run.ack}, {run.seconds:g} s, seed {run.seed}"

    def table(self) -> str:
        """Return the verdict as people read it."""
        lines = [f"{name:<36}{_shown(value):>8}" for name, value in self.facts.items()]
        lines.append("-" * 44)
        for name, found in self.wrong.items():
            lines.append(f"{name:<36}{len(found):>8}")
            lines += [f"    {line}" for line in found[:EXAMPLES]]
        return "\n".join(lines)


@dataclass
class _Seen:
    """A history, by channel, and the rest of it."""

    run: Run | None = None
    channels: dict[str, Channel] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    connects: int = 0
    closed: list[str] = field(default_factory=list)
    cut: int = 0  # closes that a fault explains
    unexpected: list[str] = field(default_factory=list)
    unready: list[str] = field(default_factory=list)
    not_kept: list[str] = field(default_factory=list)
    wrong_verdicts: list[str] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)  # in which something was broken for a while
    took: dict[str, list[float]] = field(default_factory=dict)  # steps of recoveries that are not the cluster's work
    _broken_at: dict[tuple[str, str], float] = field(default_factory=dict)

    def note(self, event: AnyEvent) -> None:
        match event:
            case Run():
                self.run = event
            case Publish() | Acknowledged() | Failed() | Received() | Continues() | Kept() | Top():
                self._channel(event.channel).note(event)
                if isinstance(event, Failed):
                    self.failures[event.code] += 1
            case Connected():
                self.connects += 1
            case Closed():
                if event.excuse:
                    self.cut += 1
                else:
                    self.closed.append(f"{event.client} on {event.replica}, at {event.at:.1f} s: {event.how}")
            case Error():
                self.errors[event.code] += 1
            case Fault():
                self.faults[event.what] += event.count
                self._broken_at[event.what, event.target] = event.at
            case Mended():
                self.windows.append((self._broken_at.pop((event.what, event.target), 0.0), event.at))
            case Took():
                self.took.setdefault(event.what, []).append(event.seconds)
            case Counted():
                self.faults[event.what] += event.count
            case Readiness():
                if not event.ready and not event.excuse:
                    self.unready.append(f"{event.replica}, at {event.at:.1f} s: {event.why}")
            case Unexpected():
                self.unexpected.append(event.text)
            case NotKept():
                self.not_kept.append(f"at {event.at:.1f} s: {event.text}")
            case WrongVerdict():
                self.wrong_verdicts.append(event.text)
            case _:
                assert_never(event)

    def _channel(self, name: str) -> Channel:
        if name not in self.channels:
            if self.run is None:
                raise ValueError("this history does not say what was run: its first event must be a `run`")
            self.channels[name] = Channel(name, self.run.may_lose, self.run.two_sides)
        return self.channels[name]


def judge(events: Iterable[AnyEvent]) -> Verdict:
    """Judge a history.

    Raises:
        ValueError: it does not say what was run.
    """
    seen = _Seen()
    for event in events:
        seen.note(event)
    if seen.run is None:
        raise ValueError("this history does not say what was run: its first event must be a `run`")
    return Verdict(seen.run, _wrong(seen, seen.run), _facts(seen))


def _wrong(seen: _Seen, run: Run) -> dict[str, list[str]]:
    channels = seen.channels.values()
    unavailable = [
        f"{each.channel}: {each.seconds:.1f} s, from {each.began:.1f} s on"
        for channel in channels
        for each in channel.outages()
        if run.unavailable_s is not None and each.seconds > run.unavailable_s
    ]
    slow = [
        f"{channel.name}: {each.seconds:.1f} s, at {each.began:.1f} s"
        for channel in channels
        for each in channel.tried
        if run.refused_s is not None and not each.succeeded and each.seconds > run.refused_s
    ]
    nothing = []
    if not any(channel.acknowledged for channel in channels):
        nothing.append("nothing was acknowledged")
    if not any(channel.deliveries() for channel in channels):
        nothing.append("nothing was received")
    return {
        "kept but not delivered": [text for channel in channels for text in channel.undelivered()],
        "acknowledged but lost": [text for channel in channels for text in channel.lost()[0]],
        "doubled": [text for channel in channels for text in channel.doubled()],
        "positions given twice": [text for channel in channels for text in channel.positions_given_twice()],
        "out of order": [text for channel in channels for text in channel.disordered()],
        "unsignalled gaps": [text for channel in channels for text in channel.unsignalled()],
        "gaps said without a reason": []
        if run.may_lose
        else [text for channel in channels for text in channel.signalled()],
        "delivered but never published": [text for channel in channels for text in channel.made_up()],
        "sockets closed without a kill": seen.closed,
        "unavailable for too long": unavailable,
        "refused too late": slow,
        "replicas unready": seen.unready if run.stays_ready else [],
        "tracebacks in the cluster's log": seen.unexpected,
        "what else a fault must not do": seen.not_kept,
        "verdicts that are not so": seen.wrong_verdicts,
        "nothing to judge": nothing,
    }


def _facts(seen: _Seen) -> dict[str, int | float | str]:
    channels = list(seen.channels.values())
    outages = {channel.name: channel.outages() for channel in channels}
    times = [each.seconds for found in outages.values() for each in found]
    unhurt = [each for channel in channels if not outages[channel.name] for each in channel.tried]
    during, outside = percentiles(unhurt, seen.windows, PERCENT)
    others: dict[str, int | float | str] = {
        "p99 of unhurt channels, in ms": outside * 1000,
        "the same while others were hurt": during * 1000,
    }
    return {
        "published and acknowledged": sum(len(channel.acknowledged) for channel in channels),
        "published, no answer or refused": seen.failures.total(),
        "repeated by senders after a loss": sum(len(channel.repeated) for channel in channels),
        "deliveries": sum(channel.deliveries() for channel in channels),
        "connects": seen.connects,
        "sockets of replicas that were killed": seen.cut,
        "errors told to subscribers": seen.errors.total(),
        **seen.faults,
        "times a channel was unavailable": len(times),
        "the longest of these, in s": max(times, default=0.0),
        **{f"{what}, at most, in s": max(seconds) for what, seconds in seen.took.items()},
        **(others if seen.windows else {}),
        "times a replica was unready": len(seen.unready),
        "new epochs without a gap": sum(channel.continuations() for channel in channels),
        "gaps said aloud": sum(len(list(channel.signalled())) for channel in channels),
        "acknowledged, and lost by Redis": sum(channel.lost_by_servers() for channel in channels),
        "missing in gaps said aloud": sum(len(channel.lost()[1]) for channel in channels),
    }


def _shown(value: float | str) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
