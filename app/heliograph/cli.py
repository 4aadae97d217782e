"""`heliograph …`, which is `python -m heliograph …`."""

import asyncio
import json
import logging
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click
import msgspec

from heliograph.cli_deliveries import receipts, why
from heliograph.cli_webhooks import webhooks
from heliograph.client.output import drop_unwritten, open_missing, say
from heliograph.errors import BadChannel, BadSetting, BadUserId, HeliographError, InvalidToken
from heliograph.logs import configure_logging
from heliograph.loopback import is_loopback_host
from heliograph.protocol.channel_options import options_table
from heliograph.settings import Settings, settings_table, unknown_variables

PORT = click.IntRange(1, 65535)
DRAIN_MARGIN_S = 5.0  # how long a replica may take after its drain deadline before it is killed

if TYPE_CHECKING:
    from heliograph.client.publisher import Publisher

logger = logging.getLogger(__name__)

_redis_url = click.option(
    "--redis",
    metavar="URL",
    help="URL of Redis, or those of its shards with commas between them; default: HELIOGRAPH_REDIS__URL or "
    "…__SHARDS. (If one holds a password, use the variable.)",
)
_open = click.option(
    "--open",
    "is_open",
    is_flag=True,
    help="Anyone who can connect may be any user (HELIOGRAPH_AUTH__MODE=open); for development.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="heliograph")
def main() -> None:
    """A horizontally scaled WebSocket cluster. Settings are HELIOGRAPH_… variables: docs/operations.md."""
    open_missing()


main.add_command(webhooks)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8081, show_default=True, type=PORT, help="Port to listen on.")
@click.option("--name", default="replica-1", show_default=True, help="Name of this replica.")
@click.option("--reload", is_flag=True, help="Restart when the code changes (for development).")
@_open
def serve(host: str, port: int, name: str, reload: bool, is_open: bool) -> None:
    """Run one replica. Without HELIOGRAPH_REDIS__URL it works in memory, and needs no other program."""
    _open_if(is_open)
    if reload:
        _serve_and_reload(host, port, name)
        return
    loaded = _load_settings()
    _refuse_open_mode_elsewhere(loaded, host)
    configure_logging(loaded.log.level, loaded.log.format, replica=name)
    for variable in unknown_variables():
        logger.warning("unknown setting %s ignored; `heliograph settings` lists all settings", variable)
    from heliograph.server.serving import serve as run  # after the settings were checked: uvicorn is slow to import

    try:
        sys.exit(run(loaded, name=name, host=host, port=port))
    except BadSetting as error:
        _refuse(error)


@main.command()
@click.option("--replicas", default=3, show_default=True, type=click.IntRange(1, 64), help="Number of replicas.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address that nginx listens on.")
@click.option(
    "--port", default=8080, show_default=True, type=PORT, envvar="HELIOGRAPH_PORT", help="Port nginx listens on."
)
@click.option(
    "--connections-per-address",
    default=1000,
    show_default=True,
    type=click.IntRange(0),
    help="How many connections nginx accepts from one address at a time (0: no limit).",
)
@click.option(
    "--sentinel",
    is_flag=True,
    help="Redis as a master with a replica and three Sentinels: kill the master, and watch.",
)
@click.option(
    "--redis-cluster",
    is_flag=True,
    help="Redis as a cluster, three masters with a replica each: move slots, kill a master, and watch.",
)
@click.option(
    "--shards",
    default=1,
    show_default=True,
    type=click.IntRange(1, 16),
    help="Number of Redis servers over which users and channels are spread.",
)
@_open
def up(
    replicas: int,
    host: str,
    port: int,
    connections_per_address: int,
    sentinel: bool,
    redis_cluster: bool,
    shards: int,
    is_open: bool,
) -> None:
    """Run a whole cluster on this machine: Redis, replicas and nginx (or Valkey and Caddy of the extra `local`)."""
    _open_if(is_open)
    loaded = _load_settings()
    _refuse_open_mode_elsewhere(loaded, host)
    from heliograph.local_cluster import LocalCluster, LocalClusterOptions
    from heliograph.local_cluster.machine import find_nginx

    options = LocalClusterOptions(
        edge="caddy" if find_nginx() is None else "nginx",
        replicas=replicas,
        host=host,
        port=port,
        redis_urls=loaded.redis.urls,
        shards=shards,
        sentinel=sentinel,
        redis_cluster=redis_cluster,
        console=loaded.console_enabled,
        connections_per_address=connections_per_address,
        replicas_stop_within_s=loaded.drain.deadline_s + DRAIN_MARGIN_S,
    )
    sys.exit(asyncio.run(LocalCluster(options).run()))


