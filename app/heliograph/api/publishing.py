"""Publications of the server API: read, checked and carried out without a task."""

import logging
from functools import partial
from typing import Final

import msgspec

from heliograph.api import models
from heliograph.api.broadcast import OnPosition
from heliograph.api.errors import INTERNAL, UNEXPECTED, ApiError, NotNow, api_error
from heliograph.cluster.connection_manager import ConnectionManager
from heliograph.cluster.publish_result import PublishResult
from heliograph.errors import HeliographError
from heliograph.protocol.publication import check_data
from heliograph.telemetry import Traffic

logger = logging.getLogger(__name__)

_USUAL: Final = msgspec.json.Decoder(models.UsualPublishParams)


class Outage:
    """Once Redis cannot be reached, the rest of a batch is not tried: each command would wait in vain.

    In a sequential batch, nothing is published after a publication that failed (see also `DirectBatch`).
    """

    def __init__(self) -> None:
        self._reason: str | None = None

    def begin(self, error: NotNow) -> None:
        """Note why a command failed; the first reason counts."""
        self._reason = self._reason or str(error)

    def check(self) -> None:
        """Refuse a command.

        Raises:
            NotNow: one before it has failed.
        """
        if self._reason is not None:
            raise NotNow(f"not tried, as one before it failed: {self._reason}")


class Publishing:
    """Publish for programs. `max_depth`: of data; `most_commands`: of a batch, and channels of a broadcast."""

    def __init__(self, manager: ConnectionManager, traffic: Traffic, *, max_depth: int, most_commands: int) -> None:
        self._manager = manager
        self._traffic = traffic
        self.max_depth = max_depth
        self.most_commands = most_commands

    def read_usual(self, body: bytes | msgspec.Raw) -> models.UsualPublishParams | None:
        """Return the parameters of a publish in the usual form, checked; None if `Methods` has to read them."""
        try:
            params = _USUAL.decode(body)
            check_data(params.data, self.max_depth)
        except (msgspec.MsgspecError, HeliographError, RecursionError, UnicodeDecodeError):
            return None
        return params

    def publish(
        self,
        channel: str,
        data: msgspec.Raw,
        idempotency_key: str | None,
        done: OnPosition,
        *,
        ephemeral: bool = False,
        tags: dict[str, str] | None = None,
    ) -> None:
        """Publish, and have `done` called with the position or the error, once, now or later. Raises nothing."""
        self._traffic.messages_in += 1
        try:
            self._manager.submit(
                channel,
                data,
                partial(_answer, done),
                idempotency_key=idempotency_key or None,
                ephemeral=ephemeral,
                tags=tags,
            )
        except HeliographError as error:
            done(api_error(error))
        except Exception:
            logger.exception(UNEXPECTED)
            done(ApiError(INTERNAL, "internal error"))


def _answer(done: OnPosition, result: PublishResult | HeliographError) -> None:
    if isinstance(result, HeliographError):
        done(api_error(result))
    elif result.position is None:
        done(models.PositionResult())
    else:
        done(models.PositionResult(result.position.offset, result.position.epoch))
