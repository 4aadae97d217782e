"""Ask every replica the same, and gather what they answer.

For operators: it costs a message to each replica and back, so nothing on the way of a message may ask.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import msgspec

from heliograph.callbacks import await_callback
from heliograph.cluster.stamp import Stamp
from heliograph.errors import BusUnavailable
from heliograph.ports import OnPosted, ReplicaInfo
from heliograph.protocol.command import Answer, Question
from heliograph.protocol.envelope import Envelope
from heliograph.tasks import end

logger = logging.getLogger(__name__)

TIMEOUT_S: Final = 3.0  # until the other replicas must have answered
NOTHING: Final = msgspec.Raw(b"null")
UNANSWERED: Final = "a question of a replica about %r was not answered, because of an unexpected error"

Post = Callable[[str, Envelope, OnPosted], object]  # see `Bus.post`
Replicas = Callable[[], Awaitable[list[ReplicaInfo]]]  # see `DirectoryBackend.replicas`
Answerer = Callable[[msgspec.Raw], msgspec.Raw]  # takes the body of a question, returns that of the answer
# The same, where it takes so long that it must let other work run.
SlowAnswerer = Callable[[msgspec.Raw], Awaitable[msgspec.Raw]]
MOST_ANSWERING: Final = 16  # slow answers at the same time; further questions get none
FAILED: Final = "it could not answer because of an unexpected error, which is in its log"

NONE: Final[Mapping[str, SlowAnswerer]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ReplicaAnswer:
    """What a replica has answered. `body`: None if it has not, and then `why` says why."""

    replica: str
    node_id: str
    body: msgspec.Raw | None
    why: str = ""


class Questions:
    """Ask the other replicas, and answer them. A topic is answered by the function that was given for it."""

    def __init__(
        self,
        post: Post,
        stamp: Stamp,
        replicas: Replicas,
        answerers: dict[str, Answerer],
        *,
        slow_answerers: Mapping[str, SlowAnswerer] = NONE,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._post = post
        self._stamp = stamp
        self._replicas = replicas
        self._answerers = answerers
        self._slow_answerers = slow_answerers
        self._answering: set[asyncio.Task[None]] = set()
        self._timeout_s = timeout_s
        self._asked: dict[str, Callable[[Answer], None]] = {}  # by message id of the envelope

    def start(self) -> None:
        """Do nothing: there is nothing to answer yet."""

    async def stop(self) -> None:
        """Stop answering. Replicas that have asked wait until their time is up."""
        await end(list(self._answering))

    async def ask_all(self, topic: str, body: msgspec.Raw, *, only: str = "") -> list[ReplicaAnswer]:
        """Ask every replica whose lease is alive, this one too. Return their answers, by the replicas' names.

        `only`: ask those with this name; empty: all.

        A replica that does not answer in time is in it, with the reason.

        Raises:
            BusUnavailable: which replicas there are cannot be read.
        """
        others = [each for each in await self._replicas() if each.node_id != self._stamp.node_id]
        asked = [self._ask(each.name, each.node_id, topic, body) for each in others if only in ("", each.name)]
        if only in ("", self._stamp.name):
            asked.append(self._ask_itself(topic, body))
        return sorted(await asyncio.gather(*asked), key=lambda answer: answer.replica)

    def receive(self, envelope: Envelope) -> None:
        """Handle the question of another replica, or its answer."""
        match envelope.command:
            case Question(topic, body):
                if topic not in self._slow_answerers:
                    self._tell(envelope, *self._answer(topic, body))
                elif len(self._answering) >= MOST_ANSWERING:
                    self._tell(
                        envelope, NOTHING, f"it is answering {MOST_ANSWERING} questions already; ask again later"
                    )
                else:
                    task = asyncio.create_task(self._answer_later(envelope, topic, body), name=f"answer-{topic}")
                    self._answering.add(task)
                    task.add_done_callback(self._answering.discard)
            case Answer(to) as answer:
                if (done := self._asked.pop(to, None)) is not None:
                    done(answer)

    async def _answer_later(self, envelope: Envelope, topic: str, body: msgspec.Raw) -> None:
        self._tell(envelope, *await self._answer_slowly(topic, body))

    def _tell(self, asked: Envelope, body: msgspec.Raw, why: str) -> None:
        if asked.node_id is not None and asked.message_id is not None:
            self._post(asked.node_id, self._envelope(Answer(asked.message_id, body, why)), _not_asked_again)

    async def _answer_slowly(self, topic: str, body: msgspec.Raw) -> tuple[msgspec.Raw, str]:
        """Return the body of an answer, and why there is none."""
        try:
            return await self._slow_answerers[topic](body), ""
        except Exception:
            logger.exception(UNANSWERED, topic)
            return NOTHING, FAILED

    def _answer(self, topic: str, body: msgspec.Raw) -> tuple[msgspec.Raw, str]:
        """Return the body of an answer, and why there is none."""
        answerer = self._answerers.get(topic)
        if answerer is None:
            return NOTHING, ""
        try:
            return answerer(body), ""
        except Exception:
            logger.exception(UNANSWERED, topic)
            return NOTHING, FAILED

    async def _ask_itself(self, topic: str, body: msgspec.Raw) -> ReplicaAnswer:
        is_slow = topic in self._slow_answerers
        answer, why = await self._answer_slowly(topic, body) if is_slow else self._answer(topic, body)
        return self._read(self._stamp.name, self._stamp.node_id, topic, answer, why)

    async def _ask(self, name: str, node_id: str, topic: str, body: msgspec.Raw) -> ReplicaAnswer:
        envelope = self._envelope(Question(topic, body))
        message_id = envelope.message_id or ""

        def ask(done: Callable[[Answer | Exception], None]) -> None:
            def posted(receivers: int | BusUnavailable) -> None:
                if isinstance(receivers, BusUnavailable):
                    done(receivers)
                elif receivers == 0:
                    done(BusUnavailable("it does not listen"))

            self._asked[message_id] = done
            self._post(node_id, envelope, posted)

        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await await_callback(ask)
        except TimeoutError:
            return ReplicaAnswer(name, node_id, None, f"it did not answer within {self._timeout_s:g} s")
        except BusUnavailable as error:
            return ReplicaAnswer(name, node_id, None, f"it could not be asked: {error}")
        finally:
            self._asked.pop(message_id, None)
        return self._read(name, node_id, topic, answer.body, answer.why)

    @staticmethod
    def _read(name: str, node_id: str, topic: str, body: msgspec.Raw, why: str) -> ReplicaAnswer:
        if body != NOTHING:
            return ReplicaAnswer(name, node_id, body)
        unknown = f"it answers nothing about {topic!r}: that is off there, or it is of an earlier version"
        return ReplicaAnswer(name, node_id, None, why or unknown)

    def _envelope(self, command: Question | Answer) -> Envelope:
        return Envelope(
            message=NOTHING,
            channel="",
            message_id=self._stamp.next_id(),
            node_id=self._stamp.node_id,
            command=command,
        )


def _not_asked_again(_: int | BusUnavailable) -> None:
    """Do nothing: who has asked stops waiting by itself if this answer does not arrive."""
