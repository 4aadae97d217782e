"""The methods of the server API that say what became of messages."""

from collections.abc import Mapping

from heliograph.api import models
from heliograph.api.errors import NOT_KNOWN, ApiError
from heliograph.clock import iso8601
from heliograph.cluster.receipts import ReceiptWriter, covers
from heliograph.cluster.trace_verdict import reached, verdict_of
from heliograph.cluster.tracer import MessageFacts, Story, Tracer
from heliograph.errors import NotKnown
from heliograph.ports import Receipt
from heliograph.protocol.identity import check_channel, check_user_id, personal_channel
from heliograph.protocol.position import Position
from heliograph.protocol.trace import NotesPage, ReplicaAccount, Selector, Sighting, TraceNote


class DeliveryReads:
    """Say what became of messages. Each method raises ApiError, or another HeliographError."""

    def __init__(self, receipts: ReceiptWriter, tracer: Tracer) -> None:
        self._receipts = receipts
        self._tracer = tracer

    async def receipts(self, params: models.ReceiptsParams) -> models.ReceiptsResult:
        user, channel, asked = check_user_id(params.user), params.channel, params.position
        if channel:
            check_channel(channel)
        elif asked is not None:
            channel = personal_channel(user)
        position = None if asked is None else Position(asked.epoch, asked.offset)
        shown = [_shown(each, position) for each in await self._receipts.of(user) if channel in ("", each.channel)]
        return models.ReceiptsResult(shown)

    async def trace(self, params: models.TraceParams) -> models.TraceResult:
        if params.channel:
            check_channel(params.channel)
        if params.user:
            check_user_id(params.user)
        if params.user and params.message_id and params.since is None:
            try:
                return _told(await self._tracer.story(params.user, params.message_id, params.channel))
            except NotKnown as error:
                raise ApiError(NOT_KNOWN, str(error)) from None
        selector = Selector(params.user, params.channel, params.connection, params.message_id)
        after = None if params.since is None else _positions_in(params.since)
        return _listed(await self._tracer.notes(selector, after, params.limit), after or {})


def _shown(receipt: Receipt, asked: Position | None) -> models.ReceiptInfo:
    return models.ReceiptInfo(
        channel=receipt.channel,
        epoch=receipt.position.epoch,
        offset=receipt.position.offset,
        at=iso8601(receipt.at),
        device=receipt.device,
        received=None if asked is None else covers(receipt, receipt.channel, asked),
    )


def _told(story: Story) -> models.TraceResult:
    """Return what became of a message."""
    connections = [
        models.TracedConnection(
            connection=each.connection,
            replica=replica,
            outcome=each.outcome,
            device=each.device,
            at=_time(each.at),
            caught_up=each.caught_up,
            ended_at=_time(each.ended_at),
            code=each.code,
        )
        for replica, account in story.accounts
        if not isinstance(account, str)
        for each in account.connections
    ]
    return models.TraceResult(
        replicas=[_replica(name, account) for name, account in story.accounts],
        entries=[_sighting(replica, each) for replica, each in story.facts.sightings],
        verdict=verdict_of(story),
        reached=reached(story),
        message=_message(story.facts),
        connections=connections,
        receipts=[_shown(each, story.facts.position) for each in story.receipts],
    )


def _listed(pages: Mapping[str, tuple[str, NotesPage | str]], after: Mapping[str, int]) -> models.TraceResult:
    """Return the notes of all replicas in the order of their times, and where to continue.

    `after`: where the last look ended. A replica that says nothing now continues there.
    """
    entries = [
        _entry(replica, note) for replica, page in pages.values() if not isinstance(page, str) for note in page.notes
    ]
    ends = {
        node_id: after.get(node_id) if isinstance(page, str) else page.up_to for node_id, (_, page) in pages.items()
    }
    return models.TraceResult(
        replicas=[_page(replica, page) for replica, page in pages.values()],
        entries=sorted(entries, key=lambda entry: entry.at),
        cursor=",".join(f"{node_id}:{end}" for node_id, end in ends.items() if end is not None),
    )


def _positions_in(cursor: str) -> dict[str, int]:
    return {
        node_id: int(number) for node_id, _, number in (each.partition(":") for each in cursor.split(",") if each)
    }


def _message(facts: MessageFacts) -> models.TracedMessage:
    position = facts.position or Position("", 0)
    return models.TracedMessage(
        message_id=facts.message_id,
        channel=facts.channel,
        is_kept=facts.is_kept,
        sender=facts.sender,
        origin=facts.origin,
        epoch=position.epoch,
        offset=position.offset,
        sent_at=_time(facts.sent_at),
    )


def _replica(name: str, account: ReplicaAccount | str) -> models.TracedReplica:
    if isinstance(account, str):
        return models.TracedReplica(name, error=account)
    return models.TracedReplica(
        name, _time(account.since), _time(account.delivered_at), account.repaired, _time(account.lost_at)
    )


def _page(name: str, page: NotesPage | str) -> models.TracedReplica:
    if isinstance(page, str):
        return models.TracedReplica(name, error=page)
    return models.TracedReplica(name, _time(page.since), left_out=page.left_out)


def _sighting(replica: str, each: Sighting) -> models.TraceEntry:
    position = each.position or Position("", 0)
    return models.TraceEntry(
        at=_time(each.at),
        replica=replica,
        event=each.what,
        channel=each.channel,
        message_id=each.message_id,
        user=each.sender,
        epoch=position.epoch,
        offset=position.offset,
        text=each.text,
    )


def _entry(replica: str, note: TraceNote) -> models.TraceEntry:
    return models.TraceEntry(
        at=_time(note.at),
        replica=replica,
        event=note.event,
        channel=note.channel,
        message_id=note.message_id,
        connection=note.connection,
        user=note.user,
        epoch=note.epoch,
        offset=note.offset,
        up_to=note.up_to,
        text=note.text,
    )


def _time(at: float | None) -> str:
    return "" if at is None else iso8601(at)
