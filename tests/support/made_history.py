"""Histories of a cluster that does everything right, made by dice: senders, readers, failovers, lost answers."""

import random
from dataclasses import dataclass, field
from typing import Any

from loadtest.auditing.history import (
    Acknowledged,
    AnyEvent,
    Closed,
    Connected,
    Continues,
    Failed,
    Fault,
    Kept,
    Number,
    Publish,
    Received,
    Run,
    Top,
)

TICK_S = 0.01
CHANNEL = "audit:a"


@dataclass
class _Call:
    """A publication under way."""

    number: Number
    is_appended: bool = False


@dataclass
class _Reader:
    name: str
    epoch: str
    offset: int = 0


@dataclass
class HistoryMaker:
    """`may_lose`: a failover takes back publications that were acknowledged, and readers are told.

    Otherwise it takes back only what nobody was told was taken, and readers go on in the new epoch in silence.
    """

    dice: random.Random
    may_lose: bool
    events: list[AnyEvent] = field(default_factory=list)
    _log: list[Number] = field(default_factory=list)
    _epoch: int = 1
    _acknowledged: set[Number] = field(default_factory=set)
    _calls: dict[str, _Call | None] = field(default_factory=dict)  # by sender
    _counts: dict[str, int] = field(default_factory=dict)
    _at: float = 0.0

    def make(self, steps: int) -> list[AnyEvent]:
        self.events = [
            Run(
                topology="made up",
                server="none",
                ack="memory" if self.may_lose else "replica",
                seed=0,
                seconds=steps * TICK_S,
                may_lose=self.may_lose,
                unavailable_s=60.0,
            )
        ]
        self._readers = [_Reader(f"reader-{i}", self._name) for i in range(3)]
        self._calls = dict.fromkeys(["sender-1", "sender-2", "repeater"])
        for reader in self._readers:
            self._note(Connected, client=reader.name, replica="replica-1")
            self._note(Continues, **self._at_of(reader), recovered=False)
        for _ in range(steps):
            self._step()
        for sender, call in self._calls.items():
            while self._calls[sender] is not None and call is not None:
                self._go_on(sender, call, may_fail=False)
        for reader in self._readers:
            while reader.offset < len(self._log):
                self._deliver(reader)
        for offset, (sender, number) in enumerate(self._log, start=1):
            self._note(Kept, channel=CHANNEL, epoch=self._name, offset=offset, sender=sender, number=number)
        self._note(Top, channel=CHANNEL, epoch=self._name, offset=len(self._log))
        return self.events

    @property
    def _name(self) -> str:
        return f"e{self._epoch}"

    def _step(self) -> None:
        chance = self.dice.random()
        if chance < 0.45:
            sender = self.dice.choice(list(self._calls))
            call = self._calls[sender]
            self._begin(sender) if call is None else self._go_on(sender, call, may_fail=True)
        elif chance < 0.9:
            reader = self.dice.choice(self._readers)
            if reader.offset < len(self._log):
                self._deliver(reader)
        elif chance < 0.96:
            self._come_back(self.dice.choice(self._readers))
        else:
            self._fail_over()

    def _begin(self, sender: str) -> None:
        count = self._counts[sender] = self._counts.get(sender, 0) + 1
        self._calls[sender] = _Call((sender, count))
        self._note(Publish, sender=sender, number=count, channel=CHANNEL, repeats=sender == "repeater")

    def _go_on(self, sender: str, call: _Call, *, may_fail: bool) -> None:
        who = {"sender": sender, "number": call.number[1], "channel": CHANNEL}
        if not call.is_appended and call.number not in self._log:
            self._log.append(call.number)
            call.is_appended = True
        elif may_fail and self.dice.random() < 0.2:
            self._note(Failed, **who, code="unavailable")
            if sender == "repeater":
                call.is_appended = False
                self._note(Publish, **who, repeats=True)
            else:
                self._calls[sender] = None
        elif call.number in self._log:  # else a failover has taken it back, and the answer is lost
            place = {"epoch": self._name, "offset": self._log.index(call.number) + 1}
            self._note(Acknowledged, **who, **(place if self.dice.random() < 0.7 else {}))
            self._acknowledged.add(call.number)
            self._calls[sender] = None
        elif may_fail or sender != "repeater":
            self._note(Failed, **who, code="unavailable")
            self._calls[sender] = None
        else:
            call.is_appended = False

    def _deliver(self, reader: _Reader) -> None:
        sender, number = self._log[reader.offset]
        reader.offset += 1
        self._note(Received, **self._at_of(reader), sender=sender, number=number)

    def _come_back(self, reader: _Reader) -> None:
        self._note(Closed, client=reader.name, replica="replica-1", how="1006", excuse="replica-1 was killed")
        self._note(Connected, client=reader.name, replica="replica-2")
        self._note(Continues, **self._at_of(reader), recovered=True)

    def _fail_over(self) -> None:
        """The last publications are taken back: the promoted server never had them."""
        self._note(Fault, what="masters killed")
        most = self.dice.randrange(4)
        while most and self._log and (self.may_lose or self._log[-1] not in self._acknowledged):
            self._log.pop()
            most -= 1
        self._epoch += 1
        for reader in self._readers:
            reader.epoch, reader.offset = self._name, min(reader.offset, len(self._log))
            self._note(Continues, **self._at_of(reader), recovered=not self.may_lose)

    def _at_of(self, reader: _Reader) -> dict[str, Any]:
        return {"reader": reader.name, "channel": CHANNEL, "epoch": reader.epoch, "offset": reader.offset}

    def _note(self, kind: type[Any], **facts: Any) -> None:
        self._at += TICK_S
        self.events.append(kind(at=self._at, **facts))