@main.command()
@click.argument("user")
@click.option("--expires-in", default=3600, show_default=True, help="Seconds until the token expires.")
@click.option(
    "--channels",
    metavar="CHANNELS",
    help="Rights beyond the namespaces: news,run:* (to subscribe) or JSON, see docs/protocol.md.",
)
@click.option("--for-channel", metavar="CHANNEL", help="Print a subscription token, for this channel alone.")
def token(user: str, expires_in: int, channels: str | None, for_channel: str | None) -> None:
    """Print a token for USER, signed with HELIOGRAPH_AUTH__SECRET.

    \b
    heliograph token alice --channels 'news,run:*'
    heliograph token alice --channels '{"chat:*": ["subscribe", "publish"]}'
    heliograph token alice --for-channel vip:1
    """
    if channels is not None and for_channel is not None:
        raise click.UsageError("a token for one channel has no --channels: print one or the other")
    auth = _load_settings().auth
    if not auth.key():
        raise click.ClickException("set HELIOGRAPH_AUTH__SECRET (or …_FILE): a token is signed with it")
    from heliograph.client.tokens import TokenMaker

    claim = None if channels is None else _channels(channels)
    try:
        maker = TokenMaker(auth.key(), life_s=expires_in, audience=auth.audience, issuer=auth.issuer)
        made = maker.make(user, claim) if for_channel is None else maker.make_for_channel(user, for_channel)
        click.echo(made)
    except (BadChannel, BadSetting, BadUserId, InvalidToken) as error:
        raise click.ClickException(str(error)) from None


def _channels(written: str) -> object:
    if written.lstrip()[:1] not in ("[", "{"):
        return [channel.strip() for channel in written.split(",")]
    try:
        claim: object = json.loads(written)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--channels is not valid JSON: {error}") from None
    return claim


@main.command(short_help="Print every setting with its default and meaning.")
def settings() -> None:
    """Print every HELIOGRAPH_… variable, and every option of a namespace, with its default and meaning.

    Two Markdown tables.
    """
    click.echo(f"{settings_table()}\n\n{options_table()}")


@main.command(short_help="Print the AsyncAPI document of the socket.")
def asyncapi() -> None:
    """Print the AsyncAPI 3 document of the socket (docs/asyncapi.json)."""
    from heliograph.codecs.plain.asyncapi import document

    click.echo(json.dumps(document(metadata.version("heliograph")), indent=2, ensure_ascii=False))


@main.command(short_help="Show which shard each Redis is, and change that.")
@click.option("--adopt", is_flag=True, help="Write down that each Redis is what the settings say, for a new list.")
@_redis_url
def shards(adopt: bool, redis: str | None) -> None:
    """Show which shard of the cluster each Redis keeps that it is, beside what it is by the settings.

    \b
    A Redis keeps which shard it is, and replicas and publishers that take it for another one are refused. To change
    HELIOGRAPH_REDIS__SHARDS (or to go from one Redis to several, or back):
      1. stop all replicas and publishers;
      2. heliograph shards --adopt    with the new settings;
      3. start them with the new settings.
    Channels that now belong to another Redis begin anew there: their history stays behind, and clients are told.
    The exit code is 1 if a Redis is another shard, or cannot be reached.
    """
    from heliograph.client.shard_list import ShardList

    try:
        listed = ShardList(redis)
    except BadSetting as error:
        _refuse(error)
    if adopt:
        try:
            listed.adopt()
        except HeliographError as error:
            raise click.ClickException(str(error)) from None
    rows = listed.rows()
    for row in rows:
        click.echo(f"{row.url}  {row.expected}: {row.found}")
    sys.exit(0 if all(row.is_good for row in rows) else 1)


