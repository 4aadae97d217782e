"""`heliograph …`, which is `python -m app …`."""

import asyncio
import logging
import sys
import time
from pathlib import Path
from typing import NoReturn

import click

from app.errors import BadSetting, BadUserId
from app.settings import Settings, settings_table, unknown_variables
from app.telemetry import configure_logging

PORT = click.IntRange(1, 65535)
DRAIN_MARGIN_S = 5.0  # what a replica may take beyond its drain before it is killed

logger = logging.getLogger("heliograph.cli")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="heliograph")
def main() -> None:
    """A horizontally scaled WebSocket cluster. Settings are HELIOGRAPH_… variables: docs/operations.md."""


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8081, show_default=True, type=PORT, help="Port to listen on.")
@click.option("--name", default="replica-1", show_default=True, help="What this replica is called.")
@click.option("--reload", is_flag=True, help="Start anew when the code changes (for development).")
def serve(host: str, port: int, name: str, reload: bool) -> None:
    """Run one replica."""
    if reload:
        _serve_and_reload(host, port, name)
        return
    loaded = _load_settings()
    configure_logging(loaded.log.level)
    for variable in unknown_variables():
        logger.warning("%s is no setting and is ignored (see `heliograph settings`)", variable)
    from app.server import serve as run  # not before the settings are good: uvicorn takes a while to import

    try:
        sys.exit(run(loaded, name=name, host=host, port=port))
    except BadSetting as error:
        _refuse(error)


@main.command()
@click.option("--replicas", default=3, show_default=True, type=click.IntRange(1, 64), help="How many.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address nginx listens on.")
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
def up(replicas: int, host: str, port: int, connections_per_address: int) -> None:
    """Run a whole cluster on this machine: Redis, replicas and nginx."""
    loaded = _load_settings()
    from app.local_cluster import LocalCluster, LocalClusterOptions

    options = LocalClusterOptions(
        replicas=replicas,
        host=host,
        port=port,
        redis_url=loaded.redis.url,
        connections_per_address=connections_per_address,
        replicas_stop_within_s=loaded.drain.deadline_s + DRAIN_MARGIN_S,
    )
    sys.exit(asyncio.run(LocalCluster(options).run()))


@main.command()
@click.argument("user")
@click.option("--expires-in", default=3600, show_default=True, help="Seconds for which the token is good.")
def token(user: str, expires_in: int) -> None:
    """Print a token for USER, signed with HELIOGRAPH_AUTH__SECRET."""
    key = _load_settings().auth.key()
    if not key:
        raise click.ClickException("set HELIOGRAPH_AUTH__SECRET (or …_FILE): a token is signed with it")
    from app.transports.auth import make_token

    try:
        click.echo(make_token(key, user, int(time.time()) + expires_in))
    except BadUserId as error:
        raise click.ClickException(str(error)) from None


@main.command()
def settings() -> None:
    """Print every HELIOGRAPH_… variable with its default and meaning (a Markdown table)."""
    click.echo(settings_table())


def _load_settings() -> Settings:
    try:
        return Settings.load()
    except BadSetting as error:
        _refuse(error)


def _refuse(error: BadSetting) -> NoReturn:
    click.echo(f"heliograph: {error}", err=True)
    sys.exit(2)


def _serve_and_reload(host: str, port: int, name: str) -> None:
    try:
        import watchfiles
    except ImportError:
        raise click.ClickException("--reload needs the development dependencies: pip install '.[dev]'") from None
    command = [sys.executable, "-m", "app", "serve", "--host", host, "--port", str(port), "--name", name]
    watchfiles.run_process(Path(__file__).parent, target=" ".join(command), target_type="command")
