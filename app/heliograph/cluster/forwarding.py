"""Bring what a client sends in requests of their own to the replica that holds its session.

A client whose stream is on one replica may reach any other with its requests. That one forwards the frames to the
inbox of the replica with the session, and answers once they were taken there. So the frames of a client that waits
for each answer keep their order, whichever replicas it reaches.
"""

import asyncio
import re
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

import msgspec

from heliograph.callbacks import await_callback
from heliograph.cluster.stamp import Stamp
from heliograph.errors import BusUnavailable
from heliograph.protocol.command import Forward, Forwarded
from heliograph.protocol.envelope import Envelope

TIMEOUT_S: Final = 5.0  # until the other replica must have answered
_NODE_ID: Final = re.compile("[0-9a-f]{16}")

OnTaken = Callable[[bool], object]
Post = Callable[[str, Envelope, Callable[[int | BusUnavailable], object]], object]  # see `Bus.post`


class Taker(Protocol):
    """The end of a session that takes its client's frames."""

    def take(self, frames: bytes, taken: OnTaken) -> None:
        """Take frames, after all earlier ones; then call `taken`: now, or when the client may send more.

        It gets False if the session has ended.
        """
        ...


class Forwarding:
    """The sessions of this replica whose frames come in requests, and the way to those of other replicas.

    Session ids are secrets of their clients: who knows one may send for the client.
    """

    def __init__(self, post: Post, stamp: Stamp) -> None:
        self._post = post
        self._stamp = stamp
        self._takers: dict[str, Taker] = {}  # by session id
        self._asked: dict[str, Callable[[bool], object]] = {}  # by message id of the envelope

    @property
    def node_id(self) -> str:
        return self._stamp.node_id

    def enter(self, session: str, taker: Taker) -> None:
        """Let the session's frames come to `taker`."""
        self._takers[session] = taker

    def leave(self, session: str) -> None:
        """Forget the session. May be called more than once."""
        self._takers.pop(session, None)

    async def forward(self, node_id: str, session: str, frames: bytes) -> bool:
        """Bring frames to the session on the replica `node_id`. Return whether they were taken.

        False: there is no such replica, or it has no such session.

        Raises:
            BusUnavailable: it cannot be reached, or has not answered in time. Then the frames may have been taken.
        """
        if node_id == self.node_id:
            return await await_callback(lambda done: self._take(session, frames, done))
        if _NODE_ID.fullmatch(node_id) is None:  # a client says so, and it becomes a part of a name in Redis
            return False
        return await await_callback(lambda done: self._ask(node_id, session, frames, done))

    def receive(self, envelope: Envelope) -> None:
        """Handle what another replica forwards, or its answer."""
        match envelope.command:
            case Forward(session, frames):
                self._take(session, frames, partial(self._answer, envelope))
            case Forwarded(to, is_taken):
                if (done := self._asked.pop(to, None)) is not None:
                    done(is_taken)

    def _take(self, session: str, frames: bytes, taken: OnTaken) -> None:
        taker = self._takers.get(session)
        if taker is None:
            taken(False)
        else:
            taker.take(frames, taken)

    def _ask(self, node_id: str, session: str, frames: bytes, done: Callable[[bool | Exception], None]) -> None:
        envelope = self._envelope(Forward(session, frames))
        message_id = envelope.message_id or ""
        timer = asyncio.get_running_loop().call_later(TIMEOUT_S, self._give_up, node_id, message_id, done)

        def answered(answer: bool | Exception) -> None:
            timer.cancel()
            done(answer)  # only the first counts

        def posted(receivers: int | BusUnavailable) -> None:
            if receivers == 0 or isinstance(receivers, BusUnavailable):
                self._asked.pop(message_id, None)
                answered(receivers if isinstance(receivers, BusUnavailable) else False)

        self._asked[message_id] = answered
        self._post(node_id, envelope, posted)

    def _give_up(self, node_id: str, message_id: str, done: Callable[[bool | Exception], None]) -> None:
        if self._asked.pop(message_id, None) is not None:
            done(BusUnavailable(f"the replica {node_id} has not answered within {TIMEOUT_S:g} s"))

    def _answer(self, envelope: Envelope, is_taken: bool) -> None:
        if envelope.node_id is not None and envelope.message_id is not None:
            answer = self._envelope(Forwarded(envelope.message_id, is_taken))
            self._post(envelope.node_id, answer, _not_asked_again)

    def _envelope(self, command: Forward | Forwarded) -> Envelope:
        return Envelope(
            message=msgspec.Raw(b"null"),
            channel="",
            message_id=self._stamp.next_id(),
            node_id=self._stamp.node_id,
            command=command,
        )


def _not_asked_again(_: int | BusUnavailable) -> None:
    """Do nothing: the caller stops waiting by itself if this answer does not arrive."""