@main.command(short_help="Publish one message.")
@click.argument("words", nargs=-1, required=True, metavar="CHANNEL DATA")
@click.option("--user", help="Publish to this user; then give DATA only.")
@click.option("--text", is_flag=True, help="Publish DATA as text, even if it looks like JSON.")
@click.option("--idempotency-key", help="Publish only once with this key (within five minutes).")
@click.option("--wait", default=5.0, show_default=True, type=click.FloatRange(0, 240), help="Seconds to retry for.")
@_redis_url
def publish(
    words: tuple[str, ...], user: str | None, text: bool, idempotency_key: str | None, wait: float, redis: str | None
) -> None:
    """Publish DATA (JSON, or else text; `-`: standard input) on CHANNEL, and print its cursor.

    \b
    heliograph publish news '{"text": "hello"}'
    heliograph publish --user bob hello
    heliograph publish run:42 '{"state": "RUNNING", "progress": 40}'
    """
    if len(words) != (1 if user is not None else 2):
        raise click.UsageError("expected DATA beside --user" if user is not None else "expected CHANNEL and DATA")
    written = words[-1]
    if written == "-":
        written = _standard_input()
    data = written if text else _json_or_text(written)
    with _publisher(redis, deadline_s=wait) as publisher:
        try:
            if user is not None:
                published = publisher.send_to_user(user, data, idempotency_key)
            else:
                published = publisher.publish(words[0], data, idempotency_key)
        except HeliographError as error:
            raise click.ClickException(str(error)) from None
    if published.cursor:
        try:
            click.echo(published.cursor)
        except OSError as error:  # it is published: after an error the caller would publish it again
            say(f"published at {published.cursor}, but standard output takes nothing: {error.strerror}")
            drop_unwritten()


@main.command(short_help="Run a command and publish each line of it at once.")
@click.argument("channel")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--quiet", "-q", is_flag=True, help="Publish only; do not show the output here.")
@click.option("--plain", is_flag=True, help="Publish without colours and other control sequences.")
@click.option("--no-pty", is_flag=True, help="Give the command a pipe instead of a terminal.")
@click.option("--buffer", default=50_000, show_default=True, type=click.IntRange(1), help="Lines kept for Redis.")
@click.option(
    "--wait",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Give up after this many seconds without success.",
)
@_redis_url
def pipe(
    channel: str,
    command: tuple[str, ...],
    quiet: bool,
    plain: bool,
    no_pty: bool,
    buffer: int,
    wait: float,
    redis: str | None,
) -> None:
    """Run COMMAND (or read standard input) and publish each line on CHANNEL at once.

    \b
    heliograph pipe logs:101 -- ansible-playbook site.yml
    heliograph pipe run:42 -- make release
    journalctl -fu nginx | heliograph pipe logs:nginx

    Lines are {"line", "stream"}. The exit code is passed on, and published as {"exit_code", "stream": "exit"}. On a
    run's channel the lines are its log, and the run ends as END or FAILED.
    """
    from heliograph.client.pipe import Pipe, PipeOptions
    from heliograph.protocol.identity import check_channel

    try:
        check_channel(channel)
    except HeliographError as error:
        raise click.UsageError(str(error)) from None
    options = PipeOptions(
        channel,
        command=command,
        quiet=quiet,
        plain=plain,
        terminal=not no_pty,
        most_waiting=buffer,
        patience_s=wait,
    )
    publisher = _publisher(redis, deadline_s=0)  # the feed retries by itself
    try:
        code = Pipe(options, lambda data, key: publisher.publish(channel, data, key)).run()
    finally:
        publisher.close()
        drop_unwritten()
    sys.exit(code)


