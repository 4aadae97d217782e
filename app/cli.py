"""`heliograph …`, which is `python -m app …`."""

import asyncio
import sys
import time
from pathlib import Path

import click

from app.errors import BadSetting, BadUserId
from app.settings import Settings
from app.telemetry import configure_logging


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="heliograph")
def main() -> None:
    """A horizontally scaled WebSocket cluster. Settings are HELIOGRAPH_… variables: docs/operations.md."""


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8081, show_default=True, help="Port to listen on.")
@click.option("--name", default="replica-1", show_default=True, help="What this replica is called.")
@click.option("--reload", is_flag=True, help="Start anew when the code changes (for development).")
def serve(host: str, port: int, name: str, reload: bool) -> None:
    """Run one replica."""
    if reload:
        _serve_and_reload(host, port, name)
        return
    settings = _load_settings()
    configure_logging(settings.log.level)
    from app.server import serve as run  # not before the settings are good: uvicorn takes a while to import

    sys.exit(run(settings, name=name, host=host, port=port))


@main.command()
@click.option("--replicas", default=3, show_default=True, type=click.IntRange(1, 64), help="How many.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address nginx listens on.")
@click.option("--port", default=8080, show_default=True, envvar="HELIOGRAPH_PORT", help="Port nginx listens on.")
def up(replicas: int, host: str, port: int) -> None:
    """Run a whole cluster on this machine: Redis, replicas and nginx."""
    settings = _load_settings()
    from app.local_cluster import LocalCluster, LocalClusterOptions

    options = LocalClusterOptions(replicas=replicas, host=host, port=port, redis_url=settings.redis.url)
    sys.exit(asyncio.run(LocalCluster(options).run()))


@main.command()
@click.argument("user")
@click.option("--expires-in", default=3600, show_default=True, help="Seconds for which the token is good.")
def token(user: str, expires_in: int) -> None:
    """Print a token for USER, signed with HELIOGRAPH_AUTH__SECRET."""
    settings = _load_settings()
    key = settings.auth.key()
    if not key:
        raise click.ClickException("set HELIOGRAPH_AUTH__SECRET (or …_FILE): a token is signed with it")
    from app.transports.auth import make_token

    try:
        click.echo(make_token(key, user, int(time.time()) + expires_in))
    except BadUserId as error:
        raise click.ClickException(str(error)) from None


def _load_settings() -> Settings:
    try:
        return Settings.load()
    except BadSetting as error:
        click.echo(f"heliograph: {error}", err=True)
        sys.exit(2)


def _serve_and_reload(host: str, port: int, name: str) -> None:
    try:
        import watchfiles
    except ImportError:
        raise click.ClickException("--reload needs the development dependencies: pip install '.[dev]'") from None
    command = [sys.executable, "-m", "app", "serve", "--host", host, "--port", str(port), "--name", name]
    watchfiles.run_process(Path(__file__).parent, target=" ".join(command), target_type="command")
