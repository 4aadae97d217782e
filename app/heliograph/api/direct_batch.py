"""`POST /api/batch` of publications in their usual form: read in one step, and carried out without a task."""

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from heliograph.api import models
from heliograph.api.direct_method import DirectMethod
from heliograph.api.errors import ApiError, NotNow
from heliograph.api.methods import Methods, Outage
from heliograph.errors import HeliographError
from heliograph.protocol.publication import check_data

_encode = msgspec.json.Encoder().encode


class _Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    publish: models.UsualPublishParams


class _Params(msgspec.Struct, frozen=True):
    """Unknown fields are ignored, as the application does."""

    commands: list[_Command]
    parallel: bool = False


_PARAMS: Final = msgspec.json.Decoder(_Params)


class DirectBatch(DirectMethod):
    """The `DirectEndpoint`. A batch with any other command is the application's."""

    def begin(self, body: bytes, answer: Callable[[bytes], object]) -> bool:
        try:
            params = _PARAMS.decode(body)
            for command in params.commands:
                check_data(command.publish.data, self._methods.max_depth)
        except (msgspec.MsgspecError, HeliographError, RecursionError, UnicodeDecodeError):
            return False
        if not 0 < len(params.commands) <= self._methods.most_commands:
            return False
        batch = _Batch(self._methods, [command.publish for command in params.commands], answer)
        if params.parallel:
            batch.publish_all()
        else:
            batch.publish_next()
        return True


class _Batch:
    """The publications of one batch, and a reply for each.

    Nothing more is tried once Redis cannot be reached.
    """

    __slots__ = (
        "_answer",
        "_begun",
        "_is_publishing",
        "_methods",
        "_missing",
        "_outage",
        "_publications",
        "_replies",
    )

    def __init__(
        self,
        methods: Methods,
        publications: list[models.UsualPublishParams],
        answer: Callable[[bytes], object],
    ) -> None:
        self._methods = methods
        self._publications = publications
        self._answer = answer
        self._replies: list[dict[str, object]] = [{}] * len(publications)
        self._missing = len(publications)
        self._begun = 0
        self._is_publishing = False
        self._outage = Outage()

    def publish_all(self) -> None:
        """Publish all at once: in order as long as all succeed."""
        while self._begun < len(self._publications):
            self._begin()

    def publish_next(self) -> None:
        """Publish one after the other, each when the one before has its reply, which may come at once."""
        if self._is_publishing:
            return  # the loop below goes on
        self._is_publishing = True
        while self._begun < len(self._publications) and self._begun + self._missing == len(self._publications):
            self._begin(then=self.publish_next)
        self._is_publishing = False

    def _begin(self, then: Callable[[], None] | None = None) -> None:
        number, self._begun = self._begun, self._begun + 1
        respond = partial(self._respond, number, then)
        try:
            self._outage.check()
        except NotNow as error:
            respond(error)
            return
        each = self._publications[number]
        self._methods.publish(each.channel, each.data, each.idempotency_key, respond)

    def _respond(
        self, number: int, then: Callable[[], None] | None, outcome: models.PositionResult | ApiError
    ) -> None:
        if isinstance(outcome, NotNow):
            self._outage.reason = self._outage.reason or str(outcome)
        if isinstance(outcome, ApiError):
            self._replies[number] = {"error": outcome.body}
        else:
            self._replies[number] = {"publish": outcome}
        self._missing -= 1
        if not self._missing:
            self._answer(_encode(models.BatchResult(self._replies)))
        elif then is not None:
            then()
