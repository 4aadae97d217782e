"""The connections of all replicas, as operators see them: page by page, in any order.

Each replica looks through its own hub and returns the first connections behind a place in the order. The replica that
was asked merges the answers. So a page costs each replica one look at every connection, in steps that let messages
pass, and moves no more than `limit` of them. A replica that does not answer is named in the result.
"""

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Final

import msgspec

from heliograph.clock import Clock
from heliograph.cluster.questions import Questions, ReplicaAnswer
from heliograph.errors import BusUnavailable
from heliograph.hub.connection import Connection
from heliograph.hub.hub import Hub
from heliograph.protocol.connection_query import ConnectionInfo, ConnectionPage, ConnectionQuery, Place

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTIONS: Final = "connections"  # the topic of the question
STEP: Final = 256  # connections that are looked at in a row, in about 0.2 ms
DESCRIBED: Final = 10  # connections that are described in a row, with the names of their channels
MOST_CHANNELS: Final = 200  # names of channels that are told of one connection
# Names of channels in one answer: it goes over the bus, where Redis closes a replica that is far behind (32 MB).
MOST_NAMES_BYTES: Final = 262_144
# Of what presence says of one connection, for the same reason: what is longer is left out.
MOST_INFO_BYTES: Final = 2048

_encode = msgspec.json.encode
_read_query: Final = msgspec.json.Decoder(ConnectionQuery).decode
_read_page: Final = msgspec.json.Decoder(ConnectionPage).decode
_place: Final = itemgetter(0)
NO_PAGE: Final = ConnectionPage(0, 0, [])


@dataclass(frozen=True, slots=True)
class ReplicaMatches:
    """How one replica answered. `matched`: how many of its connections are meant; `error`: why it is not known."""

    name: str
    node_id: str
    matched: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class FoundConnections:
    """One page. `next`: the place after it, if there are more; `error`: why only this replica was asked.

    `unnamed`: how many of the connections are without the names of their channels, although these were asked for.
    """

    connections: list[ConnectionInfo]
    next: Place | None
    replicas: list[ReplicaMatches]
    error: str = ""
    unnamed: int = 0


class Connections:
    """Find connections on all replicas."""

    def __init__(self, questions: Questions, local: "LocalConnections") -> None:
        self._questions = questions
        self._local = local

    async def find(self, query: ConnectionQuery, replica: str = "") -> FoundConnections:
        """Return the first connections that are meant, over all replicas, or on those with the name `replica`."""
        question, error = msgspec.Raw(_encode(query)), ""
        try:
            answers = await self._questions.ask_all(CONNECTIONS, question, only=replica)
        except BusUnavailable as unavailable:
            answers, error = [await self._local.answer_itself(question)], str(unavailable)
        told = [_read_answer(answer) for answer in answers if not replica or answer.replica == replica]
        found = heapq.nsmallest(query.limit, (entry for _, page in told for entry in page.found), key=_place)
        left = sum(page.left for _, page in told)
        unnamed = (
            sum(1 for _, info in found if info.channels and not info.channel_names) if query.with_channels else 0
        )
        return FoundConnections(
            [info for _, info in found],
            found[-1][0] if found and left > len(found) else None,
            [matches for matches, _ in told],
            error,
            unnamed,
        )


def _read_answer(answer: ReplicaAnswer) -> tuple[ReplicaMatches, ConnectionPage]:
    """Return what a replica has answered; an empty page if it has not."""
    why = answer.why
    if answer.body is not None:
        try:
            page = _read_page(answer.body)
            return ReplicaMatches(answer.replica, answer.node_id, page.matched), page
        except msgspec.MsgspecError:
            why = "its answer cannot be read: it has another version"
    return ReplicaMatches(answer.replica, answer.node_id, 0, why), NO_PAGE


