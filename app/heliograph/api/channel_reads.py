"""The methods of the server API that read channels: who is on them, and what is kept of them."""

from collections import deque
from typing import Final

import msgspec

from heliograph.api import models
from heliograph.api.errors import NOT_AVAILABLE, UNRECOVERABLE, ApiError
from heliograph.cluster.reading import Reading
from heliograph.protocol.client_info import ClientInfo
from heliograph.protocol.namespace import Namespaces
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication

MOST_PUBLICATIONS: Final = 1000  # in one answer
# Data of publications in one answer, or one publication; the rest needs another request.
ANSWER_BYTES: Final = 1_048_576


class ChannelReads:
    """Read channels, over all replicas. Each method raises ApiError, or another HeliographError."""

    def __init__(self, reading: Reading, namespaces: Namespaces) -> None:
        self._reading = reading
        self._namespaces = namespaces

    async def presence(self, params: models.PresenceParams) -> models.PresenceResult:
        self._check_presence(params.channel)
        clients = (await self._reading.clients(params.channel)).clients
        return models.PresenceResult({name: _shown(client) for name, client in clients.items()})

    async def presence_stats(self, params: models.PresenceStatsParams) -> models.PresenceStatsResult:
        self._check_presence(params.channel)
        roster = await self._reading.presence(params.channel)
        return models.PresenceStatsResult(num_clients=roster.connections, num_users=len(roster.users))

    async def history(self, params: models.HistoryParams) -> models.HistoryResult:
        self.check_kept(params.channel)
        limit = MOST_PUBLICATIONS if params.limit < 0 else params.limit
        since = None if params.since is None else Position(params.since.epoch, params.since.offset)
        if params.reverse or not limit:
            top = (await self._reading.history(params.channel, None, 1)).position
            if since is not None and (since.epoch != top.epoch or since.offset > top.offset):
                raise _unrecoverable(params.channel)
            found = await self._before(params.channel, top, since, limit) if limit else []
        else:
            top, found = await self._after(params.channel, since, limit)
        shown = [_listed(each, with_ids=params.with_ids) for each in found]
        return models.HistoryResult(shown, top.offset, top.epoch)

    def check_kept(self, channel: str) -> None:
        """Raise ApiError if the channel's namespace keeps nothing."""
        if self._namespaces.of(self._namespaces.check(channel)).ephemeral:
            raise ApiError(NOT_AVAILABLE, f"nothing is kept of {channel!r}: its namespace is ephemeral")

    def _check_presence(self, channel: str) -> None:
        if not self._namespaces.of(self._namespaces.check(channel)).presence:
            raise ApiError(NOT_AVAILABLE, f"who is on {channel!r} is not kept: its namespace has no presence")

    async def _before(self, channel: str, top: Position, since: Position | None, limit: int) -> list[Publication]:
        """Return the last publications (before `since`), newest first."""
        last = top.offset if since is None else since.offset - 1
        found, complete = await self._up_to(channel, Position(top.epoch, max(0, last - limit)), last, limit)
        if not complete:  # there are gaps, or the publications are gone: look further back
            found, _ = await self._up_to(channel, None, last, limit)
        return found[::-1]

    async def _up_to(
        self, channel: str, after: Position | None, last: int, limit: int
    ) -> tuple[list[Publication], bool]:
        """Return the last kept publications after `after` (or from the start) up to the offset `last`.

        At most `limit`, and at most ANSWER_BYTES. The second value is False if some in between are missing.
        """
        found: deque[Publication] = deque()
        size, complete = 0, True
        while True:
            page = await self._reading.history(channel, after, MOST_PUBLICATIONS)
            complete = complete and page.complete
            for each in page.publications:
                if each.position is None or each.position.offset > last:
                    return list(found), complete
                after = each.position
                found.append(each)
                size += len(each.data)
                while len(found) > limit or (size > ANSWER_BYTES and len(found) > 1):
                    size -= len(found.popleft().data)
            if not page.publications or after is None or after.offset >= page.position.offset:
                return list(found), complete

    async def _after(self, channel: str, since: Position | None, limit: int) -> tuple[Position, list[Publication]]:
        """Return the channel's position, and the first publications after `since`, at most ANSWER_BYTES.

        Raises:
            ApiError: some in between are missing.
        """
        found: list[Publication] = []
        size = 0
        while True:
            page = await self._reading.history(channel, since, limit - len(found))
            if not page.complete:
                if found:  # trimmed meanwhile: a request for what follows gets the error
                    return page.position, found
                raise _unrecoverable(channel)
            for each in page.publications:
                size += len(each.data)
                if found and size > ANSWER_BYTES:
                    return page.position, found
                found.append(each)
            since = found[-1].position if found else None
            if since is None or len(found) >= limit or since.offset >= page.position.offset:
                return page.position, found


def _shown(client: ClientInfo) -> models.ClientInfo:
    return models.ClientInfo(client.client, client.user, client.conn_info or None, client.chan_info or None)


def _listed(publication: Publication, *, with_ids: bool) -> models.PublicationInfo:
    sender, author = publication.sender, publication.author
    listed = models.PublicationInfo(
        offset=publication.position.offset if publication.position is not None else 0,
        data=publication.data,
        info=None if sender is None else models.ClientInfo(author.client if author else sender, sender),
        tags=publication.tags,
    )
    if not with_ids:
        return listed
    return msgspec.structs.replace(
        listed,
        message_id=publication.message_id,
        sent_at=publication.sent_at,
        origin=publication.origin or "",
    )


def _unrecoverable(channel: str) -> ApiError:
    return ApiError(UNRECOVERABLE, f"what followed that position on {channel!r} is not kept any more")
