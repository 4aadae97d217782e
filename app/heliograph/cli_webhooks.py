"""`heliograph webhooks …`: the lifecycle events that the receiver has not taken."""

import asyncio
import sys
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final, TypeVar

import click
import msgspec

from heliograph.backends.redis.event_feed import WEBHOOK_GROUP
from heliograph.backends.redis.keys import LIFECYCLE_STREAM
from heliograph.backends.redis.streams import ShardedStream, StreamEntry
from heliograph.clock import SystemClock
from heliograph.cluster.pubsub_manager import redis_servers
from heliograph.errors import BadSetting, BusUnavailable
from heliograph.protocol.lifecycle import LifecycleEvent
from heliograph.settings import Settings

PAGE: Final = 500

_T = TypeVar("_T")


@click.group()
def webhooks() -> None:
    """Look at lifecycle events that the receiver of webhooks has not taken, and send them again."""


@webhooks.command(short_help="List dead letters.")
@click.option("--count", default=100, show_default=True, type=click.IntRange(1), help="Most to list.")
def dead(count: int) -> None:
    """List the dead letters, the oldest first: one JSON object a line, with the reason and the id for `resend`."""
    for entry in _run(_read(_settings(), count)):
        click.echo(_described(entry))


@webhooks.command(short_help="Send dead letters again.")
@click.argument("ids", nargs=-1)
@click.option("--all", "is_all", is_flag=True, help="Send all of them, in order.")
def resend(ids: tuple[str, ...], is_all: bool) -> None:
    """Send the dead letters with these IDS (of `dead`) to HELIOGRAPH_WEBHOOKS__URL, and forget what it takes.

    \b
    heliograph webhooks resend 1764475200123-0
    heliograph webhooks resend --all
    """
    if bool(ids) == is_all:
        raise click.UsageError("expected IDS, or --all")
    settings = _settings()
    if settings.webhooks.url is None:
        raise click.ClickException("set HELIOGRAPH_WEBHOOKS__URL and …__SECRET: the dead letters are sent there")
    sent, problem = _run(_resend(settings, None if is_all else frozenset(ids)))
    click.echo(f"{sent} events sent")
    if problem is None and (others := len(set(ids)) - sent) > 0:
        raise click.ClickException(f"{others} of these ids are no dead letters of webhooks that can be sent")
    if problem is not None:
        raise click.ClickException(f"the receiver has not taken the next: {problem}")


async def _read(settings: Settings, count: int) -> list[StreamEntry]:
    found: list[StreamEntry] = []
    async for _, entries in _pages(settings):
        found += entries
        if len(found) >= count:
            break
    return found[:count]


async def _resend(settings: Settings, wanted: frozenset[str] | None) -> tuple[int, str | None]:
    """Send dead letters. Return how many were taken, and why the next one was not."""
    from heliograph.hooks.webhook_endpoint import WebhookEndpoint  # its HTTP client is slow to import

    endpoint, most, sent = WebhookEndpoint(settings.webhooks, SystemClock().now), settings.webhooks.batch, 0
    try:
        async for stream, entries in _pages(settings):
            chosen = {entry.id: _event(entry) for entry in entries if wanted is None or entry.id in wanted}
            readable = [(dead_id, event) for dead_id, event in chosen.items() if event is not None]
            while readable:
                batch = readable[:most]
                problem = await endpoint.post([event for _, event in batch])
                if problem is not None and problem.too_large and len(batch) > 1:
                    most = len(batch) // 2
                    continue
                if problem is not None:
                    return sent, problem.reason
                await stream.forget_dead_letters(*(dead_id for dead_id, _ in batch))
                sent += len(batch)
                readable = readable[most:]
    finally:
        await endpoint.close()
    return sent, None


async def _pages(settings: Settings) -> AsyncIterator[tuple[ShardedStream, list[StreamEntry]]]:
    """Yield the dead letters of webhooks, those of each server in order, and the stream that has them.

    The dead letters of consumers are left out: they are of other groups.
    """
    servers = redis_servers(settings.redis, settings.bus)
    if not servers:
        raise click.ClickException("set HELIOGRAPH_REDIS__URL or …__SHARDS: the events are kept in Redis")
    for server in servers:
        stream, after = ShardedStream(server.client, server.keys, LIFECYCLE_STREAM, shards=1), "-"
        try:
            while page := await stream.dead_letters(count=PAGE, after=after):
                after = page[-1].id
                yield stream, [entry for entry in page if entry.fields.get("dead_group") == WEBHOOK_GROUP.encode()]
        finally:
            await server.close()


def _event(entry: StreamEntry) -> LifecycleEvent | None:
    """Return the event of a dead letter, with the id that it had in the stream of events; None if it is no event."""
    try:
        return msgspec.structs.replace(LifecycleEvent.read(entry), id=entry["dead_id"])
    except (msgspec.ValidationError, UnicodeDecodeError):
        return None


def _described(entry: StreamEntry) -> str:
    fields = {name: value.decode(errors="replace") for name, value in entry.fields.items()}
    return msgspec.json.encode({**fields, "id": entry.id}).decode()


def _settings() -> Settings:
    try:
        return Settings.load()
    except BadSetting as error:
        click.echo(f"heliograph: {error}", err=True)
        sys.exit(2)


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    try:
        return asyncio.run(work)
    except BusUnavailable as error:
        raise click.ClickException(str(error)) from None
