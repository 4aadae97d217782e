"""`POST /api/batch` of publications in their usual form: read in one step, and carried out without a task."""

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from heliograph.api import models
from heliograph.api.direct_method import DirectMethod
from heliograph.api.errors import ApiError, NotNow
from heliograph.api.publishing import Outage, Publishing
from heliograph.errors import HeliographError
from heliograph.protocol.publication import check_data

_encode = msgspec.json.Encoder().encode
_PARAMS: Final = msgspec.json.Decoder(models.UsualBatchParams)

IN_A_ROW: Final = 64  # publications of a sequential batch that Redis gets at once


class DirectBatch(DirectMethod):
    """The `DirectEndpoint`. A batch with any other command is the application's."""

    def begin(self, body: bytes, answer: Callable[[bytes], object]) -> bool:
        try:
            params = _PARAMS.decode(body)
            for command in params.commands:
                check_data(command.publish.data, self._publishing.max_depth)
        except (msgspec.MsgspecError, HeliographError, RecursionError, UnicodeDecodeError):
            return False
        if not 0 < len(params.commands) <= self._publishing.most_commands:
            return False
        in_a_row = len(params.commands) if params.parallel else IN_A_ROW
        _Batch(self._publishing, [command.publish for command in params.commands], in_a_row, answer).go_on()
        return True


class _Batch:
    """The publications of one batch, and a reply for each.

    Redis gets `in_a_row` of them at once, in order, and the next ones when each of these has its reply. Nothing more
    is tried once Redis cannot be reached.
    """

    __slots__ = (
        "_answer",
        "_begun",
        "_in_a_row",
        "_is_beginning",
        "_missing",
        "_outage",
        "_publications",
        "_publishing",
        "_replies",
    )

    def __init__(
        self,
        publishing: Publishing,
        publications: list[models.UsualPublishParams],
        in_a_row: int,
        answer: Callable[[bytes], object],
    ) -> None:
        self._publishing = publishing
        self._publications = publications
        self._in_a_row = in_a_row
        self._answer = answer
        self._replies: list[dict[str, object]] = [{}] * len(publications)
        self._missing = len(publications)
        self._begun = 0
        self._is_beginning = False
        self._outage = Outage()

    def go_on(self) -> None:
        """Publish the next ones in a row, unless some are under way. A reply may come before this returns."""
        if self._is_beginning:
            return  # the loop below goes on
        self._is_beginning = True
        while self._begun < len(self._publications) and self._begun + self._missing == len(self._publications):
            for _ in range(min(self._in_a_row, len(self._publications) - self._begun)):
                self._begin()
        self._is_beginning = False

    def _begin(self) -> None:
        number, self._begun = self._begun, self._begun + 1
        respond = partial(self._respond, number)
        try:
            self._outage.check()
        except NotNow as error:
            respond(error)
            return
        each = self._publications[number]
        self._publishing.publish(each.channel, each.data, each.idempotency_key, respond)

    def _respond(self, number: int, outcome: models.PositionResult | ApiError) -> None:
        if isinstance(outcome, NotNow):
            self._outage.begin(outcome)
        if isinstance(outcome, ApiError):
            self._replies[number] = {"error": outcome.body}
        else:
            self._replies[number] = {"publish": outcome}
        self._missing -= 1
        if not self._missing:
            self._answer(_encode(models.BatchResult(self._replies)))
        elif self._begun + self._missing == len(self._publications):
            self.go_on()