@main.command(short_help="Watch a channel, a log or a run live.")
@click.argument("channel")
@click.option(
    "--url",
    envvar="HELIOGRAPH_URL",
    help="URL of the cluster's /ws; default: the cluster on this machine.",
)
@click.option(
    "--port", default=8080, show_default=True, type=PORT, envvar="HELIOGRAPH_PORT", help="Port of that cluster."
)
@click.option("--user", help="User id of the viewer (in open mode).")
@click.option("--token", envvar="HELIOGRAPH_TOKEN", help="Token of the viewer (in jwt mode); prefer the variable.")
@click.option("--replay", is_flag=True, help="Start with everything that is kept; a log always does.")
@click.option("--json", "as_json", is_flag=True, help="Print whole frames, one a line.")
@click.option("--raw", is_flag=True, help="Let all control sequences through to the terminal, not only colours.")
def watch(
    channel: str,
    url: str | None,
    port: int,
    user: str | None,
    token: str | None,
    replay: bool,
    as_json: bool,
    raw: bool,
) -> None:
    """Watch CHANNEL live, until Ctrl-C or the end of the run (exit code 1 if it FAILED).

    \b
    heliograph watch logs:101
    heliograph watch run:42
    """
    from heliograph.client.watch import INTERRUPTED, REFUSED, Watch, WatchFailed, WatchOptions

    url = url or f"ws://localhost:{port}/ws"
    options = WatchOptions(channel, url, user, token, replay=replay, as_json=as_json, raw=raw)
    try:
        sys.exit(asyncio.run(Watch(options).run()))
    except WatchFailed as error:
        say(str(error))
        sys.exit(REFUSED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


main.add_command(why)
main.add_command(receipts)


def _publisher(redis: str | None, deadline_s: float) -> "Publisher":
    from heliograph.client.publisher import Publisher

    try:
        return Publisher(redis, deadline_s=deadline_s)
    except BadSetting as error:
        _refuse(error)


def _standard_input() -> str:
    if sys.stdin is None:
        return ""
    try:
        return sys.stdin.buffer.read().decode("utf-8", errors="replace").removesuffix("\n")
    except OSError as error:
        raise click.ClickException(f"cannot read standard input: {error.strerror}") from None


def _json_or_text(written: str) -> object:
    try:
        json.loads(written)
        return msgspec.Raw(written.encode())
    except (ValueError, RecursionError):  # or it holds bytes that are not UTF-8
        return written


def _open_if(is_open: bool) -> None:
    """Set the variable, so that the replicas of `up`, and the process that `--reload` starts, read it too."""
    if is_open:
        os.environ["HELIOGRAPH_AUTH__MODE"] = "open"


def _load_settings() -> Settings:
    try:
        return Settings.load()
    except BadSetting as error:
        _refuse(error)


def _refuse_open_mode_elsewhere(settings: Settings, host: str) -> None:
    if settings.auth.mode == "open" and not settings.auth.open_to_network and not is_loopback_host(host.lower()):
        _refuse(
            BadSetting(
                f"HELIOGRAPH_AUTH__MODE open on {host}: anyone who reaches that address may be any user. Listen on "
                "127.0.0.1, or use MODE jwt, or set HELIOGRAPH_AUTH__OPEN_TO_NETWORK=true if that is meant"
            )
        )


def _refuse(error: BadSetting) -> NoReturn:
    click.echo(f"heliograph: {error}", err=True)
    sys.exit(2)


def _serve_and_reload(host: str, port: int, name: str) -> None:
    try:
        import watchfiles
    except ImportError:
        raise click.ClickException("--reload needs the package watchfiles: pip install watchfiles") from None
    command = [sys.executable, "-m", "heliograph", "serve", "--host", host, "--port", str(port), "--name", name]
    os.environ.setdefault("HELIOGRAPH_WATCHDOG_S", "0")  # a breakpoint also looks like a frozen replica
    watchfiles.run_process(Path(__file__).parent, target=" ".join(command), target_type="command")
