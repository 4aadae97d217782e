"""The methods of the server API with which operators look around: connections, blocked users, what is kept."""

import asyncio
import base64
import binascii
import heapq
from collections.abc import Iterator
from itertools import islice
from typing import Final, TypeVar

import msgspec

from heliograph.api import models, operator_models
from heliograph.api.errors import BAD_REQUEST, ApiError
from heliograph.cluster.blocked_users import BlockedUsers
from heliograph.cluster.channel_counts import ChannelList
from heliograph.cluster.connections import Connections
from heliograph.cluster.kept import Kept, KeptChannel
from heliograph.errors import BadCursor
from heliograph.protocol.connection_query import ConnectionQuery, Place

STEP: Final = 2000  # channels that are put in order in a row
SHOWN_BYTES: Final = 2048  # of the data of a latest publication
_T = TypeVar("_T")


class OperatorReads:
    """Look around, over all replicas. Each method raises ApiError, or another HeliographError."""

    def __init__(self, connections: Connections, blocked: BlockedUsers, channels: ChannelList, kept: Kept) -> None:
        self._connections = connections
        self._blocked = blocked
        self._channels = channels
        self._kept = kept

    async def connections(self, params: operator_models.ConnectionsParams) -> operator_models.ConnectionsResult:
        after: Place | None = None
        if params.cursor:
            after = _read_place(params.cursor, tuple[str, Place], params.sort)
            if isinstance(after[0], str) != (params.sort == "user"):
                raise _bad_cursor(params.cursor)
        query = ConnectionQuery(
            user=params.user,
            search=params.search,
            client=params.client,
            channel=params.channel,
            transport=params.transport,
            sort=params.sort,
            after=after,
            limit=params.limit,
            with_channels=params.with_channels,
        )
        found = await self._connections.find(query, params.replica)
        if params.replica and not found.replicas:
            raise ApiError(BAD_REQUEST, f"there is no replica {params.replica!r} at the moment; `info` lists them")
        return operator_models.ConnectionsResult(
            found.connections,
            sum(each.matched for each in found.replicas),
            [
                operator_models.ReplicaMatches(each.name, each.node_id, each.matched, each.error)
                for each in found.replicas
            ],
            "" if found.next is None else _cursor((params.sort, found.next)),
            found.error,
            found.unnamed,
        )

    async def blocked(self, params: operator_models.BlockedParams) -> operator_models.BlockedResult:
        after, search = _read(params.cursor, str) if params.cursor else "", params.search.casefold()
        listed = self._blocked.listed()
        meant = [user for user in listed if search in user.casefold()]
        rest = [user for user in meant if user > after]
        page = heapq.nsmallest(params.limit, rest)
        return operator_models.BlockedResult(
            [operator_models.BlockedUser(user, round(listed[user])) for user in page],
            len(meant),
            _cursor(page[-1]) if len(rest) > len(page) else "",
        )

    async def channels(self, params: models.ChannelsParams) -> models.ChannelsResult:
        if not params.limit:
            counts = await self._channels.channels(params.pattern)
            return models.ChannelsResult({name: models.ChannelInfo(count) for name, count in counts.items()})
        counts, error = await self._channels.reachable(params.pattern)
        by_clients = params.sort == "clients"
        after: tuple[int, str] | None = None
        if params.cursor:
            after = _read_place(params.cursor, tuple[str, tuple[int, str]], params.sort)
        places = ((-count if by_clients else 0, name) for name, count in counts.items())
        page, has_more = await _first(params.limit, (each for each in places if after is None or each > after))
        return models.ChannelsResult(
            {name: models.ChannelInfo(counts[name]) for _, name in page},
            _cursor((params.sort, page[-1])) if has_more else "",
            len(counts),
            error,
        )

    async def kept_channels(self, params: operator_models.KeptChannelsParams) -> operator_models.KeptChannelsResult:
        page = await self._kept.page(params.prefix, params.search, params.cursor, params.limit)
        return operator_models.KeptChannelsResult([_shown(each) for each in page.channels], page.cursor, page.error)


async def _first(limit: int, places: Iterator[tuple[int, str]]) -> tuple[list[tuple[int, str]], bool]:
    """Return the first places in order, and whether there are more. Other work has its turn in between."""
    found: list[tuple[int, str]] = []
    has_more = False
    while step := list(islice(places, STEP)):
        has_more = has_more or len(found) + len(step) > limit
        found = heapq.nsmallest(limit, [*found, *step])
        await asyncio.sleep(0)
    return found, has_more


def _shown(kept: KeptChannel) -> operator_models.KeptChannelInfo:
    latest = kept.latest
    shown = None
    if latest is not None:
        data = latest.data if len(latest.data) <= SHOWN_BYTES else msgspec.UNSET
        shown = operator_models.LatestPublication(latest.message_id, latest.sent_at, latest.sender or "", data)
    return operator_models.KeptChannelInfo(kept.channel, kept.position.offset, kept.position.epoch, shown)


def _cursor(place: object) -> str:
    """Return a place in a list as text for a client, to whom it means nothing."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def _read(cursor: str, kind: type[_T]) -> _T:
    """Return the place that a cursor stands for.

    Raises:
        BadCursor: no page has had it.
    """
    try:
        text = base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4))
        return msgspec.json.decode(text, type=kind)
    except (binascii.Error, ValueError, RecursionError):
        raise _bad_cursor(cursor) from None


def _read_place(cursor: str, kind: type[tuple[str, _T]], sort: str) -> _T:
    """Return the place that a cursor stands for in a list in the order `sort`. `kind`: of an order and a place.

    Raises:
        BadCursor: no page has had it.
        ApiError: it is of a list in another order.
    """
    of, place = _read(cursor, kind)
    if of != sort:
        raise ApiError(BAD_REQUEST, f"'cursor' is of a list by {of!r}, and 'sort' is {sort!r}")
    return place


def _bad_cursor(cursor: str) -> BadCursor:
    return BadCursor(f"no page has the cursor {cursor[:64]!r}")
