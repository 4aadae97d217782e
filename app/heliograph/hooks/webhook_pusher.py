"""Push lifecycle events to the user's backend, in order, until it has taken them.

All replicas run this, and one of them at a time pushes. Another one takes over when that stops or dies, and begins
with what was not acknowledged. So every event is delivered at least once, and a repetition has the same id.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from itertools import takewhile
from typing import Final

from heliograph.clock import Clock
from heliograph.errors import BusUnavailable
from heliograph.hooks.webhook_endpoint import NotTaken, WebhookEndpoint
from heliograph.ports import PUSHER_TTL_S, LifecycleFeed
from heliograph.protocol.lifecycle import LifecycleEvent
from heliograph.settings import WebhookSettings
from heliograph.tasks import end
from heliograph.telemetry import WebhookStats

logger = logging.getLogger(__name__)

IDLE_S: Final = 0.25  # until the next look for events, when there were none
STANDBY_S: Final = 1.0  # until the next try to become the pusher
RETRY_FIRST_S: Final = 0.5
RETRY_MOST_S: Final = 60.0
LEAST_ATTEMPTS: Final = 5  # before an event goes to the dead letters, however old it is
LOG_EVERY_S: Final = 30.0


class WebhookPusher:
    """Push the events of one feed."""

    def __init__(
        self,
        feed: LifecycleFeed,
        endpoint: WebhookEndpoint,
        settings: WebhookSettings,
        stats: WebhookStats,
        clock: Clock,
        *,
        retry_first_s: float = RETRY_FIRST_S,
    ) -> None:
        self._feed = feed
        self._endpoint = endpoint
        self._batch = settings.batch
        self._retry_for_s = settings.retry_for_s
        self._retry_first_s = retry_first_s
        self._stats = stats
        self._clock = clock
        self._owned = False
        self._term = 0  # counts the times that this replica has become the pusher
        self._logged_at = -LOG_EVERY_S
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._own_loop(), name="webhook-owner"),
                asyncio.create_task(self._push_loop(), name="webhook-pusher"),
            ]

    async def stop(self) -> None:
        """Stop, and let another replica go on at once. What was not acknowledged comes again there."""
        if not self._tasks:
            return
        tasks, self._tasks = self._tasks, []
        await end(tasks)
        await self._endpoint.close()
        self._owned = False
        try:
            await self._feed.disown()
        except BusUnavailable as error:
            logger.info("webhooks not handed over; another replica takes over in %.0f s: %s", PUSHER_TTL_S, error)

    async def _own_loop(self) -> None:
        """Become the pusher, or stay it."""
        while True:
            try:
                owned = await self._feed.own()
            except BusUnavailable as error:
                owned = False
                logger.debug("not the pusher of webhooks for now: %s", error)
            except Exception:
                owned = False
                logger.exception("becoming the pusher of webhooks failed with an unexpected error; retrying")
            if owned and not self._owned:
                self._term += 1
                logger.info("this replica pushes lifecycle events to %s", self._endpoint.shown)
            self._owned = owned
            await asyncio.sleep(STANDBY_S)

    async def _push_loop(self) -> None:
        while True:
            events: Sequence[LifecycleEvent] = ()
            try:
                if self._owned:
                    term = self._term
                    events = await self._feed.next(self._batch)
                    if events:
                        await self._push(events, term)
                    else:
                        self._stats.waiting_s[self] = 0.0
                else:
                    self._stats.waiting_s[self] = 0.0
            except BusUnavailable as error:
                events = ()
                logger.debug("lifecycle events not read or acknowledged, retrying: %s", error)
            except Exception:
                events = ()
                logger.exception("pushing lifecycle events failed with an unexpected error; retrying")
            if not events:
                await asyncio.sleep(IDLE_S)

    async def _push(self, events: Sequence[LifecycleEvent], term: int) -> None:
        """Post the events until they are taken, or are too old, or another replica has taken over since `term`."""
        attempts = 0
        while events and self._owns(term):
            problem = await self._post(events)
            if problem is None:
                return
            attempts += 1
            if problem.too_large and len(events) > 1:
                await self._push(events[: len(events) // 2], term)
                events, attempts = events[len(events) // 2 :], 0
                continue
            if attempts >= LEAST_ATTEMPTS and (late := list(takewhile(self._is_late, events))):
                await self._give_up(late, term)
                events = events[len(late) :]
                continue
            await asyncio.sleep(self._delay_s(attempts))

    async def _give_up(self, events: Sequence[LifecycleEvent], term: int) -> None:
        """Move those events to the dead letters that are not taken alone either: one may have held up the others."""
        before, reason = self._stats.dead, ""
        for event in events:
            if not self._owns(term):
                break
            if (problem := await self._post([event])) is not None:
                reason = problem.reason
                await self._feed.bury(event, reason)
                self._stats.dead += 1
        if reason:
            text = "%d lifecycle events moved to the dead letters (`heliograph webhooks dead`), the last because: %s"
            logger.error(text, self._stats.dead - before, reason)

    async def _post(self, events: Sequence[LifecycleEvent]) -> NotTaken | None:
        """Post the events once. Acknowledge and count them, or count the failure."""
        began = self._clock.monotonic()
        problem = await self._endpoint.post(events)
        if problem is None:
            self._stats.time.observe(self._clock.monotonic() - began)
            await self._taken(events)
        else:
            self._failed(problem, events)
        return problem

    async def _taken(self, events: Sequence[LifecycleEvent]) -> None:
        if self._stats.waiting_s.get(self):
            logger.info("the receiver of webhooks takes events again")
            self._logged_at = -LOG_EVERY_S
        self._stats.waiting_s[self] = 0.0
        self._stats.delivered += len(events)
        await self._feed.acknowledge(events)

    def _failed(self, problem: NotTaken, events: Sequence[LifecycleEvent]) -> None:
        self._stats.failed += 1
        waiting_s = self._stats.waiting_s[self] = self._age_s(events[0])
        now = self._clock.monotonic()
        if now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            text = "the receiver of webhooks at %s has not taken %d events, the oldest %.0f s old; retrying: %s"
            logger.warning(text, self._endpoint.shown, len(events), waiting_s, problem.reason)

    def _owns(self, term: int) -> bool:
        """Return whether this replica has been the pusher since then: no other one has passed its events on."""
        return self._owned and self._term == term

    def _is_late(self, event: LifecycleEvent) -> bool:
        return self._age_s(event) > self._retry_for_s

    def _age_s(self, event: LifecycleEvent) -> float:
        written_ms, _, _ = event.id.partition("-")
        return max(0.001, self._clock.now() - int(written_ms) / 1000)

    def _delay_s(self, attempts: int) -> float:
        """Return the seconds until the next attempt: growing, and never the same for several clusters."""
        most = min(RETRY_MOST_S, self._retry_first_s * 2 ** min(attempts, 20))
        return random.uniform(most / 2, most)  # noqa: S311 - not a secret