class LocalConnections:
    """Find connections of this replica, whose name is `name`."""

    def __init__(self, hub: Hub, clock: Clock, *, name: str, node_id: str) -> None:
        self._hub = hub
        self._name = name
        self._node_id = node_id
        # Fixed, so that a connection's place in the order of time is the same for every page.
        self._wall_time_offset = clock.now() - clock.monotonic()
        self._turn = asyncio.Lock()  # one look at a time: others wait, and messages do not

    async def answer(self, question: msgspec.Raw) -> msgspec.Raw:
        """Return a page for a query, both as JSON."""
        return msgspec.Raw(_encode(await self.look(_read_query(question))))

    async def answer_itself(self, question: msgspec.Raw) -> ReplicaAnswer:
        """Return the answer of this replica where no other can be asked."""
        return ReplicaAnswer(self._name, self._node_id, await self.answer(question))

    async def look(self, query: ConnectionQuery) -> ConnectionPage:
        """Return this replica's part."""
        async with self._turn:
            return await self._look(query)

    async def _look(self, query: ConnectionQuery) -> ConnectionPage:
        value_of = self._values(query.sort)
        conditions = _conditions(query)
        after, limit = query.after, query.limit
        matched = left = 0
        found: list[tuple[Place, Connection]] = []
        worst: Place | None = None  # what comes after it is on no account in the page
        candidates = self._candidates(query)
        while step := list(islice(candidates, STEP)):
            if conditions:
                step = [each for each in step if all(is_met(each) for is_met in conditions)]
            matched += len(step)
            for connection in step:
                place = (value_of(connection), connection.id)
                if after is not None and place <= after:
                    continue
                left += 1
                if worst is None or place < worst:
                    found.append((place, connection))
            if len(found) > 2 * limit:
                found = heapq.nsmallest(limit, found, key=_place)
                worst = found[-1][0]
            await asyncio.sleep(0)
        described: list[tuple[Place, ConnectionInfo]] = []
        names_bytes = 0
        for place, connection in heapq.nsmallest(limit, found, key=_place):
            info = self._describe(connection, query.with_channels and names_bytes < MOST_NAMES_BYTES)
            names_bytes += sum(len(name.encode()) for name in info.channel_names)
            described.append((place, info))
            if query.with_channels and len(described) % DESCRIBED == 0:
                await asyncio.sleep(0)
        return ConnectionPage(matched, left, described)

    def _candidates(self, query: ConnectionQuery) -> "Iterator[Connection]":
        """Iterate over connections among which are all that are meant. Who leaves meanwhile may be among them or not.

        Only names are copied at once: with 100,000 users that takes as long as a few steps.
        """
        if query.channel:
            yield from list(self._hub.subscribers(query.channel))
            return
        for user in [query.user] if query.user else list(self._hub.user_ids()):
            yield from self._hub.connections_of(user)

    def _values(self, sort: str) -> Callable[[Connection], float | str]:
        match sort:
            case "newest":
                offset = self._wall_time_offset
                return lambda each: -(each.since + offset)
            case "channels":
                return lambda each: -len(each.channels)
            case "sent":
                return lambda each: -each.sent
            case "received":
                return lambda each: -each.received
            case "outbox":
                return lambda each: -each.outbox.waiting_bytes
            case _:
                return attrgetter("user")

    def _describe(self, connection: Connection, with_channels: bool) -> ConnectionInfo:
        names: tuple[str, ...] = ()
        if with_channels:
            names = tuple(heapq.nsmallest(MOST_CHANNELS, connection.channels))
        info = connection.info or b"null"
        has_room = len(info) <= MOST_INFO_BYTES
        return ConnectionInfo(
            client=connection.id,
            user=connection.user,
            replica=self._name,
            node_id=self._node_id,
            transport=connection.transport,
            protocol=connection.protocol,
            connected_at=round(connection.since + self._wall_time_offset, 3),
            channels=len(connection.channels),
            sent=connection.sent,
            received=connection.received,
            outbox_bytes=connection.outbox.waiting_bytes,
            paused=connection.outbox.is_paused,
            info=msgspec.Raw(info if has_room else b"null"),
            channel_names=names,
            info_bytes=msgspec.UNSET if has_room else len(info),
        )


def _conditions(query: ConnectionQuery) -> list[Callable[[Connection], bool]]:
    """Return what a connection must meet to be meant by the query. None: all are meant."""
    conditions: list[Callable[[Connection], bool]] = []
    if query.client:
        conditions.append(lambda each: each.id == query.client)
    if query.user:
        conditions.append(lambda each: each.user == query.user)
    if query.channel:
        conditions.append(lambda each: query.channel in each.channels)
    if query.transport:
        conditions.append(lambda each: each.transport == query.transport)
    if query.search:
        search = query.search.casefold()
        conditions.append(lambda each: search in each.user.casefold() or each.id.startswith(search))
    return conditions
